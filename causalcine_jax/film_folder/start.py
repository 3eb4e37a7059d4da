"""A film that goes on from a picture or a clip.

    file -> frames at the film's rate and size -> whole chunks
         -> VAE, chunk by chunk -> latents [1, F, h, w, z]

The director commits these latents as the film's first chunks, under the start's caption, instead of
denoising noise. They are decoded like every chunk, and those frames open the film. So the decoder's
cache is that of a running film, and the model's first frame follows frames of the same VAE. The
start is the story's first shot.

The file's content decides its type. A picture is held for one chunk. A clip is sampled at the
film's frame rate, and the film goes on from its end. Frames beyond whole chunks are dropped from
the clip's beginning. Both are cropped around the centre to the film's shape.
"""

import dataclasses
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film_folder.record import with_start
from causalcine_jax.models.vae.video import encode_pieces, to_model_range
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.render import clip, still
from causalcine_jax.render.clip import Frame
from causalcine_jax.render.colour import ToLastingRGB
from causalcine_jax.story import Story
from causalcine_jax.utils.atomic_file import file_hash

ALL_SEEN = 0.995  # of a frame's side: less is said to be cut


@dataclass(frozen=True)
class Start:
    """A picture or clip to start from, with its caption, and the file's expected hash if known."""

    file: Path
    caption: str
    sha256: str | None = None


@dataclass(frozen=True)
class Opening:
    """A start ready to be filmed.

    story    with the start's shot in front
    latents  of the start's chunks
    record   the start's entry in film.json
    notes    what was changed or cropped
    """

    story: Story
    latents: Float[Array, "1 f h w z"]
    record: dict[str, Any]
    notes: tuple[str, ...] = ()


def chosen_start(
    file: Path | None, caption: str | None, recorded: dict[str, Any] | None
) -> Start | None:
    """The start of --start and --start-caption, or the one of a film.json; None without any.

    If the file of a film.json's start has moved, --start names it without a caption.

    Raises:
      UsageError: a caption without a file, or a file without a caption.
    """
    said = recorded
    if file is None and caption is None:
        return Start(Path(said["file"]), said["caption"], said["sha256"]) if said else None
    if file is None:
        raise UsageError(
            "--start-caption says what a picture or clip shows: name it with --start FILE"
        )
    if caption is None and said:
        return Start(file, said["caption"], said["sha256"])
    if caption is None or not caption.strip():
        raise UsageError(
            f"a film that starts from {file} needs the caption of what it shows: "
            "--start-caption TEXT"
        )
    return Start(file, caption.strip())


def opening(start: Start, story: Story, model: Model) -> Opening:
    """Reads, cuts and encodes a start for the film of `story`.

    Raises:
      UsageError: the clip is shorter than a chunk or longer than clip.LONGEST, or the file's hash
        is not `start.sha256`.
      DataError: the file is missing, or cannot be read as a picture or a clip.
    """
    if start.file.exists() and not start.file.is_file():
        raise UsageError(f"{start.file} is no file: name a picture or a clip with --start")
    digest = file_hash(start.file)
    if start.sha256 not in (None, digest):
        raise UsageError(
            f"{start.file} is not the file that this film started from (its SHA-256 is "
            f"{digest[:12]}..., not {start.sha256[:12]}...): name that file with --start"
        )
    video = model.video if story.video.height is None else story.video
    stride = model.vae.cfg.temporal_stride
    lengths = stride * (model.chunk_frames - 1) + 1, stride * model.chunk_frames
    notes: list[str] = []
    frames = read_frames(start.file, *video.size, story.video.fps, lengths, notes.append)
    latents = encode(model.vae, frames, lengths)
    chunks = latents.shape[1] // model.chunk_frames
    record = {"file": str(start.file), "sha256": digest, "caption": start.caption, "chunks": chunks}
    return Opening(
        with_start(story, record),
        latents,
        record,
        tuple(f"{start.file}: {note}" for note in notes),
    )


def without_start(story: Story) -> Story:
    """The story as it was before `opening` put the start's shot in front."""
    return dataclasses.replace(story, shots=story.shots[1:])


def read_frames(
    file: Path,
    height: int,
    width: int,
    fps: int,
    lengths: tuple[int, int],
    tell: Callable[[str], None] = lambda note: None,
) -> UInt8[np.ndarray, "t h w 3"]:
    """The file's frames at the film's size and rate, as many as fill whole chunks, up to its end.

    lengths  frames of a first and of a later chunk
    tell     hears of what was changed or cut

    Raises as `opening` does.
    """
    first, later = lengths
    with still.opened(file) as image:
        if image is None:
            source = clip.frames(file, ToLastingRGB(), tell)
        elif still.moves(image):
            source = itertools.starmap(Frame, still.images(image, tell))
        else:
            source = iter([Frame(still.picture(image, tell), Fraction(0), Fraction(0))])
        first_two = list(itertools.islice(source, 2))
        if not first_two:
            raise DataError(f"{file} cannot be read as a clip: it holds no frames")
        _tell_of_cropping(first_two[0], height, width, tell)
        if len(first_two) == 1:
            return np.repeat(clip.fitted(first_two[0], height, width)[None], first, axis=0)
        shown_once = itertools.chain(first_two, source)
        shown = [
            clip.fitted(frame, height, width)
            for frame in clip.at_rate(map(clip.unrounded, clip.short(file, shown_once)), fps)
        ]
    if len(shown) < first:
        raise UsageError(
            f"{file} is too short to start from: {len(shown)} frames at {fps} per second, "
            f"a chunk needs {first}"
        )
    dropped = (len(shown) - first) % later
    if dropped:
        kept = len(shown) - dropped
        tell(
            f"the film goes on from its end: its last {kept / fps:.4g} s are kept, which fill "
            f"whole chunks; {dropped / fps:.4g} s before them are cut"
        )
    return np.stack(shown[dropped:])


def encode(
    vae: VAE, frames: UInt8[np.ndarray, "t height width 3"], lengths: tuple[int, int]
) -> Float[Array, "1 f h w z"]:
    """Normalised latents of the frames, encoded chunk by chunk to bound memory."""
    first, later = lengths
    dtype = vae.conv2.weight[...].dtype
    bounds = [0, *range(first, len(frames), later), len(frames)]
    pieces = (
        to_model_range(jnp.asarray(frames[None, begin:end])).astype(dtype)
        for begin, end in itertools.pairwise(bounds)
    )
    return jnp.concatenate(encode_pieces(vae, pieces), axis=1).astype(jnp.float32)


def _tell_of_cropping(frame: Frame, height: int, width: int, tell: Callable[[str], None]) -> None:
    rows, columns = clip.seen(frame, height, width)
    for seen, whole, name in (
        (rows, frame.image.height, "height"),
        (columns, frame.image.width, "width"),
    ):
        if seen < ALL_SEEN * whole:
            tell(f"the film's shape shows the middle {100 * seen / whole:.0f} % of its {name}")
