"""Small video files with known content: every shot has its own colour and a moving bar."""

import json
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from causalcine_jax.data.video.shots import DetectedShot
from causalcine_jax.render.colour import ToYUV

COLOURS = np.array(
    [(r, g, b) for r in (40, 130, 220) for g in (40, 130, 220) for b in (40, 130, 220)][1:],
    np.uint8,
)


def shot_pictures(
    lengths: Sequence[int], height: int = 36, width: int = 64, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns uint8 frames [T,H,W,3] of shots of `lengths` frames, and the colour of each shot.

    Neighbours have different colours. A dark bar moves through the left half.
    """
    rng = np.random.default_rng(seed)
    numbers = [int(rng.integers(len(COLOURS)))]
    while len(numbers) < len(lengths):
        numbers.append(int((numbers[-1] + 1 + rng.integers(len(COLOURS) - 1)) % len(COLOURS)))
    frames = np.repeat(COLOURS[numbers], lengths, axis=0)[:, None, None]
    frames = np.broadcast_to(frames, (sum(lengths), height, width, 3)).copy()
    for index in range(len(frames)):
        at = 2 * index % (width // 2 - 4)
        frames[index, height // 4 : height // 2, at : at + 4] = 10
    return frames, COLOURS[numbers]


def colour_of(frames: np.ndarray) -> np.ndarray:
    """The number in COLOURS of each frame [T,H,W,3], by its right edge, where no bar is."""
    edge = frames[:, :, -max(1, frames.shape[2] // 8) :].reshape(len(frames), -1, 3).mean(1)
    return np.abs(edge[:, None] - COLOURS[None].astype(float)).sum(-1).argmin(1)


def colour_detector(pictures) -> tuple[DetectedShot, ...]:
    """A shot detector for these videos."""
    numbers = np.array([colour_of(picture[None])[0] for picture in pictures])
    edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1), len(numbers)]
    return tuple(DetectedShot(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:]) if b > a)


def write_video(
    path: Path,
    frames: np.ndarray,
    fps: int | Fraction = 16,
    *,
    seconds: Sequence[float] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    aspect: int = 1,
    transfer: int | None = None,
) -> Path:
    """Writes frames at a rate, or at the times `seconds`."""
    ticks = Fraction(1, 1000)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=fps, options=options or {"crf": "12"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.sample_aspect_ratio = aspect
        if transfer is not None:
            stream.codec_context.color_trc = transfer
        if seconds is not None:
            stream.codec_context.time_base = stream.time_base = ticks
        exact = ToYUV(frames.shape[2], frames.shape[1]) if pix_fmt == "yuv420p" else None
        for number, image in enumerate(frames):
            frame = (
                exact(image)
                if exact
                else av.VideoFrame.from_ndarray(image, "rgb24").reformat(format=pix_fmt)
            )
            frame.pts, frame.time_base = number, 1 / Fraction(fps)
            if seconds is not None:
                frame.pts, frame.time_base = round(1000 * seconds[number]), ticks
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def rotate(path: Path) -> Path:
    """Marks an mp4 as filmed with the device turned: players show it rotated by 90 degrees."""
    data = bytearray(path.read_bytes())
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    at = data.index(b"tkhd") + 44
    data[at : at + 36] = matrix
    path.write_bytes(data)
    return path


def encrypt(path: Path) -> Path:
    """Marks an mp4 as encrypted, as shops sell them."""
    data = path.read_bytes()
    path.write_bytes(data.replace(b"avc1", b"encv"))
    return path


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def films_folder(folder: Path, count: int, *, shots: Sequence[int] = (30, 20, 70)) -> Path:
    """Writes `count` different videos with HoloCine captions that say where they cut.

    Each is enough for two films of 12 latent frames, and a rest. Videos that are there stay: an
    encoder with other threads writes other bytes for the same frames.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        if (folder / f"film{number}.mp4").exists():
            continue
        frames, _ = shot_pictures(shots, seed=number)
        write_video(folder / f"film{number}.mp4", frames)
        told = {
            "global_caption": "Mia waves.",
            "shot_captions": ["By day.", "By night.", "Mia sleeps."][: len(shots)],
            "shot_cut_frames": np.cumsum(shots)[:-1].tolist(),
            "licence": "CC0",
            "source": f"source {number}",
        }
        (folder / f"film{number}.json").write_text(json.dumps(told))
    return folder
