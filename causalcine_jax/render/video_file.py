"""Opens a video file, and says how its frames are meant: stream, colours, shape, rotation.

FFmpeg reads this one file. Playlists and session descriptions name other files or hosts, which it
may not open.
"""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from causalcine_jax.errors import DataError, UsageError, printable
from causalcine_jax.render.colour import BT2020
from causalcine_jax.render.still import HDR, MOST_PIXELS

NO_OTHER_FILES = {"protocol_whitelist": "none"}
# FFmpeg's own decoders of these codecs drop transparency, which WebM keeps beside the frames.
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
HEIF_BRANDS = ("heic", "heix", "heim", "heis", "mif1", "mif2", "avif")


@contextlib.contextmanager
def readable(file: Path) -> Iterator[InputContainer]:
    """The file, opened. A fault inside becomes a `DataError`."""
    try:
        # Hide the file's name: FFmpeg would guess the format from it.
        with (
            open(file, "rb") as content,
            av.open(
                SimpleNamespace(read=content.read, seek=content.seek, tell=content.tell),
                options=NO_OTHER_FILES,
            ) as container,
        ):
            assert isinstance(container, InputContainer)
            yield container
    except (UsageError, DataError):
        raise
    except (OSError, ValueError, LookupError, MemoryError, av.error.FFmpegError) as error:
        reason = printable(getattr(error, "strerror", None) or str(error))
        raise DataError(f"{file} cannot be read as a picture or a clip: {reason}") from error


def video_stream(file: Path, container: InputContainer) -> VideoStream:
    """The file's first video.

    Raises:
      DataError: it has none but, as music has, a picture. Or FFmpeg found a JPEG inside a document.
      UsageError: it is a HEIF picture of several parts, which FFmpeg shows one by one.
    """
    if container.format.name == "mjpeg":
        raise DataError(f"{file} cannot be read as a picture or a clip: it only contains a JPEG")
    videos = container.streams.video
    if len(videos) > 1 and container.metadata.get("major_brand") in HEIF_BRANDS:
        raise UsageError(
            f"{file} is a HEIF picture of {len(videos)} parts, which are not put together here: "
            "save it as PNG or JPEG"
        )
    cover = av.stream.Disposition.attached_pic
    for stream in videos:
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
    if re.search(r"f(16|32)", context.pix_fmt or ""):
        raise UsageError(
            f"{file} has pixels of floating point, and nothing says which is white: save it with "
            "8 or 16 bits"
        )
    curve = HDR.get(context.color_trc)
    gamut = "wide-gamut (BT.2020)" if context.color_primaries == BT2020 else None
    if curve or gamut:
        raise UsageError(
            f"{file} is {curve or gamut} video, and films are BT.709: convert it first, by "
            "ffmpeg's tonemap and zscale or in an editor"
        )


def decoded(container: InputContainer, stream: VideoStream) -> Iterator[av.VideoFrame]:
    """The stream's frames from where the container stands, with their transparency."""
    decoder = ALPHA_DECODERS.get(stream.codec_context.name)
    if stream.metadata.get("alpha_mode") != "1" or decoder not in av.codecs_available:
        yield from container.decode(stream)
        return
    context = cast(av.VideoCodecContext, av.CodecContext.create(decoder, "r"))
    for packet in container.demux(stream):
        yield from context.decode(packet)


def pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a stored pixel divided by its height."""
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    return Fraction(aspect) if aspect > 0 else Fraction(1)


def sideways(frame: av.VideoFrame) -> bool:
    """Whether the frame is stored rotated by 90 degrees."""
    right, _ = display_axes(frame)
    return abs(right[1]) > abs(right[0])


def display_axes(frame: av.VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Screen directions of the file's right and down. A screen counts to the right and down."""
    try:
        beside = list(cast(Iterable[Any], frame.side_data))  # a mapping by its annotation
    except ValueError:  # PyAV does not know a type of data beside the frame, such as EXIF
        angle = math.radians(frame.rotation)
        a, b = round(math.cos(angle)), round(math.sin(angle))
        return (a, -b), (b, a)
    matrix = next(
        (
            data
            for data in beside
            if data.type == "DISPLAYMATRIX" or data.type.name == "DISPLAYMATRIX"
        ),
        None,
    )
    if matrix is None:
        return (1, 0), (0, 1)
    a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).tolist()
    return (a, b), (c, d)
