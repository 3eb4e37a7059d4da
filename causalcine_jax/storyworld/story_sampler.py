"""Draws a story (cast, shots, layout of each place) from (seed, index) alone.

Every story has its own Philox stream, keyed by SeedSequence([seed, index]).
Any story can therefore be drawn without the others, on any machine.
Most stories must hold a return: a character seen again after more than the window.
Its kind is decided first; plans of who appears when are then redrawn until one holds it.
"""

import dataclasses
import itertools

import numpy as np

from causalcine_jax.clock import CHUNK_FRAMES
from causalcine_jax.errors import UsageError
from causalcine_jax.storyworld import grammar
from causalcine_jax.storyworld.places import PlaceLayout
from causalcine_jax.storyworld.story import (
    Character,
    Return,
    WorldShot,
    WorldStory,
    returns,
    returns_of_plan,
)
from causalcine_jax.storyworld.world import (
    ACCESSORIES,
    ACTIONS,
    CAMERAS,
    COLOURS,
    EMPTY,
    MAX_CAST,
    MAX_ON_SCREEN,
    NAMES,
    PLACES,
    SIZES,
    SPECIES,
    TIMES,
    WorldConfig,
)

__all__ = ["Character", "Return", "WorldShot", "WorldStory", "retold", "returns", "sample_story"]

UNTOLD = 1 / 3  # stories in which no caption names an attribute
TRIES = 10_000  # a valid plan usually takes a few dozen
PLANS = {"late": 0.52, "early": 0.32, "free": 0.16}  # which return a story must hold


def sample_story(seed: int, index: int, world: WorldConfig) -> WorldStory:
    """Returns story `index` of the endless collection `seed`; both are at least 0."""
    if seed < 0 or index < 0:
        raise UsageError(f"seed and index of a story must not be negative, got {seed} and {index}")
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
    cast = _sample_cast(rng)
    told = bool(rng.random() >= UNTOLD)
    acts = [_plan(rng, len(cast), world) for _ in range(world.acts)]
    lengths, casting = (list(itertools.chain(*parts)) for parts in zip(*acts, strict=True))
    shots, start, place = [], 0, None
    for length, who in zip(lengths, casting, strict=True):
        shot = _sample_shot(rng, start, length, who, place)
        shots.append(shot)
        start, place = shot.end_chunk, shot.place
    layouts = {
        name: PlaceLayout(
            shift=float(rng.uniform(-0.12, 0.12)), mirror=float(rng.choice([-1.0, 1.0]))
        )
        for name in PLACES
    }
    global_caption, captions = grammar.write(rng, cast, shots, told)
    captioned = tuple(
        dataclasses.replace(shot, caption=caption)
        for shot, caption in zip(shots, captions, strict=True)
    )
    return WorldStory(seed, index, world, cast, told, captioned, layouts, global_caption)


def retold(story: WorldStory, rng: np.random.Generator) -> WorldStory:
    """Returns the same film in other words: other names and phrases, looks told or not.

    No pixel changes.
    """
    names = rng.permutation(len(NAMES))[: len(story.cast)]
    cast = tuple(
        dataclasses.replace(character, name=NAMES[n])
        for character, n in zip(story.cast, names, strict=True)
    )
    told = bool(rng.random() >= UNTOLD)
    global_caption, captions = grammar.write(rng, cast, story.shots, told)
    shots = tuple(
        dataclasses.replace(shot, caption=caption)
        for shot, caption in zip(story.shots, captions, strict=True)
    )
    return dataclasses.replace(
        story, cast=cast, told=told, shots=shots, global_caption=global_caption
    )


def _sample_cast(rng: np.random.Generator) -> tuple[Character, ...]:
    count = MAX_CAST - 1 + int(rng.random() < 0.4)
    names = rng.permutation(len(NAMES))[:count]
    species = rng.permutation(len(SPECIES))[:count]
    return tuple(
        Character(
            NAMES[n],
            SPECIES[s],
            grammar.pick(rng, tuple(COLOURS)),
            grammar.pick(rng, tuple(ACCESSORIES)),
        )
        for n, s in zip(names, species, strict=True)
    )


def _plan(
    rng: np.random.Generator, characters: int, world: WorldConfig
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Returns the length in chunks and the cast of each shot of an act.

    Draws the kind of return first.
    """
    if world.max_shots == 1:
        return [world.act_chunks], [_who(rng, characters, world)]
    kind = list(PLANS)[
        int(
            np.searchsorted(np.cumsum(list(PLANS.values())), rng.random(), side="right").clip(
                0, len(PLANS) - 1
            )
        )
    ]
    for _ in range(TRIES):
        lengths = _lengths(rng, world)
        casting = [_who(rng, characters, world) for _ in lengths]
        if len({who for shot in casting for who in shot}) < characters:
            continue
        starts = np.cumsum([0, *lengths[:-1]])
        found = returns_of_plan(
            list(zip(starts.tolist(), lengths, casting, strict=True)), world.window_chunks
        )
        late = [r.first_seen_frame >= world.late_chunk * CHUNK_FRAMES for r in found]
        if (
            kind == "free"
            or (kind == "late" and found and all(late))
            or (kind == "early" and found and not any(late))
        ):
            return lengths, casting
    raise UsageError(
        f"no story of this world can bring a character back after {world.window_chunks} chunks "
        f"of absence: make {world} longer"
    )


def _lengths(rng: np.random.Generator, world: WorldConfig) -> list[int]:
    """Draws shot lengths, all within bounds, that fill an act."""
    for _ in range(TRIES):
        shots = int(rng.integers(world.min_shots, world.max_shots + 1))
        cuts = np.sort(rng.permutation(world.act_chunks - 1)[: shots - 1] + 1)
        lengths = np.diff(np.concatenate([[0], cuts, [world.act_chunks]]))
        if lengths.min() >= world.min_shot_chunks and lengths.max() <= world.max_shot_chunks:
            return [int(n) for n in lengths]
    raise UsageError(f"no shot lengths fill a film of this world: {world}")


def _who(rng: np.random.Generator, characters: int, world: WorldConfig) -> tuple[int, ...]:
    dice = rng.random()
    count = 0 if dice < EMPTY else MAX_ON_SCREEN if dice < EMPTY + world.pairs else 1
    return tuple(int(c) for c in rng.permutation(characters)[:count])


def _sample_shot(
    rng: np.random.Generator,
    start: int,
    length: int,
    who: tuple[int, ...],
    previous_place: str | None,
) -> WorldShot:
    place = grammar.pick(rng, [p for p in PLACES if p != previous_place])
    size = "wide" if not who else grammar.pick(rng, SIZES[:2] if len(who) == 2 else SIZES)
    return WorldShot(
        start,
        length,
        who,
        tuple(grammar.pick(rng, ACTIONS) for _ in who),
        place,
        grammar.pick(rng, TIMES),
        size,
        grammar.pick(rng, CAMERAS),
        facing=float(rng.choice([-1.0, 1.0])),
        offset=float(rng.uniform(-0.22, 0.22)),
    )
