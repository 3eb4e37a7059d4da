"""Writes frames to an mp4 that grows while they arrive, and reads them back.

    chunk of frames -> H.264, starting with a keyframe -> film.unfinished.mp4, a fragment per frame
        -> at the end an index is appended, and the file renamed to film.mp4

The growing file is a fragmented mp4: every written frame is playable, even after a crash.
The index makes it an ordinary mp4 in place, in which every player can seek. No second copy is made.
"""

import contextlib
import fractions
import io
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.video.stream import VideoStream
from jaxtyping import UInt8
from PIL import Image

from causalcine_jax.errors import DataError, UsageError, shown
from causalcine_jax.render.colour import BT709, LIMITED_RANGE, ToRGB, ToYUV
from causalcine_jax.story_schema import LARGEST_SIDE
from causalcine_jax.utils.output import one_file_writer

# frag_keyframe would delay every chunk until the next chunk's keyframe. hybrid_fragmented writes
# the index when the file is closed: first appended, then made valid by eight bytes in front.
GROWING = {
    "movflags": "frag_every_frame+empty_moov+default_base_moof+hybrid_fragmented",
    "flush_packets": "1",
}
# zerolatency: the encoder delays no frame. crf 16 is visually lossless.
# sc_threshold 0: no scene detection, because cuts fall on chunks, which start with a keyframe.
ENCODER = {
    "preset": "veryfast",
    "tune": "zerolatency",
    "crf": "16",
    "forced-idr": "1",
    "sc_threshold": "0",
}
VIEWING_HEIGHT = 384
# An upper estimate. Measured with ENCODER at 832x480: pure noise takes 0.59, grain of 8 levels
# 0.32, of 2 levels 0.16.
BYTES_PER_PIXEL = 0.4


def viewing_scale(height: int) -> int:
    """Returns the integer factor that makes small frames large enough to watch.

    It is 4 for 96 pixels and 1 from 384 pixels on.
    """
    return max(1, VIEWING_HEIGHT // height)


def check_size(height: int, width: int, scale: int) -> None:
    """Checks that frames of `height` x `width` pixels, enlarged `scale` times, fit H.264.

    Raises:
      UsageError: they do not, or `scale` is below 1.
    """
    if scale < 1:
        raise UsageError(f"scale must be at least 1, not {shown(scale)}")
    if max(height, width) * scale > LARGEST_SIDE:
        raise UsageError(
            f"scale={shown(scale)} makes frames of {shown(width * scale)} x "
            f"{shown(height * scale)} pixels, {shown(3 * width * height * scale**2)} bytes each, "
            f"but an mp4 allows {LARGEST_SIDE} per side: "
            f"scale can be at most {LARGEST_SIDE // max(height, width)}"
        )


def film_bytes(frames: int, height: int, width: int, scale: int = 1) -> int:
    """An upper estimate of a film's bytes on disk."""
    return int(frames * height * width * scale**2 * BYTES_PER_PIXEL)


def unfinished(path: str | Path) -> Path:
    """The name of a film while it grows, and for good if it is stopped: film.unfinished.mp4."""
    path = Path(path)
    return path.with_name(f"{path.stem}.unfinished{path.suffix}")


def av_name(path: str | Path) -> str:
    """The name under which FFmpeg opens a file: it takes a relative `run:1/a.mp4` for a URL."""
    return str(Path(path).absolute())


def video_stream(
    container: OutputContainer,
    width: int,
    height: int,
    fps: int,
    options: Mapping[str, str] = ENCODER,
) -> VideoStream:
    """A new H.264 stream, marked with the colours that ToYUV makes."""
    stream = container.add_stream("libx264", rate=fps, options=dict(options))
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    context = stream.codec_context
    context.colorspace = context.color_primaries = context.color_trc = BT709
    context.color_range = LIMITED_RANGE
    return stream


def enlarged(image: UInt8[np.ndarray, "h w 3"], scale: int) -> UInt8[np.ndarray, "sh sw 3"]:
    """The picture, `scale` times as high and as wide."""
    if scale == 1:
        return image
    height, width, _ = image.shape
    size = (width * scale, height * scale)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


class FilmWriter:
    """Writes uint8 frames [T,H,W,3] to `path` as they are appended; a context manager.

        with FilmWriter("film.mp4", fps=16, scale=4) as film:
            film.append(frames)

    Inside, the film grows at `film.part`; at the end it is renamed to `path`. If an exception
    is raised inside, `path` stays as it was. The frames so far stay at `film.part`, as a film.

    Raises:
      UsageError: another writer of the same film is at work.
      DataError: the disk is full or cannot be written; what was written stays at `film.part`.
    """

    def __init__(self, path: str | Path, fps: int, scale: int = 1):
        check_size(1, 1, scale)
        self.path, self.part = Path(path), unfinished(path)
        self.frames = 0
        self._fps, self._scale = fps, scale
        self._encoder: tuple[VideoStream, ToYUV] | None = None  # from the first frames on
        self._whole = 0  # bytes up to the end of the last complete fragment
        self._failed = False
        with contextlib.ExitStack() as held:
            held.enter_context(one_file_writer(self.path))
            with self._disk_faults():
                self._container = av.open(av_name(self.part), "w", format="mp4", options=GROWING)
            self._held = held.pop_all()  # the lock, until the film ends

    def __enter__(self) -> "FilmWriter":
        return self

    @property
    def playable_frames(self) -> int:
        """The frames that can be played. A full disk costs the newest, which the muxer delays."""
        return max(0, self.frames - self._failed)

    def append(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Encodes and writes a chunk. All chunks have the same height and width, both even."""
        _, height, width, _ = frames.shape
        height, width = height * self._scale, width * self._scale
        if self._encoder is None:
            stream = video_stream(self._container, width, height, self._fps)
            self._encoder = stream, ToYUV(width, height)
        stream, to_yuv = self._encoder
        if (stream.height, stream.width) != (height, width):
            raise UsageError(
                f"a film of {stream.width}x{stream.height} "
                f"cannot go on with frames of {width}x{height}"
            )
        with self._disk_faults():
            for number, image in enumerate(frames):
                picture = to_yuv(enlarged(image, self._scale))
                picture.pict_type = (
                    av.video.frame.PictureType.I if number == 0 else av.video.frame.PictureType.NONE
                )
                picture.pts, picture.time_base = self.frames, fractions.Fraction(1, self._fps)
                self._container.mux(stream.encode(picture))
                self._whole = self.part.stat().st_size
                self.frames += 1

    def __exit__(self, kind, error, trace) -> None:
        with self._held:
            self._end(kind)

    def _end(self, kind) -> None:
        with contextlib.nullcontext() if kind is None else contextlib.suppress(DataError):
            self._close()
        if kind is None and self.frames:
            with self._disk_faults():
                os.replace(self.part, self.path)
        if self.playable_frames == 0:
            with contextlib.suppress(OSError):
                self.part.unlink(missing_ok=True)
        if kind is None and self.frames == 0:
            raise UsageError(f"{self.path}: a film needs at least one frame")

    def _close(self) -> None:
        """Appends the index. After a disk fault the complete fragments stay, which play as well."""
        try:
            with self._disk_faults():
                if self._encoder is not None:
                    self._container.mux(self._encoder[0].encode())
                self._container.close()
        finally:
            if self._failed:
                os.truncate(self.part, self._whole)

    @contextlib.contextmanager
    def _disk_faults(self):
        try:
            yield
        except OSError as error:
            self._failed = True
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from error


def decoded(film: str | Path | io.BytesIO) -> Iterator[av.VideoFrame]:
    """The frames of a film as they are stored. `DataError` if they cannot be decoded."""
    where = "the film" if isinstance(film, io.BytesIO) else film
    try:
        with av.open(film if isinstance(film, io.BytesIO) else av_name(film), "r") as container:
            yield from container.decode(video=0)
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise DataError(f"{where} cannot be read as a film: {error}") from error


def some_frames(
    film: str | Path | io.BytesIO, wanted: Collection[int]
) -> Iterator[tuple[int, UInt8[np.ndarray, "h w 3"]]]:
    """The wanted frames of a film, by number. `DataError` if it cannot be decoded."""
    to_rgb = ToRGB()
    for number, frame in enumerate(decoded(film)):
        if number in wanted:
            yield number, to_rgb(frame)


def read_film(path: str | Path) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns all frames of a film, also of one that is still growing.

    Raises:
      DataError: it cannot be decoded.
    """
    frames = list(map(ToRGB(), decoded(path)))
    if not frames:
        raise DataError(f"{path} holds no frames")
    return np.stack(frames)
