"""Reads a video file's frames with their times, upright, and samples them at a film's frame rate.

    file -> stored frames, in order, from any time on -> upright RGB frames -> frames at a rate

A clip to start from has at most LONGEST seconds; other readers take videos of any length.
"""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

from causalcine_jax.errors import DataError, UsageError, printable
from causalcine_jax.render.colour import BT2020, HLG, PQ, ToLastingRGB
from causalcine_jax.render.still import MOST_PIXELS

LONGEST = 60  # seconds of a clip; longer ones are films, not beginnings
FASTEST = 240  # frames per second


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


def frames(file: Path) -> Iterator[Frame]:
    """The frames of a video file, upright. Raises as `stored` does."""
    to_rgb = ToLastingRGB()
    for frame in stored(file):
        yield upright(frame, to_rgb)


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
        decoded: Iterator[av.VideoFrame] = container.decode(stream)
        if clock is not None and since > 0:
            decoded = _searched(container, stream, clock + since)
        usual = 1 / stream.average_rate if stream.average_rate else Fraction(1, 25)
        zero, start, length = clock, -usual, usual
        for frame in decoded:
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


def _searched(
    container: InputContainer, stream: VideoStream, time: Fraction
) -> Iterator[av.VideoFrame]:
    """The frames from a keyframe on that is shown at `time` or before; else all frames."""

    def from_keyframe() -> Iterator[av.VideoFrame]:
        # Frames before the first keyframe may refer to frames that were not decoded.
        return itertools.dropwhile(lambda frame: not frame.key_frame, container.decode(stream))

    assert stream.time_base is not None
    ticks = math.floor(time / stream.time_base)
    with contextlib.suppress(OSError, av.error.FFmpegError):
        container.seek(ticks, stream=stream, backward=True)
        found = from_keyframe()
        first = next(found, None)
        if first is not None and first.pts is not None and first.pts <= ticks:
            return itertools.chain([first], found)
    container.seek(stream.start_time or 0, stream=stream, backward=True)
    return container.decode(stream)


def video_stream(file: Path, container: InputContainer) -> VideoStream:
    """The file's first video. `DataError` if it has none but, as music has, a picture."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover:
            return stream
    raise DataError(f"{file} cannot be read as a clip: it has no video")


def check(file: Path, stream) -> None:
    """Checks that the frames can be shown as they are meant.

    Raises:
      DataError: no decoder reads them.
      UsageError: they are too large, or their colours would be shown wrong.
    """
    context = stream.codec_context
    if context is None or not context.width or not context.height:
        raise DataError(
            f"{file} cannot be read as a picture or a clip: it is damaged or encrypted, or FFmpeg "
            "cannot decode it"
        )
    if context.width * context.height > MOST_PIXELS:
        raise UsageError(
            f"{file} has frames of {context.width} x {context.height} pixels: make it smaller"
        )
    curve = {PQ: "HDR (PQ, as in HDR10)", HLG: "HDR (HLG)"}.get(context.color_trc)
    gamut = "wide-gamut (BT.2020)" if context.color_primaries == BT2020 else None
    if curve or gamut:
        raise UsageError(
            f"{file} is {curve or gamut} video, and films are BT.709: convert it first, by "
            "ffmpeg's tonemap and zscale or in an editor"
        )


def _duration(frame: av.VideoFrame) -> Fraction | None:
    ticks = getattr(frame, "duration", None)  # missing in the oldest PyAV that is allowed
    return ticks * frame.time_base if ticks and frame.time_base else None


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a stored pixel divided by its height."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    return Fraction(aspect) if aspect > 0 else Fraction(1)


def upright(stored: Stored, to_rgb: Callable[[av.VideoFrame], np.ndarray]) -> Frame:
    """The frame in RGB, turned upright: phones store portrait video rotated."""
    image, aspect = to_rgb(stored.frame), stored.aspect
    # The display matrix's rows: screen directions of the file's right and down. The screen's second
    # coordinate also counts down.
    right, down = _display_axes(stored.frame)
    if sideways(stored.frame):
        image, aspect, right, down = image.swapaxes(0, 1), 1 / aspect, down, right
    image = image[:: -1 if down[1] < 0 else 1, :: -1 if right[0] < 0 else 1]
    return Frame(Image.fromarray(np.ascontiguousarray(image)), stored.start, stored.end, aspect)


def sideways(frame: av.VideoFrame) -> bool:
    """Whether the frame is stored rotated by 90 degrees."""
    right, _ = _display_axes(frame)
    return abs(right[1]) > abs(right[0])


def _display_axes(frame: av.VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    matrix = next(
        (
            data
            for data in cast(Iterable[Any], frame.side_data)  # a mapping by its annotation
            if data.type == "DISPLAYMATRIX" or data.type.name == "DISPLAYMATRIX"
        ),
        None,
    )
    if matrix is None:
        return (1, 0), (0, 1)
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    return (a, b), (c, d)


@contextlib.contextmanager
def readable(file: Path) -> Iterator[InputContainer]:
    """The file, opened. A fault inside becomes a `DataError`."""
    try:
        # Hide the file's name: FFmpeg would guess the format from it.
        with (
            open(file, "rb") as content,
            av.open(
                SimpleNamespace(read=content.read, seek=content.seek, tell=content.tell)
            ) as container,
        ):
            assert isinstance(container, InputContainer)
            yield container
    except (UsageError, DataError):
        raise
    except (OSError, ValueError, LookupError, MemoryError, av.error.FFmpegError) as error:
        reason = printable(getattr(error, "strerror", None) or str(error))
        raise DataError(f"{file} cannot be read as a picture or a clip: {reason}") from error
