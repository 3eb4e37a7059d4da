"""Whether a claim holds beyond the intervals: computed from two numbers on the same stories, and put into words."""

from dataclasses import dataclass

import numpy as np

from causalcine_jax.evaluation.intervals import Grouped, Interval, bootstrap_paired
from experiments.plan import Claim

FEWEST = (
    8  # stories from which an interval is believed; from so few it is a little too narrow still
)
STATISTICS = {"difference": np.subtract, "ratio": np.divide}


@dataclass(frozen=True)
class Verdict:
    """The statistic with its interval, and what follows for the claim."""

    interval: Interval
    words: str


def judge(claim: Claim, first: Grouped, second: Grouped) -> Verdict:
    """Compares the two on the stories that both have."""
    stories = min(len(first.counts), len(second.counts))
    interval = bootstrap_paired(
        first.first(stories), second.first(stories), STATISTICS[claim.statistic]
    )
    if not interval.count:
        return Verdict(interval, "nothing was asked: it cannot be told")
    side, bound = (1, claim.at_least) if claim.at_least is not None else (-1, claim.at_most)
    value = side * (interval.value - bound)
    low, high = sorted(side * (end - bound) for end in (interval.low, interval.high))
    held = "holds" if value >= 0 else "does not hold"
    if interval.count < FEWEST:
        return Verdict(
            interval, f"{held} by value; {interval.count} stories are too few for an interval"
        )
    if interval.low == interval.high:
        return Verdict(
            interval,
            f"{held} by value; all {interval.count} stories say the same, which leaves no interval",
        )
    if low > 0:
        return Verdict(interval, "holds beyond the interval")
    if high < 0:
        return Verdict(interval, "does not hold, beyond the interval")
    return Verdict(interval, f"{held} by value, but the interval reaches past {bound:g}")
