"""Ranges of frames: the shots that a story asked for, and those that were found in the pixels."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float

SAMPLED = 8  # frames of a range that stand for it, as VBench gives ViCLIP


def between(cuts: Iterable[int], frames: int) -> list[range]:
    """The ranges of a film of `frames` frames between `cuts`, each the first frame of a shot."""
    edges = [0, *sorted(cuts), frames]
    return [range(start, end) for start, end in zip(edges, edges[1:])]


def asked_cuts(seconds: Sequence[float], times: Float[np.ndarray, " t"]) -> list[int]:
    """The frame nearest to each time of a cut; `times` are when the film's frames begin.

    A film that is too short has its late cuts at its end, so that the shots after them are empty.
    """
    step = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    return np.searchsorted(times, np.asarray(seconds, float) - step / 2).astype(int).tolist()


def middles(frames: range) -> list[int]:
    """SAMPLED frames: the middles of equal intervals, as VBench's get_frame_indices "middle".

    A shorter range gives all its frames, and then its last one again.
    """
    edges = np.linspace(0, len(frames), min(SAMPLED, len(frames)) + 1).astype(int)
    chosen = [frames.start + (a + b - 1) // 2 for a, b in zip(edges, edges[1:])]
    return chosen + chosen[-1:] * (SAMPLED - len(chosen))


def most_overlapping(found: range, asked: Sequence[range]) -> int:
    """The number of the asked range that shares most frames with `found`; the first of several."""
    shared = [min(found.stop, each.stop) - max(found.start, each.start) for each in asked]
    return int(np.argmax(shared))
