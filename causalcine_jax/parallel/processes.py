"""One run by several processes, such as the hosts of a pod.

Each process runs the whole program on its own devices, in step with the others. Start them with
one of these environment variables:

    JAX_COORDINATOR_ADDRESS=HOST:PORT   a free port of the first process's host; also set
                                        JAX_NUM_PROCESSES=N and JAX_PROCESS_ID=0..N-1
    JAX_COORDINATOR_PORT=PORT           where jax finds host, number and id itself:
                                        Slurm, Open MPI, Kubernetes, Cloud TPU

With neither there is one process, and nothing here has an effect. Arrays span the devices of all
processes, so every process runs the same computations in the same order. Only the first process
prints and writes files for people.
"""

import atexit
import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from causalcine_jax.errors import DataError, UsageError

STARTED_BY = ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT")
# Seconds that finished processes wait for the first, which may still be encoding a film.
LONGEST_END = 24 * 3600
LONGEST_START = 3600  # seconds that a process waits for the others, which may pull an image first
LONELY_END = 10  # seconds that a failed process waits for others that failed with it
SHOWN = 6  # differences listed in an error

Result = TypeVar("Result")


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Joins the process group that the environment describes. Enter it before using any device.

    A process that fails alone exits within LONELY_END seconds: the others are blocked in
    collectives and cannot take part in a clean shutdown.

    Raises:
      UsageError: the environment's values are invalid.
    """
    if not any(os.environ.get(name) for name in STARTED_BY):
        yield
        return
    # jax must not handle SIGTERM: training/stopping.py ends the run at a step that all agree on.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        count, own = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        jax.distributed.initialize(
            num_processes=int(count) if count else None,
            process_id=int(own) if own else None,
            initialization_timeout=LONGEST_START,
            shutdown_timeout_seconds=LONGEST_END,
        )
    except (ValueError, RuntimeError) as error:  # RuntimeError: not all came in time
        raise UsageError(
            f"cannot start as one of several processes ({' '.join(str(error).split())}): "
            "set JAX_COORDINATOR_ADDRESS=HOST:PORT, JAX_NUM_PROCESSES and JAX_PROCESS_ID; "
            "or JAX_COORDINATOR_PORT alone, on a cluster that jax detects"
        ) from error
    try:
        yield
    except BaseException:
        at_end = threading.Event()
        # Start the thread now: Python 3.12 and later start no thread during interpreter shutdown.
        leaving = threading.Thread(
            target=lambda: at_end.wait() and jax.distributed.shutdown(), daemon=True
        )
        leaving.start()
        atexit.register(_end_alone, at_end, leaving)
        raise


def _end_alone(at_end: threading.Event, leaving: threading.Thread) -> None:
    """Leaves the process group without a final barrier.

    jax would wait LONGEST_END, as it does for the first process's film.
    """
    at_end.set()
    leaving.join(LONELY_END)
    if leaving.is_alive():
        os._exit(1)


def several() -> bool:
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process prints, and writes the files that all processes would write alike."""
    return jax.process_index() == 0


def by_first(work: Callable[[], Result]) -> Result | None:
    """Runs `work` in the first process only and returns its result there; None in the others.

    The others wait. A UsageError or DataError of `work` is raised in every process.
    """
    if not several():
        return work()
    made, errors = _tried(work if is_first() else lambda: None)
    if errors:
        raise errors[0]
    return made


def text_of_first(work: Callable[[], str]) -> str:
    """Runs `work` as `by_first` does and returns its text in every process."""
    made = by_first(work) or ""
    return all_gather_text(made)[0] if several() else made


def by_all(work: Callable[[], Result]) -> Result:
    """Runs `work` in every process and returns this one's result.

    A UsageError or DataError of any process is raised in every process.
    """
    if not several():
        return work()
    made, errors = _tried(work)
    if errors:
        messages = {number: str(error) for number, error in errors.items()}
        alike = len(messages) == jax.process_count() and len(set(messages.values())) == 1
        listed = [f"process {number}: {message}" for number, message in messages.items()]
        kind = type(next(iter(errors.values())))
        raise kind(messages[0] if alike else _shortened(listed))
    return cast(Result, made)  # None only beside errors


def _tried(work: Callable[[], Result]) -> tuple[Result | None, dict[int, UsageError | DataError]]:
    """(result here, errors by process number) of running `work` in every process."""
    made, failed = None, None
    try:
        made = work()
    except (UsageError, DataError) as error:
        failed = [isinstance(error, UsageError), str(error)]
    reports = map(json.loads, all_gather_text(json.dumps(failed)))
    return made, {
        number: (UsageError if report[0] else DataError)(report[1])
        for number, report in enumerate(reports)
        if report
    }


def check_all(fault: str) -> None:
    """Raises `UsageError` in every process if any of them has a `fault`; "" means none."""

    def check() -> None:
        if fault:
            raise UsageError(fault)

    by_all(check)


def check_same(settings: Mapping[str, Any]) -> None:
    """Raises `UsageError` in every process, naming the differences, if their settings differ.

    Args:
      settings: JSON values, nested as they are.
    """
    if not several():
        return
    first, *others = (_flat(json.loads(text)) for text in all_gather_text(json.dumps(settings)))
    lacks = "(nothing)"
    faults = [
        f"{name} is {first.get(name, lacks)!r} in process 0 "
        f"and {other.get(name, lacks)!r} in process {number}"
        for number, other in enumerate(others, 1)
        for name in sorted({*first, *other})
        if first.get(name, lacks) != other.get(name, lacks)
    ]
    if faults:
        raise UsageError(f"the processes were not started alike: {_shortened(faults)}")


def check_same_films(own: np.ndarray, sharing: int) -> None:
    """Raises `DataError` in every process if processes that share films have different ones.

    A process that skipped a record has another film than those that could read it.

    Args:
      own: numbers of this process's films.
      sharing: processes, adjacent by number, that share films.
    """
    if sharing == 1:
        return
    taken = _all_gather(own.astype(np.int32)).tolist()
    for number, films in enumerate(taken):
        first = number - number % sharing
        if films != taken[first]:
            raise DataError(
                f"process {first} has read films {taken[first]} and process {number} films {films} "
                "for the same part of a batch: one skipped a record that it found damaged; look "
                "for its warning, and whether all processes see the same store"
            )


def all_gather_text(text: str) -> list[str]:
    """The `text` of each process, by process number."""
    content = np.frombuffer(text.encode("utf-8"), np.uint8)
    sizes = _all_gather(np.array([len(content)], np.int32))[:, 0]
    padded = np.zeros(int(sizes.max()) + 1, np.uint8)
    padded[: len(content)] = content
    return [
        bytes(row[:size]).decode("utf-8")
        for row, size in zip(_all_gather(padded), sizes, strict=True)
    ]


def any_process(asked: bool) -> bool | jax.Array:
    """Whether `asked` is true in any process.

    With several processes the result is a device array in flight; reading it waits for all.
    """
    if not several():
        return asked
    with jax.set_mesh(_one_device_each()):
        return _any(_as_rows(np.array([asked])))


def gather_to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """The full array on the host.

    If it spans the devices of several processes, every process must call this.
    """
    if spans_processes(array):
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def spans_processes(array: jax.Array | np.ndarray) -> bool:
    """Whether no process has all of an array on its own devices."""
    return isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    )


def _as_rows(own: np.ndarray) -> jax.Array:
    """Stacks every process's `own` array (one shape, one dtype) into a global array.

    Each row lies on one device of its process.
    """
    return jax.make_array_from_process_local_data(
        NamedSharding(_one_device_each(), PartitionSpec("processes")), own[None]
    )


@functools.cache
def _one_device_each() -> Mesh:
    devices = {device.process_index: device for device in reversed(jax.devices())}
    return Mesh(np.array([devices[process] for process in sorted(devices)]), "processes")


def _all_gather(own: np.ndarray) -> np.ndarray:
    # The caller may be under another mesh, such as the one that trains.
    with jax.set_mesh(_one_device_each()):
        return gather_to_host(_as_rows(own))


@jax.jit
def _any(flags: jax.Array) -> jax.Array:
    return flags.any()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(zip(map(str, range(len(value))), value))
        found |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found


def _shortened(faults: list[str]) -> str:
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return "; ".join(faults[:SHOWN]) + more
