"""Windows to latents.

    window -> its frames at the model's size -> one causal pass of the VAE -> work/latents/ID.npy

Latents are kept by what they depend on: a store with more films, or other captions, is made of them
again without the VAE. While a window is read, a mark lies beside the place of its latents. So after
a crash the next run knows which windows may have caused it.
"""

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import UInt8

from causalcine_jax.convert import load_vae
from causalcine_jax.data.encode import encoding_vae, paint_and_encode
from causalcine_jax.data.latent_writer import as_float16
from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video.frames import Clock, read
from causalcine_jax.errors import DataError, UsageError, disk_faults
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.utils.atomic_file import atomic_file

AT_ONCE = 8  # windows of a task, for each device or each reader

Frames = UInt8[np.ndarray, "t h w 3"]


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

    @property
    def mark(self) -> Path:
        """The file that is there while the window is read."""
        return self.file.with_suffix(".reading")


@dataclass(frozen=True)
class Task:
    """Windows that are encoded one after another, and how many are read at a time."""

    windows: tuple[WindowToEncode, ...]
    encoding: Encoding
    readers: int = 1


@functools.lru_cache(1)
def model_vae(model: Path) -> VAE:
    """The VAE of a model folder in float32, loaded once per process."""
    return load_vae(model)


@functools.lru_cache(1)
def _vae_of_each_device(model: Path) -> tuple[VAE, ...]:
    vae = encoding_vae(model, model_vae(model))
    return tuple(jax.device_put(vae, device) for device in jax.local_devices())


def _pixels(frames):
    return frames


def encode(task: Task) -> list[Reason | None]:
    """Writes the latents of a task. Returns for each window why it has none, if so.

    Each of this process's devices encodes a window while threads read the next ones.

    Raises:
      DataError: the disk is full, or latents are not finite.
    """
    with contextlib.closing(_read_ahead(task)) as all_read:
        return encode_read(all_read, task.encoding)


def encode_read(
    all_read: Iterable[tuple[WindowToEncode, Frames | Reason]], encoding: Encoding
) -> list[Reason | None]:
    """As `encode`, of windows with what `read_window` gave."""
    vaes = _vae_of_each_device(encoding.model)
    waiting: deque[tuple[Path, jax.Array]] = deque()
    reasons: list[Reason | None] = []
    for number, (window, frames) in enumerate(all_read):
        if isinstance(frames, tuple):
            reasons.append(frames)
            continue
        reasons.append(None)
        latents = paint_and_encode(vaes[number % len(vaes)], frames[None], _pixels)
        waiting.append((window.file, latents))
        if len(waiting) > len(vaes):
            _keep(*waiting.popleft())
    for done in waiting:
        _keep(*done)
    return reasons


def check(task: Task) -> list[Reason | None]:
    """Reads the windows of a task and keeps nothing. Returns as `encode` does."""
    found = (read_window(window, task.encoding) for window in task.windows)
    return [frames if isinstance(frames, tuple) else None for frames in found]


def _read_ahead(task: Task) -> Generator[tuple[WindowToEncode, Frames | Reason], None, None]:
    """Yields the windows in order, each with its frames or why it has none.

    At most `task.readers` other windows are in memory, read or being read.
    """
    ahead: deque[tuple[WindowToEncode, Future[Frames | Reason]]] = deque()
    pool = ThreadPoolExecutor(task.readers)  # decoding and resizing hold no lock of Python's
    try:
        for window in task.windows:
            ahead.append((window, pool.submit(read_window, window, task.encoding)))
            if len(ahead) > task.readers:
                window, frames = ahead.popleft()
                yield window, frames.result()
        while ahead:
            window, frames = ahead.popleft()
            yield window, frames.result()
    finally:
        pool.shutdown(cancel_futures=True)


def read_window(window: WindowToEncode, encoding: Encoding) -> Frames | Reason:
    """A window's frames, or why it has none. Its mark is there meanwhile."""
    with disk_faults(f"cannot write {window.mark}"):
        window.mark.parent.mkdir(parents=True, exist_ok=True)
        window.mark.touch()
    size = encoding.height, encoding.width
    try:
        frames = np.empty((sum(b - a for a, b in window.ranges), *size, 3), np.uint8)
        for number, frame in enumerate(read(window.video, window.clock, window.ranges, *size)):
            frames[number] = frame
        return frames
    except (UsageError, DataError) as error:
        return "unreadable", str(error)
    finally:
        window.mark.unlink(missing_ok=True)


def _keep(file: Path, latents: jax.Array) -> None:
    values = as_float16(np.asarray(latents[0], np.float32))
    with atomic_file(file) as partial, open(partial, "wb") as opened:
        np.save(opened, values)


def tasks(
    windows: Iterable[WindowToEncode],
    encoding: Encoding,
    *,
    readers: int = 1,
    devices: int = 1,
    by_video: bool,
) -> Iterator[Task]:
    """The windows as tasks, each of one video if `by_video`: a crash then costs no other video."""
    at_once = AT_ONCE * max(readers, devices)
    videos = itertools.groupby(windows, key=lambda window: window.video if by_video else None)
    for _, group in videos:
        while some := tuple(itertools.islice(group, at_once)):
            yield Task(some, encoding, readers)


def by_window(
    results: Iterable[tuple[Task, list[Reason | None] | Reason]],
) -> Iterator[tuple[WindowToEncode, Reason | None]]:
    """The windows of all tasks, each with its own result, or the reason why its task has none."""
    for task, found in results:
        each_one = [found] * len(task.windows) if isinstance(found, tuple) else found
        yield from zip(task.windows, each_one, strict=True)
