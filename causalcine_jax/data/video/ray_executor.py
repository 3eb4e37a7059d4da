"""The stages on a Ray cluster, by Ray Data.

    tasks -> rows -> map_batches on CPU cores -> rows of results
    windows -> rows -> read on CPU cores -> encoded by actors with GPUs -> rows of reasons

A row is one pickled item, because tasks and results are of any class. Only this process writes the
stages' rows to OUT/work; workers write latents alone, so a run goes on as one without Ray does.

Ray runs again what a dead worker or node had begun. A task that is lost for good is begun anew
among the other lost ones, until none of them gives a result: those have the reason "crash".
"""

import functools
import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.util.annotations import RayDeprecationWarning

from causalcine_jax.data.pool import CRASH
from causalcine_jax.data.video import encode
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.encode import Encoding, WindowToEncode
from causalcine_jax.errors import DataError, first_line
from causalcine_jax.utils.compile_cache import keep_compiled

TRIES = 2  # more that Ray makes of a task whose worker or node died: Ray Data never ends them
MOST_BLOCKS = 10_000  # of a pass; with more tasks, several are one unit of Ray's work
# Workers read jax's settings when it is imported: they are set as those of this process are. But
# which devices and which folder of programs to use depends on the worker's host.
PASSED_ON, OF_A_HOST = ("JAX_", "XLA_"), ("JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR")
GPU_WORKER = {"JAX_PLATFORMS": ""}  # a cluster that the command starts inherits its "cpu"
CPU_WORKER = {"JAX_PLATFORMS": "cpu", "NPROC": "1"}  # XLA starts NPROC threads, else one per core


@dataclass(frozen=True)
class _Failed:
    """What a task raised."""

    error: Exception


@dataclass(frozen=True)
class _Stage:
    """A function of tasks on a worker; `gpus` for an actor that has some, 0 for CPU cores alone.

    sees  paths that a worker's host must have, because it reads or writes there
    """

    function: Callable[[list[Any]], list[Any]]
    gpus: int
    sees: tuple[Path, ...]

    def __call__(self, rows: pa.Table) -> pa.Table:
        items = [pickle.loads(item.as_buffer()) for item in rows["item"]]
        good = [item for item in items if not isinstance(item[1], _Failed)]
        try:
            _begin(self.sees)
            results = self.function([task for _, task in good])
        except Exception as error:  # raised again where the results are read
            results = [_Failed(error)] * len(good)
        done = [(number, result) for (number, _), result in zip(good, results, strict=True)]
        return _rows([*done, *(item for item in items if isinstance(item[1], _Failed))])


class _Actor:
    """A stage in a process of its own, where networks stay loaded."""

    def __init__(self, stage: _Stage):
        self._stage = stage

    def __call__(self, rows: pa.Table) -> pa.Table:
        return self._stage(rows)


@dataclass(frozen=True)
class RayExecutor:
    """`gpus` of each process that encodes; 0 encodes on CPU cores. `sees` as of a stage."""

    gpus: int
    sees: tuple[Path, ...] = field(default=())

    def each(self, function, tasks, gpus: int = 0):
        stage = _Stage(partial(_one_by_one, function), gpus, self.sees)
        return _until_none_ends(tasks, [stage])

    def on_devices(self, function, tasks):
        return self.each(function, tasks, self.gpus)

    def encoded(self, windows, encoding):
        if not self.gpus:  # where frames are read they are encoded: they need not be moved
            tasks = encode.tasks(windows, encoding, by_video=True)
            yield from encode.by_window(self.each(encode.encode, list(tasks)))
            return
        reads = partial(_one_by_one, partial(_with_frames, encoding))
        encodes = partial(encode.encode_read, encoding=encoding)
        stages = [_Stage(reads, 0, self.sees), _Stage(encodes, self.gpus, self.sees)]
        yield from _until_none_ends(windows, stages)


def ray_executor(config: PrepareConfig) -> RayExecutor:
    """The executor of the cluster that this process has joined.

    Raises:
      DataError: the cluster has fewer GPUs than one process asks for.
    """
    there = int(ray.cluster_resources().get("GPU", 0))
    gpus = min(there, 1) if config.gpus_per_worker is None else config.gpus_per_worker
    if gpus > there:
        raise DataError(
            f"--gpus-per-worker {gpus}, and the Ray cluster has {there}: ask for fewer, 0 encodes "
            "on CPU cores"
        )
    return RayExecutor(gpus, (config.folder, config.model, config.out))


def _one_by_one(function: Callable[[Any], Any], tasks: list[Any]) -> list[Any]:
    return [function(task) for task in tasks]


def _with_frames(encoding: Encoding, window: WindowToEncode):
    return window, encode.read_window(window, encoding)


@functools.cache
def _begin(sees: tuple[Path, ...]) -> None:
    """What a worker does first. `DataError` if its host lacks a path."""
    for path in sees:
        if not path.exists():
            raise DataError(
                f"{path} is not there on {socket.gethostname()}: with --ray every host of the "
                "cluster must have the videos, --model and --out at the same paths"
            )
    keep_compiled()


def _set_up() -> None:
    """What Ray Data is told in this process."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # the tasks of a dead worker are found missing
    # ray_remote_args_fn: the extra [ray] ends before the version without it.
    warnings.filterwarnings("ignore", category=RayDeprecationWarning)
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.CRITICAL)  # Ray's own files keep it all


def _until_none_ends(tasks: Sequence[Any], stages: Sequence[_Stage]) -> Iterator[tuple[Any, Any]]:
    """Yields every task with its result, those that are lost again and again with CRASH."""
    _set_up()
    waiting, before = dict(enumerate(tasks)), len(tasks) + 1
    while waiting and len(waiting) < before:
        before = len(waiting)
        try:
            for number, result in _pass(waiting.items(), stages):
                if isinstance(result, _Failed):
                    raise result.error
                yield waiting.pop(number), result
        except ray.exceptions.RayError as error:
            raise DataError(
                f"the Ray cluster failed: {first_line(error)}; run again to go on"
            ) from error
    for task in waiting.values():
        yield task, CRASH


def _pass(items: Iterable[tuple[int, Any]], stages: Sequence[_Stage]) -> Iterator[tuple[int, Any]]:
    """Yields the results of those tasks that are not lost."""
    rows = [{"item": pickle.dumps(item)} for item in items]
    made = ray.data.from_items(rows, override_num_blocks=min(len(rows), MOST_BLOCKS))
    for stage in stages:
        shared: dict[str, Any] = {
            "batch_format": "pyarrow",
            "batch_size": stage.gpus or 1,
            "runtime_env": {"env_vars": _environment(stage.gpus)},
        }
        if stage.gpus:
            most = max(int(ray.cluster_resources().get("GPU", 0)) // stage.gpus, 1)
            made = made.map_batches(
                _Actor,
                fn_constructor_args=(stage,),
                compute=ray.data.ActorPoolStrategy(min_size=1, max_size=most),
                num_gpus=stage.gpus,
                num_cpus=0,  # or readers and encoders could wait for each other on few cores
                ray_remote_args_fn=lambda: {"max_task_retries": TRIES},
                **shared,
            )
        else:
            made = made.map_batches(
                partial(_run, stage),
                num_cpus=1,
                ray_remote_args_fn=lambda: {"max_retries": TRIES},
                **shared,
            )
    for done in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        for item in done["item"]:
            yield pickle.loads(item.as_buffer())


def _run(stage: _Stage, rows: pa.Table) -> pa.Table:
    return stage(rows)


def _rows(items: Iterable[Any]) -> pa.Table:
    """Binary with 64-bit offsets: the frames of a window may take more than 2 GiB."""
    pickled = [pickle.dumps(item, pickle.HIGHEST_PROTOCOL) for item in items]
    return pa.table({"item": pa.array(pickled, pa.large_binary())})


def _environment(gpus: int) -> dict[str, str]:
    passed = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(PASSED_ON) and name not in OF_A_HOST
    }
    return passed | (GPU_WORKER if gpus else CPU_WORKER)
