"""Black bars around a video's picture: above and below it, or on its sides.

    a frame of every SAMPLED seconds -> the brightest that each pixel ever is -> the picture inside

Bars are rows or columns that stay black from the first frame to the last. A film that is only dark
at its edges has none: along a bar's edge most of the picture must light up at some time.
"""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
from jaxtyping import UInt8

SAMPLED = Fraction(1, 2)  # seconds: what is shown in bars, such as subtitles, stays longer
BLACK = 24  # of 255: brighter is no bar; the noise of a codec is less
LIT = 64  # of 255: brighter is no bar's neighbour that is dark
EDGE = 0.015  # of the height: the strip inside of a bar's edge
LIT_SHARE = 0.8  # of the places along a bar's edge, but those that are always black
LEAST = 0.02  # of the height: a thinner bar needs one of the same size on the other side
ALIKE = 0.005  # of the height: bars that differ by less are of the same size

Part = tuple[float, float, float, float]  # left, top, right, bottom, as parts of width and height
WHOLE: Part = (0.0, 0.0, 1.0, 1.0)


class Brightest:
    """The brightest that each pixel of a video is, in the frames that `see` takes."""

    def __init__(self):
        self._seen: UInt8[np.ndarray, "h w"] | None = None
        self._next = Fraction(0)
        self._one_size = True

    def see(self, start: Fraction, image: Callable[[], UInt8[np.ndarray, "h w 3"]]) -> None:
        """Takes the frame that is shown from `start` on; `image` is called if it is sampled."""
        if start < self._next:
            return
        self._next = start + SAMPLED
        level = image().max(-1)
        if self._seen is None:
            self._seen = level
        elif self._seen.shape == level.shape:
            np.maximum(self._seen, level, out=self._seen)
        else:
            self._one_size = False

    def picture(self) -> Part:
        """The part of the frames that is inside of bars; WHOLE if there are none."""
        return picture_of(self._seen) if self._seen is not None and self._one_size else WHOLE


def picture_of(brightest: UInt8[np.ndarray, "h w"]) -> Part:
    """The part inside of bars, from the brightest that each pixel ever is."""
    height, width = brightest.shape
    top, bottom = _bars(brightest, height)
    # A row's bars are looked for in the picture alone: rows of bars would count as dark edges.
    left, right = _bars(brightest[top : height - bottom].T, height)
    part = left / width, top / height, 1 - right / width, 1 - bottom / height
    return tuple(round(x, 6) for x in part)


def area(part: Part) -> float:
    left, top, right, bottom = part
    return (right - left) * (bottom - top)


def _bars(brightest: UInt8[np.ndarray, "rows places"], height: int) -> tuple[int, int]:
    """Rows of the bars before and after the picture."""
    bright = np.flatnonzero((brightest > BLACK).any(1))
    if not len(bright):
        return 0, 0
    strip = max(1, round(EDGE * height))
    first, last = int(bright[0]), int(bright[-1])
    edges = brightest[first : first + strip], brightest[max(0, last + 1 - strip) : last + 1]
    places = (brightest > BLACK).any(0)
    bars = [
        size if (edge.max(0)[places] > LIT).mean() >= LIT_SHARE else 0
        for size, edge in zip((first, len(brightest) - 1 - last), edges)
    ]
    if abs(bars[0] - bars[1]) <= ALIKE * height and all(bars):
        return bars[0], bars[1]
    before, after = (size if size >= LEAST * height else 0 for size in bars)
    return before, after
