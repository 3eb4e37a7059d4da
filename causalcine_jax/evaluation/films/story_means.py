"""The mean over stories: a story's films, of several seeds, are averaged first."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from causalcine_jax.evaluation.films.stories import FilmStory
from causalcine_jax.evaluation.intervals import Interval, bootstrap_mean

FilmMeasures = dict[str, Any]  # what was measured of it
Score = Callable[[FilmMeasures], float | None]
SHARES = ("returns_passed",)  # measures on ranges that are shares of a film's returns


def by_story(
    films: Iterable[FilmMeasures], score: Score, failed: Iterable[str] = ()
) -> dict[str, list[float]]:
    """The scores of every story's films; a film that failed, named by its story, scores 0."""
    of_story: dict[str, list[float]] = {}
    for film in films:
        if (value := score(film)) is not None:
            of_story.setdefault(film["story"], []).append(value)
    for story in failed:
        of_story.setdefault(story, []).append(0.0)
    return of_story


def story_mean(
    films: Iterable[FilmMeasures],
    score: Score,
    failed: Iterable[FilmStory] = (),
    *,
    fractions: bool = False,
) -> Interval:
    """The mean over stories of the mean over a story's films; a film that failed counts as 0.

    fractions  the scores are shares, of which all may be 1: see `bootstrap_mean`
    """
    of_story = by_story(films, score, (story.name for story in failed))
    means = [float(np.mean(values)) for values in of_story.values()]
    return bootstrap_mean(means, fractions=fractions)


def of_range(kind: str, name: str) -> Score:
    """A film's mean of a measure, on prompted ("asked") or detected ("found") ranges."""
    return lambda film: film[kind]["means"][name]


def range_mean(films: Iterable[FilmMeasures], kind: str, name: str) -> Interval:
    """The mean over stories of a measure on one kind of ranges."""
    return story_mean(films, of_range(kind, name), fractions=name in SHARES)
