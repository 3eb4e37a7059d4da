"""Decides whether a claim holds beyond its interval, from two numbers on the same stories."""

from dataclasses import dataclass

import numpy as np

from causalcine_jax.evaluation.intervals import Grouped, Interval, bootstrap_paired
from experiments.plan import Claim

FEWEST = 8  # stories for an interval; from so few, the bootstrap's is still a little too narrow
STATISTICS = {"difference": np.subtract, "ratio": np.divide}


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim's statistic with its interval, and what follows in words."""

    interval: Interval
    words: str


def judge(claim: Claim, first: Grouped, second: Grouped) -> ClaimVerdict:
    """Compares both numbers on the stories that both have."""
    stories = min(len(first.counts), len(second.counts))
    interval = bootstrap_paired(
        first.first(stories), second.first(stories), STATISTICS[claim.statistic]
    )
    if not interval.count:
        return ClaimVerdict(interval, "no question was asked, so it cannot be decided")
    side, bound = (1, claim.at_least) if claim.at_least is not None else (-1, claim.at_most)
    value = side * (interval.value - bound)
    low, high = sorted(side * (end - bound) for end in (interval.low, interval.high))
    held = "holds" if value > 0 or (value == 0 and not claim.strict) else "does not hold"
    if interval.count < FEWEST:
        return ClaimVerdict(
            interval, f"{held} by value; {interval.count} stories are too few for an interval"
        )
    if interval.low == interval.high:
        return ClaimVerdict(
            interval,
            f"{held} by value; all {interval.count} stories say the same, which leaves no interval",
        )
    if low > 0:
        return ClaimVerdict(interval, "holds beyond the interval")
    if high < 0:
        return ClaimVerdict(interval, "does not hold, beyond the interval")
    return ClaimVerdict(interval, f"{held} by value, but the interval reaches past {bound:g}")
