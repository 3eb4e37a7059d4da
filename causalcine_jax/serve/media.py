"""Chunks as fragmented mp4: one header for the film, then media that stand alone, chunk by chunk.

A fragment per frame, a keyframe per chunk, and the film's own time in every fragment. A chunk's
bytes follow from its frames and its place alone. So a film's media are its chunks' bytes one after
another, and a branch shares those of its parent.
"""

import fractions
import io
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from causalcine_jax.errors import DataError
from causalcine_jax.render.colour import ToYUV
from causalcine_jax.render.mp4 import ENCODER, av_name, enlarged, video_stream
from causalcine_jax.utils.atomic_file import atomic_file

# A fragment per frame. frag_discont: fragments carry the film's time, though this muxer sees only
# one chunk of it.
OPTIONS = {
    "movflags": "frag_every_frame+empty_moov+default_base_moof+frag_discont",
    "avoid_negative_ts": "disabled",
}
# A fixed level, so that the header does not depend on the chunk that it was made with.
VIDEO = {**ENCODER, "profile": "high", "level": "4.2", "threads": "1"}
STREAMED_HEIGHT = 192
WHOLE = {"movflags": "faststart"}  # the index in front, so that every player can seek


def streaming_scale(height: int) -> int:
    """The integer factor that small frames are enlarged by: colour has half their resolution.

    Half of `mp4.viewing_scale`, as encoding is on the way to the screen.
    """
    return max(1, STREAMED_HEIGHT // height)


def encoded(
    frames: UInt8[np.ndarray, "t h w 3"], first_frame: int, fps: int, scale: int = 1
) -> tuple[bytes, bytes]:
    """The mp4 header and the chunk's media, enlarged `scale` times.

    first_frame  the chunk's place in the film, in video frames
    """
    _, height, width, _ = frames.shape
    height, width = height * scale, width * scale
    sink, tick = io.BytesIO(), fractions.Fraction(1, fps)
    to_yuv = ToYUV(width, height)
    with av.open(sink, "w", format="mp4", options=OPTIONS) as container:
        stream = video_stream(container, width, height, fps, VIDEO)
        stream.codec_context.time_base = tick
        for number, image in enumerate(frames, start=first_frame):
            picture = to_yuv(enlarged(image, scale))
            picture.pts, picture.time_base = number, tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    data = sink.getvalue()
    boxes = list(_boxes(data))
    begin = next(at for kind, at, _ in boxes if kind == b"moof")
    end = max(end for kind, _, end in boxes if kind == b"mdat")  # an index may follow
    return data[:begin], data[begin:end]


def mime(header: bytes) -> str:
    """The type of the media for MediaSource, read from the header's avcC box."""
    at = header.index(b"avcC") + 4
    return f'video/mp4; codecs="avc1.{header[at + 1 : at + 4].hex()}"'


def joined(header: Path, chunks: Iterable[Path], target: Path) -> None:
    """Writes the film of those chunks to `target` as an ordinary mp4; nothing is encoded again.

    `DataError` if a file is missing, or cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as out:
            for file in (header, *chunks):
                out.write(file.read_bytes())
        with (
            atomic_file(target) as partial,
            av.open(av_name(part)) as film,
            av.open(av_name(partial), "w", format="mp4", options=WHOLE) as whole,
        ):
            stream = whole.add_stream_from_template(film.streams.video[0])
            for packet in film.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    whole.mux(packet)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}") from error
    finally:
        part.unlink(missing_ok=True)


def _boxes(data: bytes):
    """The boxes of an mp4's top level: (kind, beginning, end)."""
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], at, at + size
        at += size
