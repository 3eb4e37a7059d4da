"""StoryWorld's stories: deterministic, balanced, and with returns after long absences."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.errors import UsageError
from causalcine_jax.storyworld import (
    ACCESSORIES,
    COLOURS,
    NAMES,
    PLACES,
    SPECIES,
    WorldConfig,
    returns,
    sample_story,
)

GOLDEN_PROMPT = (
    "Gus the elephant, Bruno the frog and Theo the owl in a gentle film. "
    "In bright daylight, in the snowy mountains, Theo the owl peers around. "
    "Close-up. The camera pulls out. Theo is blue with a scarf."
)
WORLDS = {
    "base": WorldConfig.base(),
    "montage": WorldConfig.montage(),
    "storyworld": WorldConfig.storyworld(),
}


def cast_per_chunk(story) -> np.ndarray:
    """Returns bool [chunks, characters]: whether a chunk shows a character."""
    seen = np.zeros((story.world.chunks, len(story.cast)), bool)
    for shot in story.shots:
        seen[shot.start_chunk : shot.end_chunk, list(shot.cast)] = True
    return seen


@pytest.fixture(scope="module", params=WORLDS)
def stories(request):
    return [sample_story(11, i, WORLDS[request.param]) for i in range(600)]


def test_sizes_of_the_two_worlds():
    base, big = WORLDS["base"], WORLDS["storyworld"]
    assert (base.height, base.width, base.frames, base.chunks) == (48, 80, 117, 10)
    assert (big.height, big.width, big.frames, big.chunks) == (96, 160, 237, 20)


def test_an_impossible_world_names_every_fault():
    with pytest.raises(UsageError, match=r"5:3.*latent_frames.*cannot always fill"):
        WorldConfig(
            50, 80, 31, min_shots=1, max_shots=2, min_shot_chunks=1, max_shot_chunks=3, late_chunk=2
        )


def test_a_story_depends_on_seed_and_index_alone():
    world = WORLDS["base"]
    forward = [sample_story(3, i, world) for i in range(6)]
    backward = [sample_story(3, i, world) for i in reversed(range(6))][::-1]
    assert forward == backward
    assert len({story.prompts() for story in forward}) == 6
    assert sample_story(4, 0, world) != forward[0]
    with pytest.raises(UsageError, match="negative"):
        sample_story(0, -1, world)


def test_a_story_is_the_same_in_another_process_with_another_hash_seed():
    code = (
        "from causalcine_jax.storyworld import *; "
        "print(sample_story(5, 123456, WorldConfig.storyworld()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "7", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert out.stdout.strip() == str(sample_story(5, 123456, WORLDS["storyworld"]))


def test_a_known_story_does_not_drift():
    """Stored latents and reported numbers name stories by (seed, index): these must not drift."""
    story = sample_story(0, 0, WORLDS["base"])
    assert story.prompts()[0] == GOLDEN_PROMPT


def test_shots_fill_the_film_on_chunk_boundaries(stories):
    world = stories[0].world
    for story in stories:
        assert world.min_shots <= len(story.shots) <= world.max_shots
        assert [s.start_chunk for s in story.shots[1:]] + [world.chunks] == [
            s.end_chunk for s in story.shots
        ]
        assert all(world.min_shot_chunks <= s.chunks <= world.max_shot_chunks for s in story.shots)
        assert story.shots[-1].frames.stop == world.frames
        assert all(a.place != b.place for a, b in zip(story.shots, story.shots[1:], strict=False))
    assert [first_frame_of_chunk(c) for c in range(4)] == [0, 9, 21, 33]


def test_casts(stories):
    for story in stories:
        assert len(story.cast) in (2, 3)
        assert (
            len({c.name for c in story.cast})
            == len({c.species for c in story.cast})
            == len(story.cast)
        )
        assert cast_per_chunk(story).any(0).all(), "everybody of the cast is in the film"
    alone = np.mean([len(shot.cast) == 1 for story in stories for shot in story.shots])
    pairs = np.mean([len(shot.cast) == 2 for story in stories for shot in story.shots])
    assert alone > (0.6 if stories[0].world.pairs < 0.2 else 0.5)
    low, high = {0.12: (0.1, 0.2), 0.45: (0.35, 0.4)}[stories[0].world.pairs]
    assert low < pairs < high, (
        "plans are drawn until one holds its return, which changes the fraction of pairs"
    )


def test_returns_follow_their_definition(stories):
    for story in stories:
        seen = cast_per_chunk(story)
        expected = []
        for chunk in range(1, len(seen)):
            for character in np.flatnonzero(seen[chunk] & ~seen[chunk - 1]):
                before = np.flatnonzero(seen[:chunk, character])
                if len(before) and before[-1] < chunk - 3:
                    expected.append((character, chunk, before[-1], 3 * before[0]))
        found = [
            (r.character, r.chunk, r.last_seen_chunk, r.first_seen_frame) for r in returns(story)
        ]
        assert sorted(found) == sorted(expected)
        assert all(story.shots[r.shot].start_chunk == r.chunk for r in returns(story))


def test_most_stories_bring_somebody_back_and_half_of_those_appeared_late(stories):
    late_frame = {10: 4, 20: 8}[stories[0].world.chunks]
    assert np.mean([bool(returns(story)) for story in stories]) > 0.8
    first_seen = [
        frame
        for story in stories
        for frame in {r.character: r.first_seen_frame for r in returns(story)}.values()
    ]
    assert np.mean(np.array(first_seen) > late_frame) >= 0.5


def chi_square_per_freedom(rows, columns) -> float:
    """Returns Pearson's statistic of a contingency table over its degrees of freedom.

    It is about 1 when rows and columns are independent.
    """
    table = np.zeros((max(rows) + 1, max(columns) + 1))
    np.add.at(table, (rows, columns), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    return float(
        ((table - expected) ** 2 / expected).sum() / ((table.shape[0] - 1) * (table.shape[1] - 1))
    )


def test_attributes_are_independent_of_all_else(stories):
    rows = [
        (
            list(COLOURS).index(c.colour),
            list(ACCESSORIES).index(c.accessory),
            NAMES.index(c.name),
            SPECIES.index(c.species),
            PLACES.index(story.shots[0].place),
            int(story.told),
            len(story.shots),
            int(bool(returns(story))),
            position,
        )
        for story in stories
        for position, c in enumerate(story.cast)
    ]
    colour, accessory, *others = np.array(rows).T
    for attribute in (colour, accessory):
        counts = np.bincount(attribute)
        assert counts.min() > 0.75 * counts.mean()
        for other in others:
            if len(set(other)) > 1:
                other = other - other.min()
                assert chi_square_per_freedom(attribute, other) < 2.2
    assert chi_square_per_freedom(colour, accessory) < 2.2
    first, second = np.array(
        [[list(COLOURS).index(c.colour) for c in story.cast[:2]] for story in stories]
    ).T
    assert chi_square_per_freedom(first, second) < 2.2


def test_stories_are_plain_values():
    story = sample_story(0, 1, WORLDS["base"])
    assert dataclasses.replace(story) == story
    assert story.shot_of_chunk().tolist() == [
        n for n, shot in enumerate(story.shots) for _ in range(shot.chunks)
    ]


def test_a_world_too_short_for_any_return_is_refused():
    world = dataclasses.replace(WorldConfig.base(), latent_frames=9, min_shots=1, max_shots=3)
    with pytest.raises(UsageError, match="bring a character back"):
        for index in range(20):
            sample_story(0, index, world)
