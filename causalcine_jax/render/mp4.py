"""Frames to an mp4 that grows while they come, and back.

    chunk of frames -> H.264, starting with a keyframe -> film.mp4.part, one fragment per frame -> at the end film.mp4

The growing file is a fragmented mp4: every frame is playable as soon as it is written, whatever happens afterwards. When the film is
whole its packets are copied, not encoded again, into an ordinary mp4 with its index in front, which every player can seek.
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

# frag_keyframe would hold every chunk back until the next keyframe, which is the next chunk.
GROWING = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
WHOLE = {"movflags": "faststart"}
# zerolatency: the encoder keeps no frame to itself. sc_threshold 0: cuts fall on chunks, which start with a keyframe anyway. crf 16 is visually lossless.
ENCODER = {
    "preset": "veryfast",
    "tune": "zerolatency",
    "crf": "16",
    "forced-idr": "1",
    "sc_threshold": "0",
}
VIEWING_HEIGHT = 384


def viewing_scale(height: int) -> int:
    """The integer by which small frames are enlarged so that a film can be watched: 4 for 96 pixels, 1 from 384 on."""
    return max(1, VIEWING_HEIGHT // height)


def check_size(height: int, width: int, scale: int) -> None:
    """`UsageError` where frames of `height` x `width` pixels, enlarged `scale` times, are more than H.264 holds."""
    if scale < 1:
        raise UsageError(f"scale must be at least 1, not {shown(scale)}")
    if max(height, width) * scale > LARGEST_SIDE:
        raise UsageError(
            f"scale={shown(scale)} makes frames of {shown(width * scale)} x {shown(height * scale)} pixels, {shown(3 * width * height * scale**2)} bytes each, "
            f"and an mp4 holds {LARGEST_SIDE} on a side: scale can be at most {LARGEST_SIDE // max(height, width)}"
        )


class FilmWriter:
    """Writes uint8 frames [T,H,W,3] to `path` as they are appended; a context manager.

        with FilmWriter("film.mp4", fps=16, scale=4) as film:
            film.append(frames)

    Inside, the film grows at `film.part`; at the end it is renamed to `path`. If anything is raised inside, `path` is left as it
    was and the part is removed. A full disk is a `DataError`.
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
        """Encodes and writes a chunk. All chunks of a film have the same height and width, both even."""
        _, height, width, _ = frames.shape
        height, width = height * self._scale, width * self._scale
        if self._stream is None:
            self._stream, self._to_yuv = self._open_stream(width, height), ToYUV(width, height)
        if (self._stream.height, self._stream.width) != (height, width):
            raise UsageError(
                f"a film of {self._stream.height}x{self._stream.width} cannot go on with frames of {height}x{width}"
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
    """The film at `source` as an ordinary mp4 at `target`, packet by packet."""
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
    """All frames of a film, also of one that is still growing. `DataError` if it cannot be decoded."""
    try:
        with av.open(str(path)) as film:
            frames = list(map(ToRGB(), film.decode(video=0)))
    except (OSError, av.error.FFmpegError, IndexError) as error:
        raise DataError(f"{path} cannot be read as a film: {error}") from error
    if not frames:
        raise DataError(f"{path} holds no frames")
    return np.stack(frames)
