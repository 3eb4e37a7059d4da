"""PRIMARY recall: does a character look as before when it returns from beyond the window?

For each return, the true film up to it is encoded and committed. The first two chunks of the
return's shot are generated, and the judge reads colour and accessory in their frames.
A character that is not found counts as wrong.

Rows: each policy; `truth`, the true frames; `vae`, the true frames through the VAE, which is
the ceiling of any policy. At most one return per film makes returns independent.
All decoded rows start from the same true chunk before the return; the decoder sees no
earlier frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float, UInt8

from causalcine_jax.clock import CHUNK_FRAMES, first_frame_of_chunk
from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.evaluation.intervals import Interval, bootstrap_mean, wilson
from causalcine_jax.evaluation.storyworld.batch_rollout import BatchRollout
from causalcine_jax.evaluation.storyworld.reading import (
    CharacterReading,
    Judge,
    Sought,
    of_character,
    sought,
)
from causalcine_jax.evaluation.storyworld.true_films import true_film
from causalcine_jax.film.state import RolloutState, decode_next
from causalcine_jax.models.dit import TextContext
from causalcine_jax.storyworld import Character, Return, WorldStory, returns, sample_story
from causalcine_jax.storyworld.world import ACCESSORIES, COLOURS, WorldConfig
from causalcine_jax.utils.progress import progress_bar

CHUNKS_JUDGED = 2
TRUTH, VAE = "truth", "vae"
CHANCE = {"colour": 1 / len(COLOURS), "accessory": 1 / len(ACCESSORIES)}
CHANCE |= {
    "joint": CHANCE["colour"] * CHANCE["accessory"],
    "mean": (CHANCE["colour"] + CHANCE["accessory"]) / 2,
}
MAX_STORIES_PER_RETURN = 50


@dataclass(frozen=True)
class ReturnCase:
    """One return to judge, after an absence longer than the model's window, in chunks."""

    story: WorldStory
    back: Return
    window: int = 0

    @property
    def character(self) -> Character:
        return self.story.cast[self.back.character]

    @property
    def frames(self) -> range:
        """Video frames of the chunks that are generated and judged."""
        return range(
            first_frame_of_chunk(self.back.chunk),
            first_frame_of_chunk(self.back.chunk + CHUNKS_JUDGED),
        )

    @property
    def late(self) -> bool:
        """Whether a memory of first frames cannot hold the character's first appearance."""
        return self.back.first_seen_frame >= self.story.world.late_chunk * CHUNK_FRAMES

    @property
    def absence(self) -> int:
        """Chunks from the last one that showed the character to the one where it returns."""
        return self.back.chunk - self.back.last_seen_chunk

    @property
    def shown(self) -> float:
        """The share of the chunks older than the window that show the character."""
        story = self.story
        window = max(self.window, story.world.window_chunks)
        older = story.shot_of_chunk()[: self.back.chunk - window]
        return float(np.mean([self.back.character in story.shots[shot].cast for shot in older]))

    @property
    def sought(self) -> Sought:
        return sought(self.story, self.story.shots[self.back.shot], self.back.character)


@dataclass(frozen=True)
class Verdict:
    """What one row of the table shows of one return.

    `by_layer`: whether each layer's memory held a frame of the character; empty without memory.
    """

    case: ReturnCase
    found: CharacterReading | None
    by_layer: tuple[bool, ...] = ()

    def right(self, name: str) -> bool:
        """Whether the character was found and its `colour`, `accessory` or `species` is right."""
        return self.found is not None and getattr(self.found, name) == getattr(
            self.case.character, name
        )

    @property
    def joint(self) -> bool:
        return self.right("colour") and self.right("accessory")

    @property
    def mean(self) -> float:
        return (self.right("colour") + self.right("accessory")) / 2


@dataclass
class RecallResult:
    """Verdicts by row, in the order of the cases.

    `stills`: the middle judged frame by row and case, for the picture.
    """

    cases: list[ReturnCase]
    verdicts: dict[str, list[Verdict]]
    stills: dict[str, list[UInt8[np.ndarray, "h w 3"]]]

    def row(self, name: str) -> dict[str, Interval]:
        """Returns the table's row, with 95 % intervals.

        Counts have Wilson's interval; `mean` is bootstrapped over returns.
        """
        return summarise(self.verdicts[name])


def summarise(verdicts: list[Verdict]) -> dict[str, Interval]:
    """Returns colour, accessory, joint, mean, found, species and remembered over `verdicts`."""
    count = len(verdicts)
    summary = {
        name: wilson(sum(v.right(name) for v in verdicts), count)
        for name in ("colour", "accessory")
    }
    summary["joint"] = wilson(sum(v.joint for v in verdicts), count)
    summary["mean"] = bootstrap_mean([v.mean for v in verdicts], fractions=True)
    summary["found"] = wilson(sum(v.found is not None for v in verdicts), count)
    summary["species"] = wilson(sum(v.right("species") for v in verdicts), count)
    summary["remembered"] = bootstrap_mean(
        [np.mean(v.by_layer) if v.by_layer else np.nan for v in verdicts]
    )
    return summary


def find_returns(
    world: WorldConfig, seed: int, count: int, most_shown: float = 1.0, window: int = 0
) -> list[ReturnCase]:
    """Returns one return from each of the first `count` stories of `seed` that have one.

    The absence is longer than both the world's window and the model's `window`. The return's shot
    must be long enough, and `most_shown` is the largest `ReturnCase.shown`. Of several returns in a
    story, takes the character that appeared latest, the hardest for a memory of first frames.

    Raises:
      UsageError: too few of the stories have one.
    """
    cases: list[ReturnCase] = []
    for index in range(count * MAX_STORIES_PER_RETURN):
        if len(cases) == count:
            return cases
        story = sample_story(seed, index, world)
        usable = [
            case
            for back in returns(story, window)
            if story.shots[back.shot].chunks >= CHUNKS_JUDGED
            if (case := ReturnCase(story, back, window)).shown <= most_shown
        ]
        if usable:
            latest = lambda case: (case.back.first_seen_frame, case.back.chunk)
            cases.append(max(usable, key=latest))
    longer = f"longer than {max(window, world.window_chunks)} chunks"
    raise UsageError(
        f"only {len(cases)} of {count} returns found in this world, after absences {longer}: lower "
        "--returns, or take a --world of longer films"
        + (", or raise --most-shown" if most_shown < 1 else "")
    )


def measure_recall(
    engine: BatchRollout,
    judge: Judge,
    cases: list[ReturnCase],
    policies: dict[str, MemoryConfig],
    films: int,
    progress: bool = True,
) -> RecallResult:
    """Judges every case under every policy, `films` of them at once."""
    verdicts: dict[str, dict[int, Verdict]] = {row: {} for row in (TRUTH, VAE, *policies)}
    stills: dict[str, dict[int, np.ndarray]] = {row: {} for row in verdicts}
    batches = list(_batches(cases, films))
    with progress_bar(len(batches) * (1 + len(policies)), "batch", "recall", shown=progress) as bar:
        for numbers, batch in batches:
            for row, frames, remembered in _rows(engine, batch, policies):
                for i, number in enumerate(numbers):
                    found = of_character(judge.read(frames[i]), batch[i].sought)
                    verdicts[row][number] = Verdict(
                        batch[i], found, () if remembered is None else remembered[i]
                    )
                    stills[row][number] = frames[i, len(frames[i]) // 2]
                bar.update(row != TRUTH)
    in_order = lambda by_row: {
        row: [found[number] for number in range(len(cases))] for row, found in by_row.items()
    }
    return RecallResult(cases, in_order(verdicts), in_order(stills))


def _rows(
    engine: BatchRollout, batch: list[ReturnCase], policies: dict[str, MemoryConfig]
) -> Iterator[tuple]:
    """Yields (row, judged frames [b, t, h, w, 3], which layers remembered or None).

    Rows are truth, the VAE and every policy.
    """
    chunk, stories = batch[0].back.chunk, [case.story for case in batch]
    films = [true_film(story) for story in stories]
    judged = slice(batch[0].frames.start, batch[0].frames.stop)
    yield TRUTH, np.stack([film[judged] for film in films]), None

    encoded = engine.encode(films, chunk + CHUNKS_JUDGED)
    latents = [
        encoded[:, start : start + CHUNK_FRAMES]
        for start in range(0, encoded.shape[1], CHUNK_FRAMES)
    ]
    _, before = decode_next(engine.model, None, latents[chunk - 1])
    yield VAE, engine.decoded_after(before, latents[chunk:]), None

    contexts = engine.prompts(stories)
    for row, memory in policies.items():
        past = latents[:chunk]
        state = engine.history(past, stories, contexts, memory)
        made, remembered = film_return(engine, state, past, batch, contexts, memory)
        yield row, engine.decoded_after(before, made), remembered


def film_return(
    engine: BatchRollout,
    state: RolloutState,
    before: list[Float[Array, "b c h w z"]],
    batch: list[ReturnCase],
    contexts: list[TextContext],
    memory: MemoryConfig,
) -> tuple[list[Float[Array, "b c h w z"]], list[tuple[bool, ...]]]:
    """Generates the chunks to be judged, after those `before` it, committed in `state` (donated).

    Returns their latents, and for every case which layers remembered.
    """
    chunk, stories = batch[0].back.chunk, [case.story for case in batch]
    made: list[Float[Array, "b c h w z"]] = []
    for number in range(chunk, chunk + CHUNKS_JUDGED):
        state, rule = engine.at_chunk(state, before + made, stories, contexts[number], memory)
        x0, seen = engine.denoise(state, stories, contexts[number], rule)
        if number == chunk:
            remembered = _remembered(seen, batch, memory)
        made.append(x0)
        if number + 1 < chunk + CHUNKS_JUDGED:
            state = engine.commit(state, x0, contexts[number], rule)
    return made, remembered


def _batches(cases: list[ReturnCase], films: int) -> Iterator[tuple[list[int], list[ReturnCase]]]:
    """Yields cases that return at the same chunk, `films` at a time, with their numbers.

    Repeats fill a chunk's last batch.
    """
    chunks = np.array([case.back.chunk for case in cases])
    for chunk in np.unique(chunks):
        numbers = np.flatnonzero(chunks == chunk)
        for start in range(0, len(numbers), films):
            some = numbers[start : start + films].tolist()
            yield some, [cases[i] for i in np.resize(some, films)]


def _remembered(
    seen: np.ndarray, batch: list[ReturnCase], memory: MemoryConfig
) -> list[tuple[bool, ...]]:
    """Returns for every case which layers retrieved a frame of its character.

    Counts frames older than the window.
    """
    by_case = []
    for i, case in enumerate(batch):
        shows = np.array(
            [case.back.character in case.story.shots[s].cast for s in case.story.shot_of_chunk()]
        )
        chunk_of = seen[:, i] // CHUNK_FRAMES
        old = (seen[:, i] >= 0) & (chunk_of < case.back.chunk - memory.window_chunks)
        by_case.append(tuple((old & shows[chunk_of]).any(axis=1).tolist()))
    return by_case
