"""The mean over stories: a story's films, of several seeds, are averaged first."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from causalcine_jax.evaluation.films.stories import FilmStory
from causalcine_jax.evaluation.intervals import Interval, bootstrap_mean

Film = dict[str, Any]  # what was measured of it
Score = Callable[[Film], float | None]


def story_mean(films: Iterable[Film], score: Score, failed: Iterable[FilmStory] = ()) -> Interval:
    """The mean over stories of the mean over a story's films; a film that failed counts as 0."""
    of_story: dict[str, list[float]] = {}
    for film in films:
        if (value := score(film)) is not None:
            of_story.setdefault(film["story"], []).append(value)
    for story in failed:
        of_story.setdefault(story.name, []).append(0.0)
    return bootstrap_mean([float(np.mean(values)) for values in of_story.values()])


def of_range(kind: str, name: str) -> Score:
    """A film's mean of a measure, on prompted ("asked") or detected ("found") ranges."""
    return lambda film: film[kind]["means"][name]
