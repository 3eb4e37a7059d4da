"""Reads a clip's frames with their times, upright, and samples them at a film's frame rate.

Reads at most LONGEST seconds.
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
from PIL import Image

from causalcine_jax.errors import DataError, UsageError, printable
from causalcine_jax.film.still import MOST_PIXELS
from causalcine_jax.render.colour import BT2020, HLG, PQ, ToRGB

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


def at_rate(file: Path, frames: Iterable[Frame], fps: int) -> Iterator[Frame]:
    """The frame on screen at each time i/fps of the clip.

    `UsageError` as soon as the clip is longer than LONGEST.
    """
    shown, count, end = None, 0, Fraction(0)
    for number, frame in enumerate(frames):
        # Check the times before filling gaps: a damaged file may have a gap of a million seconds.
        if max(frame.start, frame.end) > LONGEST:
            raise UsageError(f"{file} is longer than {LONGEST} s: cut out the part to start from")
        if number >= LONGEST * FASTEST:
            raise UsageError(f"{file} has more than {FASTEST} frames a second: make it slower")
        # `shown` was on screen until now.
        while shown is not None and Fraction(count, fps) < frame.start:
            yield shown
            count += 1
        shown, end = frame, max(end, frame.end)
    while shown is not None and Fraction(count, fps) < end:
        yield shown
        count += 1


def frames(file: Path) -> Iterator[Frame]:
    """The frames of a video file.

    A frame lasts until the next one begins. The last has its own duration, or the clip's usual one.

    Raises:
      DataError: the file is damaged, or no video.
      UsageError: its colours are HDR.
    """
    with _readable(file) as container:
        if not container.streams.video:
            raise DataError(f"{file} cannot be read as a clip: it has no video")
        stream = container.streams.video[0]
        _check(file, stream)
        stream.thread_type = "AUTO"
        usual = 1 / stream.average_rate if stream.average_rate else Fraction(1, 25)
        to_rgb, zero, start, length = ToRGB(), None, -usual, usual
        for frame in container.decode(stream):
            if frame.width * frame.height > MOST_PIXELS:
                raise UsageError(
                    f"{file} has frames of {frame.width} x {frame.height} pixels: make it smaller"
                )
            length = _duration(frame) or usual
            # A frame without a time follows the one before it.
            here = (
                start + length
                if frame.pts is None or frame.time_base is None
                else frame.pts * frame.time_base - (zero or Fraction(0))
            )
            if zero is None:
                zero, here = here, Fraction(0)
            start = max(here, start)  # damaged files go back in time
            yield _upright(to_rgb(frame), frame, stream, start, start + length)


def _check(file: Path, stream) -> None:
    """`UsageError` for frames that are too large, or whose colours would be shown wrong."""
    context = stream.codec_context
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


def _upright(
    image: np.ndarray, frame: av.VideoFrame, stream, start: Fraction, end: Fraction
) -> Frame:
    """The frame turned upright: phones store portrait video rotated."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    aspect = Fraction(aspect) if aspect > 0 else Fraction(1)
    # The display matrix's rows: screen directions of the file's right and down. The screen's second
    # coordinate also counts down.
    right, down = _display_axes(frame)
    if abs(right[1]) > abs(right[0]):  # rotated by 90 degrees
        image, aspect, right, down = image.swapaxes(0, 1), 1 / aspect, down, right
    image = image[:: -1 if down[1] < 0 else 1, :: -1 if right[0] < 0 else 1]
    return Frame(Image.fromarray(np.ascontiguousarray(image)), start, end, aspect)


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
def _readable(file: Path) -> Iterator[av.container.InputContainer]:
    try:
        # Hide the file's name: FFmpeg would guess the format from it.
        with (
            open(file, "rb") as content,
            av.open(
                SimpleNamespace(read=content.read, seek=content.seek, tell=content.tell)
            ) as container,
        ):
            assert isinstance(container, av.container.InputContainer)
            yield container
    except (UsageError, DataError):
        raise
    except (OSError, ValueError, LookupError, MemoryError, av.error.FFmpegError) as error:
        reason = printable(getattr(error, "strerror", None) or str(error))
        raise DataError(f"{file} cannot be read as a picture or a clip: {reason}") from error
