"""Measurements on films as long as in training: recall, free films, and seconds per film.

    models and amounts -> stories, returns -> films -> the judge's scores, story by story

The stories are those of launch/evaluate.py, the same for every model. long_films.py measures
longer films.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import UInt8

from causalcine_jax.config import MemoryConfig
from causalcine_jax.evaluation.storyworld.batch_rollout import BatchRollout
from causalcine_jax.evaluation.storyworld.config import HELD_OUT_SEED
from causalcine_jax.evaluation.storyworld.free_films import (
    TRUE_FILMS,
    filmed,
    score_film,
    stories_apart,
)
from causalcine_jax.evaluation.storyworld.reading import Judge
from causalcine_jax.evaluation.storyworld.recall import VAE, find_returns, measure_recall
from causalcine_jax.evaluation.storyworld.true_films import true_film
from causalcine_jax.film.director import Director
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.pool import closed_pool_size
from causalcine_jax.film.rollout_functions import RolloutFunctions
from causalcine_jax.storyworld import WorldConfig, WorldStory
from causalcine_jax.training.sample import as_story
from causalcine_jax.utils.progress import progress_bar
from experiments import scores
from experiments.scores import Scores

SHOWN = 3  # films whose stills are kept for the report
TIMED = 10  # films timed per model


@dataclass(frozen=True)
class Amounts:
    """How much is measured. `batch`: films generated at once, half as many if they are long."""

    returns: int = 200
    films: int = 200
    long_films: int = 30
    endless_films: int = 8
    batch: int = 20

    @property
    def long_batch(self) -> int:
        return max(1, self.batch // 2)


@dataclass(frozen=True)
class Subject:
    """A model and the memory it is measured under."""

    model: Model
    memory: MemoryConfig

    def at_once(self, batch: int, films: int) -> int:
        """How many of the films are made at once: one where cuts change a film's history."""
        return min(batch, films) if self.memory.at_cut == "keep" else 1

    def engine(self, world: WorldConfig) -> BatchRollout:
        return BatchRollout(self.model, world, self.model.sampler, HELD_OUT_SEED)


@dataclass
class KindResults:
    """The results of one kind.

    scores  by row
    stills  by row, a frame per shot of each shown film
    shown   title and captions of the shown films
    """

    scores: dict[str, Scores]
    stills: dict[str, list[UInt8[np.ndarray, "shots h w 3"]]] = field(default_factory=dict)
    shown: list[dict[str, Any]] = field(default_factory=list)


def recall(subjects: dict[str, Subject], world: WorldConfig, amounts: Amounts) -> KindResults:
    """Measures primary recall (recall.py of evaluation) of one row, and `vae`, the ceiling."""
    ((key, subject),) = subjects.items()
    cases = find_returns(world, HELD_OUT_SEED, amounts.returns)
    result = measure_recall(
        subject.engine(world),
        Judge.load(),
        cases,
        {key: subject.memory},
        subject.at_once(amounts.batch, len(cases)),
    )
    return KindResults({row: scores.of_verdicts(result.verdicts[row]) for row in (key, VAE)})


def films(subjects: dict[str, Subject], world: WorldConfig, amounts: Amounts) -> KindResults:
    """Measures one row's films from captions alone, and the same of true films.

    The measures are cuts, prompts, memory of themselves, and consistency.
    """
    ((key, subject),) = subjects.items()
    judge, stories = Judge.load(), stories_apart(world, HELD_OUT_SEED, amounts.films)
    rows: dict[str, list] = {key: [], TRUE_FILMS: []}
    measured = KindResults({}, {key: []}, [])
    for story, video in films_of(subject, stories, amounts.batch, "films"):
        rows[key].append(scores.of_film(score_film(story, video, judge)))
        rows[TRUE_FILMS].append(scores.of_film(score_film(story, true_film(story), judge)))
        if len(measured.shown) < SHOWN:
            measured.stills[key].append(
                video[[shot.frames[len(shot.frames) // 2] for shot in story.shots]]
            )
            measured.shown.append({"title": story.global_caption, "captions": list(story.captions)})
    measured.scores = {row: scores.by_metric(films) for row, films in rows.items()}
    return measured


def speed(subjects: dict[str, Subject], world: WorldConfig, amounts: Amounts) -> KindResults:
    """Measures seconds per film of all rows, in turn.

    The first film of each row compiles and is not counted. `latents` leaves out prompts and
    decoding.
    """
    stories = stories_apart(world, HELD_OUT_SEED, 1 + TIMED)
    rows: dict[str, list] = {key: [] for key in subjects}
    for number, story in enumerate(progress_bar(len(stories), "round", "speed", over=stories)):
        for key, subject in subjects.items():
            began = time.perf_counter()
            director = Director(
                subject.model,
                as_story(story, HELD_OUT_SEED),
                memory=subject.memory,
                functions=RolloutFunctions(closed_pool_size),
            )
            latents = sum(chunk.seconds["denoise"] + chunk.seconds["commit"] for chunk in director)
            if number:
                rows[key].append(
                    {"seconds": (time.perf_counter() - began, 1), "latents": (latents, 1)}
                )
    return KindResults({key: scores.by_metric(films) for key, films in rows.items()})


def films_of(
    subject: Subject, stories: list[WorldStory], batch: int, what: str
) -> Iterator[tuple[WorldStory, UInt8[np.ndarray, "t h w 3"]]]:
    """Yields the stories with the subject's films, with a progress bar."""
    at_once = subject.at_once(batch, len(stories))
    made = filmed(subject.engine(stories[0].world), stories, subject.memory, at_once)
    yield from progress_bar(len(stories), "film", what, over=made)
