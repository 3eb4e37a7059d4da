"""Windows to latents.

    window -> its frames at the model's size -> one causal pass of the VAE -> work/latents/ID.npy

Latents are kept by what they depend on: a store with more films, or other captions, is made of them
again without the VAE.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from causalcine_jax.convert import load_vae
from causalcine_jax.data.encode import paint_and_encode
from causalcine_jax.data.latent_writer import as_float16
from causalcine_jax.data.video.filters import Reason
from causalcine_jax.data.video.frames import Clock, read
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.utils.atomic_file import atomic_file


@dataclass(frozen=True)
class Encoding:
    """What latents depend on beside their frames: the model's folder, and the size in pixels."""

    model: Path
    height: int
    width: int


@dataclass(frozen=True)
class Task:
    """Following windows of one video: their frames, and where their latents go."""

    video: Path
    clock: Clock
    ranges: tuple[list[tuple[int, int]], ...]
    files: tuple[Path, ...]
    encoding: Encoding


ToEncode = tuple[Path, Clock, list[tuple[int, int]], Path]


@functools.lru_cache(1)
def model_vae(model: Path) -> VAE:
    """The VAE of a model folder, loaded once per process."""
    return load_vae(model)


def _pixels(frames):
    return frames


def encode(task: Task) -> list[Reason | None]:
    """Writes the latents of a task. Returns for each window why it has none, if so.

    Raises:
      DataError: the disk is full, or latents are not finite.
    """
    vae = model_vae(task.encoding.model)
    waiting: list[tuple[Path, jax.Array]] = []
    reasons: list[Reason | None] = []
    for ranges, file in zip(task.ranges, task.files, strict=True):
        size = task.encoding.height, task.encoding.width
        try:
            frames = np.stack(list(read(task.video, task.clock, ranges, *size)))
        except (UsageError, DataError) as error:
            reasons.append(("unreadable", str(error)))
            continue
        reasons.append(None)
        # The device encodes this window while the host decodes the next.
        latents = paint_and_encode(vae, frames[None], _pixels)
        for done in waiting:
            _keep(*done)
        waiting = [(file, latents)]
    for done in waiting:
        _keep(*done)
    return reasons


def _keep(file: Path, latents: jax.Array) -> None:
    values = as_float16(np.asarray(latents[0], np.float32))
    with atomic_file(file) as partial, open(partial, "wb") as opened:
        np.save(opened, values)


def tasks(windows: Sequence[ToEncode], encoding: Encoding, most: int = 8) -> Iterator[Task]:
    """Windows (video, clock, ranges, file of latents), those of a video together, as tasks."""
    group: list[ToEncode] = []

    def task() -> Task:
        video, clock, *_ = group[0]
        return Task(video, clock, tuple(w[2] for w in group), tuple(w[3] for w in group), encoding)

    for window in windows:
        if group and (window[0] != group[0][0] or len(group) == most):
            yield task()
            group = []
        group.append(window)
    if group:
        yield task()
