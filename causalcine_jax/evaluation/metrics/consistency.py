"""Consistency within shots (VBench) and between shots of one character.

Within a shot of frames with features f_0, f_1, ... of length 1 (VBench, subject_consistency.py):

    mean over t >= 1 of ( max(0, f_t . f_{t-1}) + max(0, f_t . f_0) ) / 2

Between shots, a shot's feature is the mean of its frames' features, at length 1. Two shots of
the same character are compared by the product of their features.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int


def within_shot(features: Float[np.ndarray, "t d"]) -> float:
    """The formula above; 1 for one frame, as in HoloCine."""
    if len(features) == 1:
        return 1.0
    before = np.maximum(0, (features[1:] * features[:-1]).sum(axis=1))
    first = np.maximum(0, features[1:] @ features[0])
    return float((before + first).mean() / 2)


def of_shots(
    features: Float[np.ndarray, "n d"], frames: Int[np.ndarray, " n"], shots: Sequence[range]
) -> list[float | None]:
    """`within_shot` of every shot, from the features of some `frames`.

    None where they are too few to compare: none, or one of a longer shot.
    """
    found = []
    for shot in shots:
        inside = features[(frames >= shot.start) & (frames < shot.stop)]
        enough = len(inside) >= min(2, max(1, len(shot)))
        found.append(within_shot(inside) if enough else None)
    return found


def shot_feature(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, " d"]:
    mean = features.mean(axis=0)
    return mean / max(float(np.linalg.norm(mean)), 1e-12)


@dataclass(frozen=True)
class Pair:
    """Two shots that show the same character.

    absence  shots in between, none of which shows it; None if one does
    """

    character: str
    first: int
    second: int
    absence: int | None


def matched_pairs(
    cast: Sequence[Sequence[str]], numbers: Sequence[int] | None = None
) -> list[Pair]:
    """All pairs of shots of every character.

    cast     who is in each shot that was asked for
    numbers  the asked shot of each detected one: it may have several, or none where a cut is missed
    """
    numbers = range(len(cast)) if numbers is None else numbers
    shown = [cast[number] for number in numbers]
    pairs = []
    for character in dict.fromkeys(name for names in shown for name in names):
        shots = [number for number, names in enumerate(shown) if character in names]
        for place, first in enumerate(shots):
            for later, second in enumerate(shots[place + 1 :]):
                between = cast[numbers[first] + 1 : numbers[second]]
                away = later == 0 and not any(character in names for names in between)
                pairs.append(Pair(character, first, second, len(between) if away else None))
    return pairs


def first_shots(cast: Sequence[Sequence[str]]) -> dict[str, int]:
    """The first shot of every character."""
    first: dict[str, int] = {}
    for number, names in enumerate(cast):
        for name in names:
            first.setdefault(name, number)
    return first


@dataclass(frozen=True)
class PairScore:
    """A pair, how similar its shots are, and whether both show what their captions say.

    faithful  None where it was not measured
    """

    pair: Pair
    similarity: float
    faithful: bool | None = None

    @property
    def gated(self) -> float | None:
        """The similarity, or 0 where a shot does not show what it should."""
        return None if self.faithful is None else self.similarity * self.faithful


def inter_shot(scores: Sequence[PairScore]) -> float | None:
    """The mean over characters of the mean over their pairs; None without pairs."""
    groups: dict[str, list[float]] = {}
    for score in scores:
        groups.setdefault(score.pair.character, []).append(score.similarity)
    return float(np.mean([np.mean(group) for group in groups.values()])) if groups else None


def faithful_shots(
    alignment: Float[np.ndarray, "shots captions"], own: Float[np.ndarray, " shots"]
) -> list[bool]:
    """Whether each shot is closer to its `own` caption than to any other of its film.

    A gate without a threshold: a constant wrong picture passes for one shot at most.
    Shots of the same caption pass together.
    """
    return (own >= alignment.max(axis=1) - 1e-6).tolist()
