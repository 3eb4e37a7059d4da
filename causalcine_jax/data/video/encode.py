"""Windows to latents.

    window -> its frames at the model's size -> one causal pass of the VAE -> work/latents/ID.npy

Latents are kept by what they depend on: a store with more films, or other captions, is made of them
again without the VAE.
"""

import functools
import itertools
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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

AT_ONCE = 8  # windows of a task, for each device


@dataclass(frozen=True)
class Encoding:
    """What latents depend on beside their frames: the model's folder, and the size in pixels."""

    model: Path
    height: int
    width: int


class WindowToEncode(NamedTuple):
    """A window's frames in its video, and the file of its latents."""

    video: Path
    clock: Clock
    ranges: list[tuple[int, int]]
    file: Path


@dataclass(frozen=True)
class Task:
    """Windows that are encoded one after another."""

    windows: tuple[WindowToEncode, ...]
    encoding: Encoding


@functools.lru_cache(1)
def model_vae(model: Path) -> VAE:
    """The VAE of a model folder, loaded once per process."""
    return load_vae(model)


@functools.lru_cache(1)
def _vae_of_each_device(model: Path) -> tuple[VAE, ...]:
    return tuple(jax.device_put(model_vae(model), device) for device in jax.local_devices())


def _pixels(frames):
    return frames


def encode(task: Task) -> list[Reason | None]:
    """Writes the latents of a task. Returns for each window why it has none, if so.

    Each of this process's devices encodes a window while the host decodes the next.

    Raises:
      DataError: the disk is full, or latents are not finite.
    """
    vaes = _vae_of_each_device(task.encoding.model)
    size = task.encoding.height, task.encoding.width
    waiting: deque[tuple[Path, jax.Array]] = deque()
    reasons: list[Reason | None] = []
    for number, window in enumerate(task.windows):
        try:
            frames = np.stack(list(read(window.video, window.clock, window.ranges, *size)))
        except (UsageError, DataError) as error:
            reasons.append(("unreadable", str(error)))
            continue
        reasons.append(None)
        latents = paint_and_encode(vaes[number % len(vaes)], frames[None], _pixels)
        waiting.append((window.file, latents))
        if len(waiting) > len(vaes):
            _keep(*waiting.popleft())
    for done in waiting:
        _keep(*done)
    return reasons


def _keep(file: Path, latents: jax.Array) -> None:
    values = as_float16(np.asarray(latents[0], np.float32))
    with atomic_file(file) as partial, open(partial, "wb") as opened:
        np.save(opened, values)


def tasks(
    windows: Sequence[WindowToEncode], encoding: Encoding, *, by_video: bool
) -> Iterator[Task]:
    """The windows as tasks, each of one video if `by_video`: a crash then costs no other video."""
    videos = itertools.groupby(windows, key=lambda window: window.video if by_video else None)
    for _, group in videos:
        while some := tuple(itertools.islice(group, AT_ONCE * jax.local_device_count())):
            yield Task(some, encoding)
