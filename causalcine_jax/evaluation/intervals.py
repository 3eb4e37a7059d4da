"""Confidence intervals of what the evaluation counts: Wilson for a share of hits, bootstrap for a mean of scores.

Both treat the scores as independent draws. The evaluation earns that by taking at most one return from each film.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import ndtri


class Interval(NamedTuple):
    """A point estimate and its two-sided confidence bounds; `count` scores went into it."""

    value: float
    low: float
    high: float
    count: int

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]" if self.count else "-"


def wilson(hits: int, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion (Wilson 1927): sound near 0 and 1, where hits +- z*sigma is not."""
    if count == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    z = float(ndtri(0.5 + confidence / 2))
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    # At 0 and at `count` hits the bound is exact; rounding would leave it a hair inside.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    high = 1.0 if hits == count else min(1.0, middle + half)
    return Interval(float(share), float(low), float(high), int(count))


def bootstrap_mean(scores, confidence: float = 0.95, resamples: int = 4000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean of `scores` [n]; NaN scores (not applicable) are left out."""
    scores = np.asarray(scores, np.float64).ravel()
    scores = scores[~np.isnan(scores)]
    if scores.size == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    draws = np.random.default_rng(seed).integers(0, scores.size, (resamples, scores.size))
    low, high = np.quantile(scores[draws].mean(axis=1), [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(float(scores.mean()), float(low), float(high), int(scores.size))
