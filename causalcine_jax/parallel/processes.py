"""One run by several processes, such as the hosts of a pod: each runs the whole program on devices of its own, all in step with each other.

    JAX_COORDINATOR_ADDRESS=HOST:PORT   a free port of the first process's host, with JAX_NUM_PROCESSES=N and JAX_PROCESS_ID=0..N-1
    JAX_COORDINATOR_PORT=PORT           instead, where jax finds host, number and id itself: Slurm, Open MPI, Kubernetes, Cloud TPU

Where neither is set there is one process, and nothing here does anything. Arrays span the devices of all processes, so what is computed with
them is computed by all, in the same order; what is printed and written for people is the first's.
"""

import atexit
import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from causalcine_jax.errors import DataError, UsageError

STARTED_BY = ("JAX_COORDINATOR_ADDRESS", "JAX_COORDINATOR_PORT")
LONGEST_END = (
    24 * 3600
)  # seconds that processes which have ended wait for the first, who may still be making a film
LONELY_END = 10  # and those that one which has failed waits for others who have failed with it
SHOWN = 6  # differences in an error

Result = TypeVar("Result")


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """This process as one of those that the environment speaks of, from before the first use of a device on.

    A process that fails alone ends soon: the others, who wait for it in the midst of their work, cannot.

    Raises:
      UsageError: the environment's values make no sense.
    """
    if not any(os.environ.get(name) for name in STARTED_BY):
        yield
        return
    # SIGTERM is ours: the run stops by itself, at a step that all agree on (training/stopping.py).
    jax.config.update("jax_enable_preemption_service", False)
    try:
        count, own = (os.environ.get(name) for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"))
        jax.distributed.initialize(
            num_processes=int(count) if count else None,
            process_id=int(own) if own else None,
            shutdown_timeout_seconds=LONGEST_END,
        )
    except ValueError as error:
        raise UsageError(
            f"cannot start as one of several processes ({' '.join(str(error).split())}): set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID; or JAX_COORDINATOR_PORT alone, on a cluster that jax knows"
        ) from error
    try:
        yield
    except BaseException:
        at_end = threading.Event()
        # Begun now: from 3.12 on, Python begins no thread while it ends.
        leaving = threading.Thread(
            target=lambda: at_end.wait() and jax.distributed.shutdown(), daemon=True
        )
        leaving.start()
        atexit.register(_end_alone, at_end, leaving)
        raise


def _end_alone(at_end: threading.Event, leaving: threading.Thread) -> None:
    """Takes leave of the others, but does not wait for those who do not come: jax would, for as long as for the first's film."""
    at_end.set()
    leaving.join(LONELY_END)
    if leaving.is_alive():
        os._exit(1)


def several() -> bool:
    return jax.process_count() > 1


def is_first() -> bool:
    """Whether this process prints, and writes what all would write alike."""
    return jax.process_index() == 0


def by_first(work: Callable[[], Result]) -> Result | None:
    """What `work` returns, in the first process, which alone does it; None in the others, who wait. What it raises is raised in all."""
    if not several():
        return work()
    made, errors = _tried(work if is_first() else lambda: None)
    if errors:
        raise errors[0]
    return made


def by_all(work: Callable[[], Result]) -> Result:
    """What `work` returns, which every process does for itself, without waiting for others. What it raises in any is raised in all."""
    if not several():
        return work()
    made, errors = _tried(work)
    if errors:
        said = {number: str(error) for number, error in errors.items()}
        alike = len(said) == jax.process_count() and len(set(said.values())) == 1
        kind = type(next(iter(errors.values())))
        raise kind(
            said[0]
            if alike
            else _shortened([f"process {number}: {message}" for number, message in said.items()])
        )
    return made


def _tried(work: Callable[[], Result]) -> tuple[Result | None, dict[int, UsageError | DataError]]:
    """What `work` returns here, and what it raised in the processes where it failed."""
    made, failed = None, None
    try:
        made = work()
    except (UsageError, DataError) as error:
        failed = [isinstance(error, UsageError), str(error)]
    told = map(json.loads, all_gather_text(json.dumps(failed)))
    return made, {
        number: (UsageError if said[0] else DataError)(said[1])
        for number, said in enumerate(told)
        if said
    }


def check_all(fault: str) -> None:
    """`UsageError` in every process if any of them has a `fault`; "" is none."""

    def check() -> None:
        if fault:
            raise UsageError(fault)

    by_all(check)


def check_same(settings: Mapping[str, Any]) -> None:
    """`UsageError` in every process, naming what differs, if they were not started with the same settings (JSON values, nested as they are)."""
    if not several():
        return
    first, *others = (_flat(json.loads(text)) for text in all_gather_text(json.dumps(settings)))
    lacks = "(nothing)"
    faults = [
        f"{name} is {first.get(name, lacks)!r} in process 0 and {other.get(name, lacks)!r} in process {number}"
        for number, other in enumerate(others, 1)
        for name in sorted({*first, *other})
        if first.get(name, lacks) != other.get(name, lacks)
    ]
    if faults:
        raise UsageError(f"the processes were not started alike: {_shortened(faults)}")


def all_gather_text(text: str) -> list[str]:
    """What each process says, in their order."""
    content = np.frombuffer(text.encode("utf-8"), np.uint8)
    sizes = _all_gather(np.array([len(content)], np.int32))[:, 0]
    padded = np.zeros(int(sizes.max()) + 1, np.uint8)
    padded[: len(content)] = content
    return [
        bytes(row[:size]).decode("utf-8")
        for row, size in zip(_all_gather(padded), sizes, strict=True)
    ]


def any_process(asked: bool) -> bool | jax.Array:
    """Whether any process is asked. With several, the answer is a device array, on its way: reading it waits for all."""
    return _any(_as_rows(np.array([asked]))) if several() else asked


def gather_to_host(array: jax.Array | np.ndarray) -> np.ndarray:
    """An array on the host, all of it. Every process must ask for one that lies on devices of several."""
    if isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    ):
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def _as_rows(own: np.ndarray) -> jax.Array:
    """Every process's `own` array, of one shape and dtype, as a row of a global one: on one device of each."""
    return jax.make_array_from_process_local_data(_row_each(), own[None])


@functools.cache
def _row_each() -> NamedSharding:
    devices = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([devices[process] for process in sorted(devices)]), "processes")
    return NamedSharding(mesh, PartitionSpec("processes"))


def _all_gather(own: np.ndarray) -> np.ndarray:
    return gather_to_host(_as_rows(own))


@jax.jit
def _any(flags: jax.Array) -> jax.Array:
    return flags.any()


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
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
