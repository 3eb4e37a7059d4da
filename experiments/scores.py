"""Scores as measurements keep them: per metric and story, the sum over its questions, and how many.

Stories are kept apart for two reasons: two models on the same stories are compared story by story
(evaluation/intervals.py), and the scores of several seeds add up.
"""

from collections.abc import Iterable

import numpy as np

from causalcine_jax.evaluation.intervals import Grouped
from causalcine_jax.evaluation.storyworld.free_films import FilmScores, ShotScores
from causalcine_jax.evaluation.storyworld.recall import Verdict
from experiments.plan import FAR

Pair = tuple[float, int]
Scores = dict[str, list[Pair]]


def of_verdicts(verdicts: list[Verdict]) -> Scores:
    """Returns primary recall, with one return per story."""
    where = lambda wanted, value: (value, 1) if wanted else (0.0, 0)
    scores: Scores = {
        name: [(float(v.right(name)), 1) for v in verdicts] for name in ("colour", "accessory")
    }
    scores["mean"] = [(v.mean, 1) for v in verdicts]
    scores["late"] = [where(v.case.late, v.mean) for v in verdicts]
    scores["early"] = [where(not v.case.late, v.mean) for v in verdicts]
    scores["far"] = [where(v.case.absence >= FAR, v.mean) for v in verdicts]
    scores["near"] = [where(v.case.absence < FAR, v.mean) for v in verdicts]
    scores["found"] = [(float(v.found is not None), 1) for v in verdicts]
    return scores


def of_shots(shots: list[ShotScores]) -> dict[str, Pair]:
    """Scores some shots of one film."""
    return {
        "prompt": pair(hit for shot in shots for hit in shot.prompt_hits),
        "consistency": pair(score for shot in shots for score in shot.consistency),
        "self_recall": pair(
            hit for shot in shots for hits in shot.self_recall.values() for hit in hits
        ),
        **{
            name: pair(hit for shot in shots for hit in shot.prompt[name])
            for name in ("place", "time", "action")
        },
    }


def of_film(film: FilmScores) -> dict[str, Pair]:
    """Scores a whole film, with its cuts."""
    return {"sca": (film.cuts.sca, 1), **of_shots(film.shots)}


def by_part(parts: list[dict[str, Pair]]) -> dict[str, Pair]:
    """Returns one film's parts together, and each: metric, metric@1, metric@2, ..."""
    numbered = {
        f"{name}@{part}": value
        for part, scores in enumerate(parts, start=1)
        for name, value in scores.items()
    }
    return together(parts) | numbered


def together(parts: list[dict[str, Pair]]) -> dict[str, Pair]:
    """Adds up the parts of one film."""
    return {
        name: (sum(scores[name][0] for scores in parts), sum(scores[name][1] for scores in parts))
        for name in parts[0]
    }


def by_metric(films: Iterable[dict[str, Pair]]) -> Scores:
    """Turns a dict per film into a list per metric."""
    films = list(films)
    return {name: [film[name] for film in films] for name in films[0]}


def pair(values: Iterable[float]) -> Pair:
    values = [float(value) for value in values]
    return sum(values), len(values)


def grouped(seeds: list[list[Pair]]) -> Grouped:
    """Adds up one metric's scores over seeds, story by story, for the stories that all have."""
    stories = min(len(pairs) for pairs in seeds)
    table = (
        np.array([pairs[:stories] for pairs in seeds], np.float64)
        .reshape(len(seeds), stories, 2)
        .sum(axis=0)
    )
    return Grouped(table[:, 0], table[:, 1])
