"""Shot-cut accuracy (SCA): how far a film's cuts are from the requested cuts.

A cut is the first frame of a new shot, so a film of F frames has cuts in 1..F-1.
Detected cuts are matched one to one with the requested ones, at least total deviation, and

    SCA = exp(-NSD),    NSD = (deviation of the matched + penalty * (missed + extra)) / F

as in the supplement of HoloCine (A.1), which does not give the penalty.
`PAPER_CALIBRATED` = 0.172 F per missed or extra cut is calibrated, not official. It gives 0.50 to
methods that never cut on stories of five shots, as published tables do.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

PAPER_CALIBRATED = 0.172
TOLERANCES = (2, 6, 12)


@dataclass(frozen=True)
class CutScore:
    """SCA of one film with its parts. `deviation` is in frames, summed over the matched pairs."""

    sca: float
    nsd: float
    deviation: float
    matched: int
    missed: int
    extra: int
    frames: int

    @property
    def frames_per_cut(self) -> float:
        """Mean deviation of a matched cut, in frames; 0 if none matched."""
        return self.deviation / self.matched if self.matched else 0.0


def sca(detected, asked, frames: int) -> CutScore:
    """Scores lists of cuts, in any order, of a film of `frames` frames.

    A cut asked for beyond the film's end is missed.
    """
    detected, asked, late = _within(detected, asked, frames)
    distance = np.abs(detected[:, None] - asked[None, :])
    rows, columns = linear_sum_assignment(distance)
    deviation = float(distance[rows, columns].sum())
    missed, extra = asked.size - rows.size + late, detected.size - rows.size
    nsd = (deviation + PAPER_CALIBRATED * frames * (missed + extra)) / frames
    return CutScore(float(np.exp(-nsd)), nsd, deviation, rows.size, missed, extra, frames)


@dataclass(frozen=True)
class Detection:
    """Counts of cuts detected within a tolerance; sum them over films before taking ratios."""

    hits: int = 0
    detected: int = 0
    asked: int = 0

    def __add__(self, other: "Detection") -> "Detection":
        return Detection(
            self.hits + other.hits, self.detected + other.detected, self.asked + other.asked
        )

    @property
    def precision(self) -> float:
        return self.hits / self.detected if self.detected else float(self.asked == 0)

    @property
    def recall(self) -> float:
        return self.hits / self.asked if self.asked else 1.0

    @property
    def f1(self) -> float:
        return 2 * self.hits / (self.detected + self.asked) if self.detected + self.asked else 1.0


def summed_rates(films: Sequence[dict[int, Detection]]) -> dict[str, float]:
    """Precision, recall and F1 at every tolerance, over the cuts of all films: f1@2 etc."""
    total = {t: sum((film[t] for film in films), Detection()) for t in TOLERANCES}
    parts = ("precision", "recall", "f1")
    return {f"{part}@{t}": getattr(near, part) for t, near in total.items() for part in parts}


def detection(detected, asked, tolerance: int, frames: float = np.inf) -> Detection:
    """Counts the cuts within `tolerance` frames of a requested one, in the largest matching.

    Each cut is matched at most once, and one asked for beyond the film's `frames` with none.
    """
    detected, asked, late = _within(detected, asked, frames)
    near = np.abs(detected[:, None] - asked[None, :]) <= tolerance
    rows, columns = linear_sum_assignment(near, maximize=True)
    return Detection(int(near[rows, columns].sum()), detected.size, asked.size + late)


def _within(detected, asked, frames: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Detected cuts, those asked for inside the film, and how many are beyond its end."""
    detected, asked = (np.sort(np.asarray(cuts, float).ravel()) for cuts in (detected, asked))
    inside = asked[asked < frames]
    return detected, inside, asked.size - inside.size
