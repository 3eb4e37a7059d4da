"""Measurements on films longer than in training.

drift    shots as long as a whole training film, in which one character stays in place: does it?
long     shots as in training, but many more of them: is the film's end as good as its beginning?
endless  ten minutes with a bounded cache: the same question, and a chunk's cost

A character's position is read from the pixels, by the judge's map of heads. Scores are kept for
the whole film and for each eighth (`metric@1`, ...). `long` has the first and last quarter, too
(`metric_first`, `metric_last`). In `endless` these are the opening or first minute, and the last.
"""

import dataclasses
import resource
import sys
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from causalcine_jax.config import PoolConfig
from causalcine_jax.evaluation.storyworld.config import HELD_OUT_SEED
from causalcine_jax.evaluation.storyworld.free_films import (
    STORIES_APART,
    TRUE_FILMS,
    score_shots,
    stories_apart,
)
from causalcine_jax.evaluation.storyworld.judge import CELL_CENTRES
from causalcine_jax.evaluation.storyworld.reading import (
    FOUND,
    Judge,
    Reading,
    Sought,
    of_character,
    sought,
)
from causalcine_jax.evaluation.storyworld.true_films import true_film
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film.director import Director
from causalcine_jax.storyworld import ACTIONS, WorldConfig, WorldStory, grammar, sample_story
from causalcine_jax.training.sample import as_story
from causalcine_jax.utils.progress import progress_bar
from experiments import scores
from experiments.kinds import SHOWN, Amounts, KindResults, Subject, films_of
from experiments.plan import LONGER
from experiments.scores import Pair

STAYING = tuple(action for action in ACTIONS if action != "walk")
ENDS = 2  # chunks at a shot's ends that give a character's position: the period of every action
SETTLED = 6  # frames after a cut: a decoder smears it over the first frames
MINUTE = 80  # chunks
MINUTES = 10
OPENING = 20  # chunks, 15 s
POOL_FRAMES = 60  # latent frames of history that an endless film keeps
COMPILING = 2  # chunks


def drift(subjects: dict[str, Subject], world: WorldConfig, amounts: Amounts) -> KindResults:
    """Measures how far staying characters drift, in one row's films and in true films.

    `world` is that of training.
    """
    ((key, subject),) = subjects.items()
    judge = Judge.load()
    stories = [staying_story(world, index) for index in range(amounts.long_films)]
    ends = [number for number in (0, LONGER // 3, 2 * LONGER // 3, LONGER - 1) for _ in range(2)]
    rows: dict[str, list] = {key: [], TRUE_FILMS: []}
    measured = KindResults({}, {key: []}, [])
    for story, video in films_of(subject, stories, amounts.long_batch, "drift"):
        rows[key].append(drift_scores(story, judge.read(video)))
        rows[TRUE_FILMS].append(drift_scores(story, judge.read(true_film(story))))
        if len(measured.shown) < SHOWN:
            frames = [
                story.shots[number].frames[-1 if second % 2 else SETTLED]
                for second, number in enumerate(ends)
            ]
            measured.stills[key].append(video[frames])
            captions = [
                f"shot {number + 1}, {'end' if second % 2 else 'beginning'}"
                for second, number in enumerate(ends)
            ]
            measured.shown.append({"title": story.global_caption, "captions": captions})
    measured.scores = {row: scores.by_metric(films) for row, films in rows.items()}
    return measured


def staying_story(world: WorldConfig, index: int) -> WorldStory:
    """Returns a long story whose shots each show one staying character, to a camera at rest.

    Every shot is as long as a film of `world`.
    """
    story = sample_story(HELD_OUT_SEED, STORIES_APART + index, world.longer(LONGER).in_one_shot())
    rng = np.random.default_rng([HELD_OUT_SEED, index])
    pick = lambda options: options[int(rng.integers(len(options)))]
    shots = [
        dataclasses.replace(
            shot, cast=(pick(range(len(story.cast))),), actions=(pick(STAYING),), camera="static"
        )
        for shot in story.shots
    ]
    global_caption, captions = grammar.write(rng, story.cast, shots, story.told)
    shots = [
        dataclasses.replace(shot, caption=caption)
        for shot, caption in zip(shots, captions, strict=True)
    ]
    return dataclasses.replace(story, shots=tuple(shots), global_caption=global_caption)


def drift_scores(story: WorldStory, reading: Reading) -> dict[str, Pair]:
    """Returns way, off_middle and lost of every shot (see tables.py), and consistency of looks."""
    parts = []
    for shot in story.shots:
        who, frames = sought(story, shot, shot.cast[0]), reading.frames(shot.frames)
        span = len(shot.frames) * ENDS // shot.chunks
        began, ended = (
            place(frames.frames(part), who)
            for part in (range(span), range(len(shot.frames) - span, len(shot.frames)))
        )
        seen = of_character(frames, who)
        parts.append(
            {
                "way": scores.pair(
                    [np.hypot(*(ended - began))] if began is not None and ended is not None else []
                ),
                "off_middle": scores.pair([] if ended is None else [abs(ended[0])]),
                "lost": scores.pair([ended is None]),
                "consistency": scores.pair([seen.consistency if seen else 0.0]),
            }
        )
    return scores.by_part(parts)


def place(reading: Reading, who: Sought) -> Float[np.ndarray, "2"] | None:
    """Returns the mean position of a character's head over the reading's frames.

    It is (x, y) from the middle, in frame heights; None if the character is not found.
    """
    cells = who.cells(reading)
    if cells.max(axis=1).mean() < FOUND:
        return None
    return cells.sum(axis=0) / cells.sum() @ CELL_CENTRES


def long(subjects: dict[str, Subject], world: WorldConfig, amounts: Amounts) -> KindResults:
    """Measures one row's films of several plans of `world` with one cast, by plan."""
    ((key, subject),) = subjects.items()
    judge = Judge.load()
    stories = stories_apart(world.longer(LONGER), HELD_OUT_SEED, amounts.long_films)
    rows, measured = [], KindResults({}, {key: []}, [])
    for story, video in films_of(subject, stories, amounts.long_batch, "long films"):
        rows.append(long_scores(story, judge.read(video), judge))
        if len(measured.shown) < SHOWN:
            firsts = [
                next(shot for shot in story.shots if _act(story, shot) == act)
                for act in range(LONGER)
            ]
            measured.stills[key].append(
                video[[shot.frames[len(shot.frames) // 2] for shot in firsts]]
            )
            measured.shown.append(
                {"title": story.global_caption, "captions": [shot.caption for shot in firsts]}
            )
    measured.scores = {key: scores.by_metric(rows)}
    return measured


def long_scores(story: WorldStory, reading: Reading, judge: Judge) -> dict[str, Pair]:
    """Scores the shots of each act, and of the film's first and last quarter.

    A return belongs to the act in which it happens.
    """
    shots = list(zip(story.shots, score_shots(story, reading, judge), strict=True))
    acts = [
        scores.of_shots([score for shot, score in shots if _act(story, shot) == act])
        for act in range(story.world.acts)
    ]
    quarter = len(acts) // 4
    quarters = {"first": acts[:quarter], "last": acts[-quarter:]}
    return scores.by_part(acts) | {
        f"{name}_{which}": value
        for which, part in quarters.items()
        for name, value in scores.together(part).items()
    }


def _act(story: WorldStory, shot) -> int:
    return shot.start_chunk // story.world.act_chunks


def endless(subjects: dict[str, Subject], world: WorldConfig, amounts: Amounts) -> KindResults:
    """Measures one row's films of ten minutes, one after the other, with a bounded cache."""
    ((key, subject),) = subjects.items()
    judge, long_world = Judge.load(), world.longer(MINUTES * MINUTE // world.chunks)
    rows, measured = [], KindResults({}, {key: []}, [])
    for number, story in enumerate(stories_apart(long_world, HELD_OUT_SEED, amounts.endless_films)):
        film = _EndlessFilm(story, judge)
        director = Director(
            subject.model,
            as_story(story, HELD_OUT_SEED + number),
            memory=subject.memory,
            pool=PoolConfig(POOL_FRAMES),
        )
        for chunk in progress_bar(long_world.chunks, "chunk", "ten minutes", over=director):
            film.add(chunk)
        rows.append(film.scores())
        if len(measured.shown) < SHOWN:
            measured.stills[key].append(np.stack(film.stills))
            measured.shown.append(
                {
                    "title": story.global_caption,
                    "captions": [f"minute {minute + 1}" for minute in range(len(film.stills))],
                }
            )
    measured.scores = {key: scores.by_metric(rows)}
    return measured


class _EndlessFilm:
    """What is kept of a streaming film: consistency per shot, costs of chunks, stills."""

    def __init__(self, story: WorldStory, judge: Judge):
        self.story, self.judge = story, judge
        self.stills: list[np.ndarray] = []
        self._shot = 0
        self._frames: list[np.ndarray] = []
        self._consistency: list[list[float]] = []
        self._costs: dict[str, list[float]] = {"seconds": [], "resident": [], "live": []}

    def add(self, chunk: Chunk) -> None:
        shot = self.story.shots[self._shot]
        for name, value in (
            ("seconds", sum(chunk.seconds.values())),
            ("resident", resident_mb()),
            ("live", live_mb()),
        ):
            self._costs[name].append(value)
        self._frames.append(chunk.frames)
        if chunk.index % MINUTE == 0:
            # A view would keep the chunk's device buffer alive.
            self.stills.append(chunk.frames[-1].copy())
        if chunk.index == shot.end_chunk - 1:
            reading = self.judge.read(np.concatenate(self._frames))
            seen = [of_character(reading, sought(self.story, shot, who)) for who in shot.cast]
            self._consistency.append([one.consistency if one else 0.0 for one in seen])
            self._shot, self._frames = self._shot + 1, []

    def scores(self) -> dict[str, Pair]:
        end = self.story.world.chunks
        steady = lambda first, last: scores.pair(
            value
            for shot, values in zip(self.story.shots, self._consistency, strict=True)
            if first <= shot.start_chunk and shot.end_chunk <= last
            for value in values
        )
        return {
            "consistency_first": steady(0, OPENING),
            "consistency_last": steady(end - MINUTE, end),
            **{
                f"consistency@{minute + 1}": steady(minute * MINUTE, (minute + 1) * MINUTE)
                for minute in range(end // MINUTE)
            },
            **{
                f"{name}_first": scores.pair(values[COMPILING:MINUTE])
                for name, values in self._costs.items()
            },
            **{
                f"{name}_last": scores.pair(values[-MINUTE:])
                for name, values in self._costs.items()
            },
        }


def resident_mb() -> float:
    """Returns the process's resident set now; its peak if the system does not report it."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 1024


def live_mb() -> float:
    """Returns the size of all of jax's arrays now."""
    return sum(array.nbytes for array in jax.live_arrays()) / 2**20
