"""Confidence intervals: Wilson's for a fraction of hits, the bootstrap for a mean of scores.

Both treat scores as independent draws, so the evaluation takes at most one return per film.
If a film answers several questions, `bootstrap_grouped` redraws whole films.
`bootstrap_paired` compares two models on the same films, film by film.
`bootstrap_others` averages over pairs of different films.

One film has no spread: redrawn, it is always itself. So the bootstrap leaves its bounds NaN.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri

CONFIDENCE, RESAMPLES = 0.95, 4000


class Interval(NamedTuple):
    """A point estimate of `count` scores and its two-sided confidence bounds.

    The bounds are NaN where the scores are too few to have an interval.
    """

    value: float
    low: float
    high: float
    count: int  # type: ignore[assignment]  # in place of tuple's, which nothing needs


def wilson(hits: int, count: int) -> Interval:
    """Returns Wilson's score interval of a proportion (Wilson 1927).

    It stays sound near 0 and 1, where hits +- z*sigma is not.
    """
    if count == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    z = float(ndtri(0.5 + CONFIDENCE / 2))
    share = hits / count
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    )
    # At 0 and at `count` hits the bound is exact, and rounding would move it slightly inside.
    low = 0.0 if hits == 0 else max(0.0, middle - half)
    high = 1.0 if hits == count else min(1.0, middle + half)
    return Interval(float(share), float(low), float(high), int(count))


def bootstrap_mean(scores, *, fractions: bool = False) -> Interval:
    """Bootstraps the mean of `scores` [n] (percentile); drops NaN (not applicable).

    fractions  the scores are from 0 to 1, each a group of `bootstrap_grouped` by itself
    """
    scores = np.asarray(scores, np.float64).ravel()
    scores = scores[~np.isnan(scores)]
    if scores.size == 0:
        return Interval(float("nan"), 0.0, 1.0, 0)
    if fractions:
        return bootstrap_grouped(Grouped(scores, np.ones_like(scores)))
    low, high = _bounds(scores[_draws(scores.size)].mean(axis=1), scores.size)
    return Interval(float(scores.mean()), low, high, int(scores.size))


class Grouped(NamedTuple):
    """Scores of questions in groups, such as a film's shots: each group's sum and number."""

    totals: Float[np.ndarray, " groups"]
    counts: Float[np.ndarray, " groups"]

    @classmethod
    def of(cls, scores: Iterable[Sequence[float]]) -> "Grouped":
        """The scores [n] of every group."""
        groups = list(scores)
        totals, counts = ([measure(group) for group in groups] for measure in (sum, len))
        return cls(np.array(totals, float), np.array(counts, float))

    @property
    def mean(self) -> float:
        return float(self.totals.sum() / self.counts.sum()) if self.counts.sum() else float("nan")

    def first(self, groups: int) -> "Grouped":
        return Grouped(self.totals[:groups], self.counts[:groups])


def bootstrap_grouped(scores: Grouped) -> Interval:
    """Bootstraps the mean over all questions (percentile), redrawing whole groups.

    `count` is the number of questions. If all answers are right or all are wrong, redrawing
    shows no spread, so the interval is Wilson's over the groups.
    """
    answered = int((scores.counts > 0).sum())
    if not answered:
        return Interval(float("nan"), 0.0, 1.0, 0)
    count = int(scores.counts.sum())
    for hits, all_so in ((answered, scores.totals == scores.counts), (0, scores.totals == 0)):
        if all_so.all():
            return wilson(hits, answered)._replace(count=count)
    low, high = _bounds(_redrawn(scores, _draws(len(scores.counts))), answered)
    return Interval(scores.mean, low, high, count)


def bootstrap_paired(first: Grouped, second: Grouped, statistic: Callable) -> Interval:
    """Bootstraps `statistic` of two means over the same groups (percentile).

    `statistic` is np.subtract or np.divide. Groups in which one side has no answer are left out;
    `count` is the number of the others. Both sides are redrawn together.
    """
    answered = (first.counts > 0) & (second.counts > 0)
    if not (both := int(answered.sum())):
        return Interval(float("nan"), 0.0, 1.0, 0)
    first, second = (Grouped(*(part[answered] for part in side)) for side in (first, second))
    draws = _draws(len(first.counts))
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(first.mean, second.mean))
        low, high = _bounds(statistic(_redrawn(first, draws), _redrawn(second, draws)), both)
    return Interval(value, low, high, both)


def bootstrap_others(scores: Float[np.ndarray, "n n"], others: Bool[np.ndarray, "n n"]) -> Interval:
    """Bootstraps the mean over things of each one's mean score with its `others` (percentile).

    Things are redrawn, and with one all of its pairs; a copy is no other. `count` is the number of
    things that have others.
    """
    with_others = int(others.any(axis=1).sum())
    if not with_others:
        return Interval(float("nan"), 0.0, 1.0, 0)
    things = len(scores)

    def means(weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, " r"]:
        with np.errstate(invalid="ignore"):
            own = (weights @ np.where(others, scores, 0).T) / (weights @ others.T)
            weights = np.where(np.isnan(own), 0, weights)
            return (weights * np.nan_to_num(own)).sum(axis=1) / weights.sum(axis=1)

    draws = _draws(things) + things * np.arange(RESAMPLES)[:, None]
    drawn = np.bincount(draws.ravel(), minlength=things * RESAMPLES).reshape(RESAMPLES, things)
    # Two things have one pair: every redraw that has others is the same.
    low, high = _bounds(means(drawn.astype(float)), with_others - 1)
    return Interval(float(means(np.ones((1, things)))[0]), low, high, with_others)


def _draws(groups: int) -> Int[np.ndarray, "resamples groups"]:
    return np.random.default_rng(0).integers(0, groups, (RESAMPLES, groups))


def _redrawn(
    scores: Grouped, draws: Int[np.ndarray, "resamples groups"]
) -> Float[np.ndarray, " resamples"]:
    with np.errstate(invalid="ignore"):
        return scores.totals[draws].sum(axis=1) / scores.counts[draws].sum(axis=1)


def _bounds(means: Float[np.ndarray, " resamples"], redrawn: int) -> tuple[float, float]:
    """The bounds of means over `redrawn` things; NaN if there are too few to differ."""
    if redrawn < 2:
        return float("nan"), float("nan")
    low, high = np.nanquantile(means, [0.5 - CONFIDENCE / 2, 0.5 + CONFIDENCE / 2])
    return float(low), float(high)
