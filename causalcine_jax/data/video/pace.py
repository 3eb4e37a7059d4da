"""When the frames of a video are shown, in few numbers.

    seconds of every frame, and of the end -> knots (frame, seconds) -> seconds of any frame

Between two knots frames follow each other evenly, but for NEAR seconds. A constant rate has two
knots. So has the jitter of a phone's camera, and a change of rate has one more.
"""

from collections.abc import Sequence

import numpy as np

NEAR = 1 / 32  # half a frame on the model's clock

Pace = list[tuple[int, float]]


def pace_of(seconds: Sequence[float]) -> Pace:
    """The knots of times that do not go back: each reaches as far as one line serves."""
    knots, last = [(0, seconds[0])], len(seconds) - 1
    while (begun := knots[-1][0]) < last:
        reached, low, high = begun, -np.inf, np.inf
        for frame in range(begun + 1, last + 1):
            passed, time = frame - begun, seconds[frame] - seconds[begun]
            if low <= time / passed <= high:
                reached = frame
            low, high = max(low, (time - NEAR) / passed), min(high, (time + NEAR) / passed)
            if low > high:
                break
        knots.append((reached, round(seconds[reached], 3)))
    return knots


def times_of(frames: Sequence[float], pace: Sequence[Sequence[float]]) -> list[float]:
    """When these frames are shown, in seconds; those after the end at the end."""
    numbers, seconds = np.asarray(pace, np.float64).T
    return np.interp(np.asarray(frames, np.float64), numbers, seconds).tolist()
