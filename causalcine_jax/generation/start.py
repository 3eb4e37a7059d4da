"""A film that goes on from a picture or a clip.

    file -> frames at the film's rate and size -> whole chunks -> VAE, chunk by chunk -> latents [1, F, h, w, z]

The director commits these latents as the film's first chunks, under the start's caption, where it would otherwise have denoised noise. They are also
decoded like every chunk, and those frames open the film: so the decoder's cache is what it would be inside a film, and the first frame
that the model makes follows frames that went through the same VAE. The start is the story's first shot.

A picture is held for one chunk. A clip shows, at each of the film's moments, the frame that was on screen then; what is left beyond
whole chunks goes. Both are cut around the centre to the film's shape.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image, ImageOps

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.generation.model_folder import Model
from causalcine_jax.models.vae import VAE
from causalcine_jax.story import Shot, Story
from causalcine_jax.whole_file import file_hash

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
LONGEST = 60  # seconds of a clip; longer ones are films, not beginnings
SHOT_ID = "start"


@dataclass(frozen=True)
class Start:
    """What is asked for: a picture or clip, and the caption of what it shows. `sha256`: the file that it has to be, if that is known."""

    file: Path
    caption: str
    sha256: str | None = None


@dataclass(frozen=True)
class Opening:
    """A start ready to be filmed: the story with its shot in front, its latents, and what film.json says about it."""

    story: Story
    latents: Float[Array, "1 f h w z"]
    record: dict[str, Any]


def chosen_start(file: Path | None, caption: str | None, recorded: dict[str, Any]) -> Start | None:
    """The start that --start and --start-caption ask for, or else the one of the film.json `recorded`; None where there is neither.

    A film.json's own start may be given again as a file without caption, if it has moved.

    Raises:
      UsageError: a caption without a file, or a file without a caption.
    """
    said = recorded.get("start")
    if file is None and caption is None:
        return Start(Path(said["file"]), said["caption"], said["sha256"]) if said else None
    if file is None:
        raise UsageError("--start-caption says what a picture or clip shows: name it with --start FILE")
    if caption is None and said:
        return Start(file, said["caption"], said["sha256"])
    if caption is None or not caption.strip():
        raise UsageError(f"a film that starts from {file} needs the caption of what it shows: --start-caption TEXT")
    return Start(file, caption.strip())


def opening(start: Start, story: Story, model: Model) -> Opening:
    """Reads, cuts and encodes a start for the film of `story`.

    Raises:
      UsageError: a clip that is shorter than a chunk or longer than LONGEST, or not the file that `start.sha256` names.
      DataError: the file is missing, or cannot be read as a picture or a clip.
    """
    digest = file_hash(start.file)
    if start.sha256 not in (None, digest):
        raise UsageError(
            f"{start.file} is not the file that this film started from (its SHA-256 is {digest[:12]}..., not {start.sha256[:12]}...): "
            "name that file with --start"
        )
    video = model.video if story.video.height is None else story.video
    stride = model.vae.cfg.temporal_stride
    lengths = stride * (model.chunk_frames - 1) + 1, stride * model.chunk_frames
    frames = read_frames(start.file, video.height, video.width, story.video.fps, lengths)
    latents = encode(model.vae, frames, lengths)
    chunks = latents.shape[1] // model.chunk_frames
    record = {"file": str(start.file), "sha256": digest, "caption": start.caption, "chunks": chunks}
    shot = Shot(start.caption, chunks=chunks, id=SHOT_ID)
    return Opening(dataclasses.replace(story, shots=(shot, *story.shots)), latents, record)


def without_start(story: Story) -> Story:
    """The story as it was before `opening` put the start's shot in front."""
    return dataclasses.replace(story, shots=story.shots[1:])


def read_frames(file: Path, height: int, width: int, fps: int, lengths: tuple[int, int]) -> UInt8[np.ndarray, "t h w 3"]:
    """The file's frames at the film's size and rate, as many as fill whole chunks; `lengths`: frames of a first and of a later chunk."""
    first, later = lengths
    if file.suffix.lower() in PICTURES:
        return np.repeat(_fitted(_picture(file), height, width)[None], first, axis=0)
    frames = [_fitted(image, height, width) for image in _at_rate(file, fps)]
    if len(frames) < first:
        raise UsageError(f"{file} is too short to start from: {len(frames)} frames at {fps} per second, a chunk needs {first}")
    return np.stack(frames[: first + (len(frames) - first) // later * later])


def encode(vae: VAE, frames: UInt8[np.ndarray, "t h w 3"], lengths: tuple[int, int]) -> Float[Array, "1 f h w z"]:
    """Normalised latents of the frames, encoded a chunk at a time, so that memory does not grow with the clip."""
    first, later = lengths
    dtype = vae.conv2.weight[...].dtype
    video = lambda begin, end: (jnp.asarray(frames[None, begin:end], jnp.float32) / 127.5 - 1).astype(dtype)
    latents, cache = vae.encode_first(video(0, first))
    parts = [latents]
    for begin in range(first, len(frames), later):
        latents, cache = vae.encode_next(cache, video(begin, begin + later))
        parts.append(latents)
    return jnp.concatenate(parts, axis=1).astype(jnp.float32)


def _picture(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{file} cannot be read as a picture: {error}") from error


def _fitted(image: Image.Image, height: int, width: int) -> UInt8[np.ndarray, "h w 3"]:
    """Cut around the centre to the film's shape, then resized."""
    return np.asarray(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))


def _at_rate(file: Path, fps: int) -> Iterator[Image.Image]:
    """The clip's frame at each moment i/fps, as long as it lasts."""
    shown, count, end = None, 0, Fraction(0)
    for image, start, end in _clip(file):
        # `shown` was on screen until now.
        while shown is not None and Fraction(count, fps) < start:
            yield shown
            count += 1
        shown = image
        if end > LONGEST:
            raise UsageError(f"{file} is longer than {LONGEST} s: cut out the part to start from")
    while shown is not None and Fraction(count, fps) < end:
        yield shown
        count += 1


def _clip(file: Path) -> Iterator[tuple[Image.Image, Fraction, Fraction]]:
    """Frames of a video with the seconds, from its first frame, when each comes and goes."""
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise DataError(f"{file} cannot be read as a clip: it has no video")
            stream = container.streams.video[0]
            rate = stream.average_rate or Fraction(25)
            zero, start = None, -1 / rate
            for frame in container.decode(stream):
                # A frame without a time follows the one before it.
                here = start + 1 / rate if frame.pts is None else frame.pts * frame.time_base
                zero = here if zero is None else zero
                start = here - zero if frame.pts is not None else here
                yield _upright(frame), start, start + 1 / rate
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise DataError(f"{file} cannot be read as a clip: {error}") from error


def _upright(frame: av.VideoFrame) -> Image.Image:
    """The frame as it is meant to be seen: telephones store their films lying down."""
    return Image.fromarray(np.rot90(frame.to_ndarray(format="rgb24"), k=round(getattr(frame, "rotation", 0) / 90)))
