"""Reads a video file's frames with their times, upright, and samples them at a film's frame rate.

    file -> stored frames, in order, from any time on -> upright RGB frames -> frames at a rate

A clip to start from has at most LONGEST seconds; other readers take videos of any length.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

from causalcine_jax.errors import UsageError
from causalcine_jax.render.colour import ToLastingRGB, ToRGB
from causalcine_jax.render.still import MOST_PIXELS, TRANSPARENT
from causalcine_jax.render.video_file import (
    check,
    decoded,
    display_axes,
    pixel_aspect,
    readable,
    sideways,
    video_stream,
)

LONGEST = 60  # seconds of a clip; longer ones are films, not beginnings
FASTEST = 240  # frames per second
ROUNDING = Fraction(1, 2000)  # seconds by which a time in milliseconds may be wrong
CUT_OFF = Fraction(1, 2)  # seconds that may be missing at a file's end: its sound may be longer


@dataclass(frozen=True)
class Frame:
    """A frame and when it is shown.

    start, end  seconds from the clip's beginning
    aspect      width of a pixel divided by its height
    """

    image: Image.Image
    start: Fraction
    end: Fraction
    aspect: Fraction = Fraction(1)


@dataclass(frozen=True)
class Stored:
    """A frame as the file stores it, and when it is shown.

    start, end  seconds from the first frame
    clock       the file's own time of the first frame, in seconds
    aspect      width of a stored pixel divided by its height
    timed       whether the file says when the frame is shown
    """

    frame: av.VideoFrame
    start: Fraction
    end: Fraction
    clock: Fraction
    aspect: Fraction = Fraction(1)
    timed: bool = True


Shown = TypeVar("Shown", Frame, Stored)


def at_rate(frames: Iterable[Shown], fps: int, first: int = 0) -> Iterator[Shown]:
    """The frame on screen at each time i/fps of the clip, from i = `first` on."""
    shown, count, end = None, first, Fraction(0)
    for frame in frames:
        # `shown` was on screen until now.
        while shown is not None and Fraction(count, fps) < frame.start:
            yield shown
            count += 1
        shown, end = frame, max(end, frame.end)
    while shown is not None and Fraction(count, fps) < end:
        yield shown
        count += 1


def short(file: Path, frames: Iterable[Frame]) -> Iterator[Frame]:
    """The frames of a clip to start from.

    `UsageError` at the first that makes it longer than LONGEST. A damaged file may have a gap of a
    million seconds, so this comes before `at_rate`, which fills gaps.
    """
    for number, frame in enumerate(frames):
        if max(frame.start, frame.end) > LONGEST:
            raise UsageError(f"{file} is longer than {LONGEST} s: cut out the part to start from")
        if number >= LONGEST * FASTEST:
            raise UsageError(f"{file} has more than {FASTEST} frames a second: make it slower")
        yield frame


def fitted(frame: Frame, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """The frame cut around its centre to the shape of `height` x `width`, then resized."""
    rows, columns = seen(frame, height, width)
    left, top = (frame.image.width - columns) / 2, (frame.image.height - rows) / 2
    return np.asarray(
        frame.image.resize(
            (width, height), Image.Resampling.LANCZOS, (left, top, left + columns, top + rows)
        )
    )


def seen(frame: Frame, height: int, width: int) -> tuple[float, float]:
    """Rows and columns of the frame that the shape of `height` x `width` pixels keeps."""
    shape = width / height / float(frame.aspect)  # in the frame's pixels
    image = frame.image
    return (
        (image.height, image.height * shape)
        if image.width > image.height * shape
        else (image.width / shape, image.width)
    )


def frames(
    file: Path, to_rgb: ToRGB | ToLastingRGB, tell: Callable[[str], None] = lambda note: None
) -> Iterator[Frame]:
    """The frames of a video file by `to_rgb`, upright. Raises as `stored` does.

    Reports what a viewer would show otherwise, or not at all, through `tell`.
    """
    end = Fraction(0)
    for frame in stored(file):
        yield upright(frame, to_rgb)
        end = frame.end
    if to_rgb.transparent:
        tell(TRANSPARENT)
    if (whole := length(file)) > end + max(CUT_OFF, whole / 10):
        tell(
            f"its pictures end after {float(end):.4g} s, and the file says that it lasts "
            f"{float(whole):.4g} s: is it cut off?"
        )


def unrounded(frame: Shown) -> Shown:
    """A frame, for `at_rate`, of a file that may round its times to milliseconds.

    A rounded time may lie just after the time at which the frame is wanted. Then the frame before
    is shown in its place: of a Matroska file of 16 frames a second, every second one is lost.
    """
    return replace(
        frame, start=max(frame.start - ROUNDING, Fraction(0)), end=frame.end - 2 * ROUNDING
    )


def stored(
    file: Path, since: Fraction = Fraction(0), clock: Fraction | None = None
) -> Iterator[Stored]:
    """The frames of a video file, as they are stored.

    A frame lasts until the next one begins. The last has its own duration, or the clip's usual one.

    Args:
      file: the video.
      since: the first yielded frame is a keyframe that is shown at this time or before.
      clock: `Stored.clock` of the file's first frame, if known. Without it, or where the file
        cannot be searched, reading begins with the first frame.

    Raises:
      DataError: the file is damaged, or no video.
      UsageError: its colours are HDR, or its frames too large.
    """
    with readable(file) as container:
        stream = video_stream(file, container)
        check(file, stream)
        stream.thread_type = "AUTO"
        if clock is not None and since > 0:
            source = _searched(container, stream, clock + since)
        else:
            source = decoded(container, stream)
        usual = 1 / stream.average_rate if stream.average_rate else Fraction(1, 25)
        zero, start, length = clock, -usual, usual
        for frame in source:
            if frame.width * frame.height > MOST_PIXELS:
                raise UsageError(
                    f"{file} has frames of {frame.width} x {frame.height} pixels: make it smaller"
                )
            length = _duration(frame) or usual
            time = (
                None
                if frame.pts is None or frame.time_base is None
                else frame.pts * frame.time_base
            )
            if zero is None:
                zero = time or Fraction(0)
            # A frame without a time follows the one before it. Damaged files go back in time.
            start = max(start + length if time is None else time - zero, start, Fraction(0))
            yield Stored(frame, start, start + length, zero, pixel_aspect(stream), time is not None)


def beginning(file: Path) -> Fraction:
    """The file's own time at which players begin to count: its sound may come before its frames.

    Raises `DataError` if the file cannot be read.
    """
    with readable(file) as container:
        return Fraction(container.start_time or 0, av.time_base)


def length(file: Path) -> Fraction:
    """Seconds that the file says it lasts, from its first frame or sound on; 0 if it does not say.

    Raises `DataError` if the file cannot be read.
    """
    with readable(file) as container:
        length = container.duration or 0
        # Matroska counts from 0, also where nothing begins there.
        early = max(container.start_time or 0, 0) if "matroska" in container.format.name else 0
        return Fraction(length - early, av.time_base)


def _searched(
    container: InputContainer, stream: VideoStream, time: Fraction
) -> Iterator[av.VideoFrame]:
    """The frames from a keyframe on that is shown at `time` or before; else all frames."""

    def from_keyframe() -> Iterator[av.VideoFrame]:
        # Frames before the first keyframe may refer to frames that were not decoded.
        return itertools.dropwhile(lambda frame: not frame.key_frame, decoded(container, stream))

    assert stream.time_base is not None
    ticks = math.floor(time / stream.time_base)
    with contextlib.suppress(OSError, av.error.FFmpegError):
        container.seek(ticks, stream=stream, backward=True)
        found = from_keyframe()
        first = next(found, None)
        if first is not None and first.pts is not None and first.pts <= ticks:
            return itertools.chain([first], found)
    container.seek(stream.start_time or 0, stream=stream, backward=True)
    return decoded(container, stream)


def _duration(frame: av.VideoFrame) -> Fraction | None:
    ticks = getattr(frame, "duration", None)  # missing in the oldest PyAV that is allowed
    return ticks * frame.time_base if ticks and frame.time_base else None


def upright(stored: Stored, to_rgb: Callable[[av.VideoFrame], np.ndarray]) -> Frame:
    """The frame in RGB, turned upright: phones store portrait video rotated."""
    image, aspect = to_rgb(stored.frame), stored.aspect
    # The display matrix's rows: screen directions of the file's right and down. The screen's second
    # coordinate also counts down.
    right, down = display_axes(stored.frame)
    if sideways(stored.frame):
        image, aspect, right, down = image.swapaxes(0, 1), 1 / aspect, down, right
    image = image[:: -1 if down[1] < 0 else 1, :: -1 if right[0] < 0 else 1]
    return Frame(Image.fromarray(np.ascontiguousarray(image)), stored.start, stored.end, aspect)
