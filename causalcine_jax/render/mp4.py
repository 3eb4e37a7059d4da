"""Writes frames to an mp4 that grows while they arrive, and reads them back.

    chunk of frames -> H.264, starting with a keyframe -> film.mp4.part, a fragment per frame
        -> at the end film.mp4

The growing file is a fragmented mp4: every written frame is playable, even after a crash.
A complete film's packets are copied, without encoding again, into an ordinary mp4.
Its index is in front, so every player can seek in it.
"""

import contextlib
import fractions
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from causalcine_jax.errors import DataError, UsageError, shown
from causalcine_jax.render.colour import BT709, LIMITED_RANGE, ToRGB, ToYUV
from causalcine_jax.story_schema import LARGEST_SIDE
from causalcine_jax.utils.atomic_file import atomic_file

# frag_keyframe would delay every chunk until the next chunk's keyframe.
GROWING = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
WHOLE = {"movflags": "faststart"}
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


class FilmWriter:
    """Writes uint8 frames [T,H,W,3] to `path` as they are appended; a context manager.

        with FilmWriter("film.mp4", fps=16, scale=4) as film:
            film.append(frames)

    Inside, the film grows at `film.part`; at the end it is renamed to `path`. If an exception
    is raised inside, `path` stays as it was and the part is removed.

    Raises:
      DataError: the disk is full or cannot be written.
    """

    def __init__(self, path: str | Path, fps: int, scale: int = 1):
        check_size(1, 1, scale)
        self.path, self.part = Path(path), Path(f"{path}.part")
        self.frames = 0
        self._fps, self._scale = fps, scale
        self._container = self._stream = self._to_yuv = None

    def __enter__(self) -> "FilmWriter":
        with self._disk_faults():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._container = av.open(
                str(self.part), "w", format="mp4", options={**GROWING, "flush_packets": "1"}
            )
        return self

    def append(self, frames: UInt8[np.ndarray, "t h w 3"]) -> None:
        """Encodes and writes a chunk. All chunks have the same height and width, both even."""
        _, height, width, _ = frames.shape
        height, width = height * self._scale, width * self._scale
        if self._stream is None:
            self._stream, self._to_yuv = self._open_stream(width, height), ToYUV(width, height)
        if (self._stream.height, self._stream.width) != (height, width):
            raise UsageError(
                f"a film of {self._stream.height}x{self._stream.width} "
                f"cannot go on with frames of {height}x{width}"
            )
        with self._disk_faults():
            for number, image in enumerate(frames):
                picture = self._picture(image, width, height)
                picture.pict_type = (
                    av.video.frame.PictureType.I if number == 0 else av.video.frame.PictureType.NONE
                )
                picture.pts, picture.time_base = self.frames, fractions.Fraction(1, self._fps)
                self._container.mux(self._stream.encode(picture))
                self.frames += 1

    def __exit__(self, kind, error, trace) -> None:
        try:
            with self._disk_faults() if kind is None else contextlib.suppress(OSError):
                if self._stream is not None:
                    self._container.mux(self._stream.encode())
                self._container.close()
            if kind is None and self.frames == 0:
                raise UsageError(f"{self.path}: a film needs at least one frame")
            if kind is None:
                copy_packets(self.part, self.path)
        finally:
            with contextlib.suppress(OSError):
                self.part.unlink(missing_ok=True)

    def _open_stream(self, width: int, height: int):
        stream = self._container.add_stream("libx264", rate=self._fps, options=ENCODER)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE
        return stream

    def _picture(self, image: np.ndarray, width: int, height: int) -> av.VideoFrame:
        if self._scale > 1:
            image = np.asarray(
                Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
            )
        return self._to_yuv(image)

    @contextlib.contextmanager
    def _disk_faults(self):
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror or error}") from error


def copy_packets(source: Path, target: Path) -> None:
    """Copies the film at `source`, packet by packet, into an ordinary mp4 at `target`."""
    with (
        atomic_file(target) as partial,
        av.open(str(source)) as film,
        av.open(str(partial), "w", format="mp4", options=WHOLE) as out,
    ):
        stream = out.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)


def read_film(path: str | Path) -> UInt8[np.ndarray, "t h w 3"]:
    """Returns all frames of a film, also of one that is still growing.

    Raises:
      DataError: it cannot be decoded.
    """
    try:
        with av.open(str(path)) as film:
            frames = list(map(ToRGB(), film.decode(video=0)))
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise DataError(f"{path} cannot be read as a film: {error}") from error
    if not frames:
        raise DataError(f"{path} holds no frames")
    return np.stack(frames)
