"""What stands beside the similarity of returns: two bounds, and both labels crossed.

no absence  two shots in a row that show the subject: what a system reaches without memory
chance      the shot before an absence in one story, the shot of return in another story of
            the same `kind`: what two subjects share that have nothing to do with each other
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from causalcine_jax.evaluation.films.measure_table import MEASURES, FilmMeasures, Measure
from causalcine_jax.evaluation.films.shot_features import unpacked
from causalcine_jax.evaluation.films.story_means import story_mean
from causalcine_jax.evaluation.intervals import Interval, bootstrap_others

NO_ABSENCE = Measure("no_absence", "two shots in a row that show the subject")
CROSSED = {  # the numbers of returns with both labels, and the heads of their columns
    "returns": "similarity of the return",
    "returns_gated": "gated",
    "returns_passed": "introduced",
    "returns_counted": "of those",
}


def bounds(films: Sequence[FilmMeasures], kind: str) -> dict[str, Interval]:
    """Both bounds on one kind of ranges; `count` is the number of stories."""
    return {
        "no_absence": story_mean(films, NO_ABSENCE, kind),
        "chance": chance(films, kind),
    }


def chance(films: Sequence[FilmMeasures], kind: str) -> Interval:
    """The similarity of all pairs of different stories, as the mean over stories of their mean.

    A mean of products of features is the product of mean features. So a story's films and returns
    are averaged first, and then every pair of stories is one product.
    """
    before: dict[str, list[np.ndarray]] = {}
    back: dict[str, list[np.ndarray]] = {}
    kinds: dict[str, str] = {}
    for film in films:
        pairs = [pair for pair in film[kind]["pairs"] or () if pair["absence"]]
        stored, label = film[kind]["shot_features"], film["labels"].get("kind")
        if stored is None or label is None or not pairs:
            continue
        features = unpacked(stored)
        kinds[film["story"]] = label
        before.setdefault(film["story"], []).extend(features[pair["first"]] for pair in pairs)
        back.setdefault(film["story"], []).extend(features[pair["second"]] for pair in pairs)
    labels = np.array([kinds[story] for story in kinds])
    others = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=bool)
    similarity = _means(before) @ _means(back).T if kinds else np.zeros((0, 0))
    return bootstrap_others(similarity, others)


def _means(of_story: dict[str, list[np.ndarray]]) -> Float[np.ndarray, "stories d"]:
    return np.stack([np.mean(features, axis=0) for features in of_story.values()])


def crossed(films: Sequence[FilmMeasures]) -> list[dict[str, Any]]:
    """The numbers of returns for every `away` and `described_again`, on prompted ranges."""
    label = lambda film: (film["labels"].get("away"), film["labels"].get("described_again"))
    there = sorted({label(film) for film in films if None not in label(film)})
    return [
        {
            "away": away,
            "described_again": again,
            **{
                name: story_mean(
                    [film for film in films if label(film) == (away, again)], MEASURES[name]
                )
                for name in CROSSED
            },
        }
        for away, again in there
    ]
