"""Do the paper's measures rank StoryWorld's films as their ground truth does?

The judge reads from pixels what the story says. The paper's measures know neither. Both score
the same films, and the rank correlation says how far one may stand for the other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from causalcine_jax.clock import FPS
from causalcine_jax.evaluation.films.stories import FilmStory, film_story
from causalcine_jax.evaluation.intervals import Interval
from causalcine_jax.evaluation.storyworld.free_films import FilmScores
from causalcine_jax.evaluation.storyworld.judge import OF_CHARACTER
from causalcine_jax.story_schema import SCHEMA
from causalcine_jax.story_sets.reading import ToldStory
from causalcine_jax.storyworld import WorldStory

RESAMPLES = 2000


def _mean(hits: Sequence[float]) -> float:
    return float(np.mean(hits)) if len(hits) else float("nan")


# A measure on prompted ranges, and what the judge says of the same.
AGAINST: dict[str, Callable[[FilmScores], float]] = {
    "alignment": lambda film: _mean([hit for shot in film.shots for hit in shot.prompt_hits]),
    "subject": lambda film: _mean([value for shot in film.shots for value in shot.consistency]),
    "inter_shot": lambda film: _mean(
        [hit for shot in film.shots for name in OF_CHARACTER for hit in shot.self_recall[name]]
    ),
}


def story_data(story: WorldStory, name: str) -> dict[str, Any]:
    """A StoryWorld story as `causalcine evaluate --stories` reads it."""
    return {
        "schema": SCHEMA,
        "id": name,
        "global": story.global_caption,
        "video": {"fps": FPS},
        "shots": [
            {
                "caption": shot.caption,
                "chunks": shot.chunks,
                "characters": [story.cast[who].name for who in shot.cast],
            }
            for shot in story.shots
        ],
    }


def as_film_story(story: WorldStory, name: str) -> FilmStory:
    return film_story(ToldStory(name, name, story_data(story, name)))


def rank_agreement(
    measured: Sequence[Mapping[str, Any]], judged: Sequence[FilmScores]
) -> dict[str, Interval]:
    """Spearman's correlation over films for every measure, with its interval over films.

    Args:
      measured: what `measure_film` returned, film by film.
      judged: the judge's scores of the same films.

    Returns:
      Per measure. `count` is the number of films that both could score. The value is NaN where one
      of the two gave all films the same score.
    """
    found = {}
    for name, of_film in AGAINST.items():
        pairs = np.array(
            [
                (np.nan if (value := film["asked"]["means"][name]) is None else value, of_film(own))
                for film, own in zip(measured, judged, strict=True)
            ],
            float,
        ).reshape(-1, 2)
        found[name] = _spearman(pairs[~np.isnan(pairs).any(axis=1)])
    return found


def _spearman(pairs: np.ndarray) -> Interval:
    if len(pairs) < 3:
        return Interval(float("nan"), -1.0, 1.0, len(pairs))
    draws = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    resampled = [_correlation(pairs[draw]) for draw in draws]
    low, high = (
        np.nanquantile(resampled, [0.025, 0.975]) if not all(np.isnan(resampled)) else (-1.0, 1.0)
    )
    return Interval(_correlation(pairs), float(low), float(high), len(pairs))


def _correlation(pairs: np.ndarray) -> float:
    first, second = rankdata(pairs, axis=0).T
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return float("nan")
    return float(np.corrcoef(first, second)[0, 1])
