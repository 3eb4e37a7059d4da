"""A video's frames on the model's clock: FPS per second from its first frame on, at any size.

Frame i is what is on screen at i/FPS seconds. So a variable frame rate becomes a constant one.
Times count as half a millisecond earlier than the file says, because Matroska rounds them.
Frames are read one after another and few are held: a film's frames at full size never are.
"""

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from causalcine_jax.clock import FPS
from causalcine_jax.data.video.bars import WHOLE, Part
from causalcine_jax.errors import DataError
from causalcine_jax.render.clip import (
    Frame,
    Stored,
    at_rate,
    fitted,
    stored,
    unrounded,
    upright,
)
from causalcine_jax.render.colour import ToRGB
from causalcine_jax.render.video_file import sideways

VERSION = 2  # of what `read` gives; raise it when that changes: latents are made of it
LONGEST_FRAME = 600  # seconds of one frame; a longer one comes from a damaged file

Picture = UInt8[np.ndarray, "h w 3"]


@dataclass(frozen=True)
class Clock:
    """How a video's frames are found, and which part of each is shown.

    start     the file's own time of the first frame, in seconds
    searched  whether every frame has a time, so that reading may begin at a keyframe
    picture   the part inside of black bars
    """

    start: Fraction
    searched: bool
    picture: Part = WHOLE

    def to_row(self) -> dict[str, Any]:
        bars = {} if self.picture == WHOLE else {"picture": list(self.picture)}
        return {"start": str(self.start), "searched": self.searched, **bars}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Clock":
        left, top, right, bottom = row.get("picture", WHOLE)
        return cls(Fraction(row["start"]), row["searched"], (left, top, right, bottom))


def ticks(frame: Stored) -> tuple[int, int]:
    """The frames [first, stop) of the model's clock at which `read` finds this one on screen."""
    shown = unrounded(frame)
    return math.ceil(shown.start * FPS), math.ceil(shown.end * FPS)


def checked(file: Path, frames: Iterable[Stored]) -> Iterator[Stored]:
    """The frames. `DataError` as soon as one would be shown for LONGEST_FRAME seconds."""
    before: Fraction | None = None
    for frame in frames:
        begun = frame.start if before is None else before
        if max(frame.start - begun, frame.end - frame.start) > LONGEST_FRAME:
            raise DataError(
                f"{file} is damaged: a frame would last {float(frame.end - begun):.0f} s"
            )
        before = frame.start
        yield frame


def small(size: tuple[int, int]):
    """A function from stored frames to pictures of `size` (width, height), upright."""
    lying, standing = ToRGB(size), ToRGB((size[1], size[0]))

    def picture(frame: Stored) -> Picture:
        to_rgb = standing if sideways(frame.frame) else lying
        return np.asarray(upright(frame, to_rgb).image)

    return picture


def read(
    file: Path, clock: Clock, ranges: list[tuple[int, int]], height: int, width: int
) -> Iterator[Picture]:
    """Yields the frames of ascending `ranges` [first, stop) of the model's clock, one by one.

    Each is cut around the centre of its picture to the shape of `height` x `width`, then resized.

    Raises:
      DataError: the file is damaged, or ends before they do.
    """
    wanted = itertools.chain.from_iterable(range(*each) for each in ranges)
    following = next(wanted, None)
    if following is None:
        return
    since = Fraction(following, FPS)
    source = checked(file, stored(file, since, clock.start if clock.searched else None))
    to_rgb = ToRGB()
    made: tuple[Stored, Picture] | None = None
    for index, frame in enumerate(at_rate(map(unrounded, source), FPS, following), start=following):
        if index < following:
            continue
        if made is None or made[0] is not frame:
            made = frame, fitted(_inside(upright(frame, to_rgb), clock.picture), height, width)
        yield made[1]
        following = next(wanted, None)
        if following is None:
            return
    raise DataError(f"{file} ends before frame {following} of {FPS} per second: was it changed?")


def _inside(frame: Frame, part: Part) -> Frame:
    if part == WHOLE:
        return frame
    width, height = frame.image.size
    left, top, right, bottom = part
    box = round(left * width), round(top * height), round(right * width), round(bottom * height)
    return replace(frame, image=frame.image.crop(box))
