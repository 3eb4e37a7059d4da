"""The mean over stories: a story's films, of several seeds, are averaged first."""

from collections.abc import Iterable

import numpy as np

from causalcine_jax.evaluation.films.measure_table import FilmMeasures, Measure, Score
from causalcine_jax.evaluation.films.stories import FilmStory
from causalcine_jax.evaluation.intervals import Interval, bootstrap_mean


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
    measure: Measure,
    kind: str = "asked",
    failed: Iterable[FilmStory] = (),
) -> Interval:
    """The mean over stories of the mean over a story's films; a film that failed counts as 0."""
    of_story = by_story(films, measure.score(kind), (story.name for story in failed))
    means = [float(np.mean(values)) for values in of_story.values()]
    return bootstrap_mean(means, fractions=measure.share)
