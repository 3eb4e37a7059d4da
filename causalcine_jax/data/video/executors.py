"""Where the stages run: processes of this machine, or a Ray cluster (ray_executor.py).

Both call the same functions of the stages, so both make the same rows and latents.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax

from causalcine_jax.data import pool
from causalcine_jax.data.pool import Reason, Result, Task
from causalcine_jax.data.video import encode
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.encode import Encoding, WindowToEncode


class Executor(Protocol):
    def each(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result | Reason]]:
        """As pool.each."""
        ...

    def on_devices(
        self, function: Callable[[Task], Result], tasks: Sequence[Task]
    ) -> Iterator[tuple[Task, Result | Reason]]:
        """As `each`, by processes that have the devices that encode."""
        ...

    def encoded(
        self, windows: Sequence[WindowToEncode], encoding: Encoding
    ) -> Iterator[tuple[WindowToEncode, Reason | None]]:
        """Writes the latents of all windows. Yields each, in any order, with why it has none."""
        ...


@dataclass(frozen=True)
class Processes:
    """This machine. `workers` as in PrepareConfig."""

    workers: int = 1

    def each(self, function, tasks):
        return pool.each(function, tasks, self.workers)

    def on_devices(self, function, tasks):
        return pool.each(function, tasks, 1)

    def encoded(self, windows, encoding):
        failed = {window.file: reason for window, reason in _crashing(windows, encoding) if reason}
        yield from ((window, failed[window.file]) for window in windows if window.file in failed)
        # Accelerators belong to one process, so there threads read.
        processes, readers = (
            (self.workers, 1) if jax.default_backend() == "cpu" else (1, self.workers)
        )
        tasks = encode.tasks(
            [window for window in windows if window.file not in failed],
            encoding,
            readers=readers,
            devices=jax.local_device_count(),
            by_video=processes > 1,
        )
        yield from encode.by_window(pool.each(encode.encode, list(tasks), processes))


def _crashing(
    windows: Sequence[WindowToEncode], encoding: Encoding
) -> Iterator[tuple[WindowToEncode, Reason | None]]:
    """Reads those windows that a run was reading when it ended; yields why they cannot be read.

    Each is read in a process of its own: it may have ended that run.
    """
    suspects = [encode.Task((window,), encoding) for window in windows if window.mark.exists()]
    return encode.by_window(pool.alone(encode.check, suspects))


@contextlib.contextmanager
def executor_of(config: PrepareConfig) -> Iterator[Executor]:
    """The one that a request asks for.

    Raises:
      UsageError: Ray is not installed.
      DataError: no cluster can be had, or it lacks the devices.
    """
    if config.ray is None:
        yield Processes(config.workers)
        return
    from causalcine_jax.utils.ray_cluster import joined

    with joined(config.ray):
        from causalcine_jax.data.video.ray_executor import ray_executor

        yield ray_executor(config)
