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
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, cast

import jax
import numpy as np

from causalcine_jax.errors import DataError, UsageError, disk_faults
from causalcine_jax.parallel.gathering import all_gather_text, several
from causalcine_jax.utils.environment import one_of_several

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
    if not one_of_several():
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
    except jax.errors.JaxRuntimeError as error:  # not an error of use: a start later may succeed
        raise DataError(
            f"not all processes came within {LONGEST_START} s ({' '.join(str(error).split())})"
        ) from error
    except ValueError as error:
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


def check_shared(folder: Path, field: str) -> None:
    """Raises `UsageError` in every process if one does not see the first one's `folder`.

    field  of the config, that names the folder
    """
    if not several():
        return

    def make() -> str:
        with disk_faults(f"cannot write into {folder}"):
            return Path(tempfile.mkdtemp(prefix=".shared-", dir=folder)).name

    mark = text_of_first(make)
    seen = (folder / mark).is_dir()
    here = f"{folder}, as the first process has it, is not there"
    check_all("" if seen else f"{here}: choose an {field} that all processes share")
    by_first((folder / mark).rmdir)


def check_same(settings: Mapping[str, Any]) -> None:
    """Raises `UsageError` in every process, naming the differences, if their settings differ.

    Args:
      settings: JSON values, nested as they are.
    """
    if not several():
        return
    first, *others = (
        flat_settings(json.loads(text)) for text in all_gather_text(json.dumps(settings))
    )
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


def check_same_films(films_of_all: np.ndarray | jax.Array, sharing: int) -> None:
    """Raises `DataError` in every process if processes that share films have different ones.

    A process that skipped a record has another film than those that could read it.

    Args:
      films_of_all: from the function of that name; waits until it is there.
      sharing: processes, adjacent by number, that share films.
    """
    taken = np.asarray(films_of_all).tolist()
    for number, films in enumerate(taken):
        first = number - number % sharing
        if films != taken[first]:
            raise DataError(
                f"process {first} has read films {taken[first]} and process {number} films {films} "
                "for the same part of a batch: one skipped a record that it found damaged; look "
                "for its warning, and whether all processes see the same store"
            )


def flat_settings(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their names joined by dots."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = dict(zip(map(str, range(len(value))), value))
        found |= (
            flat_settings(value, f"{prefix}{name}.")
            if isinstance(value, dict)
            else {prefix + name: value}
        )
    return found


def _shortened(faults: list[str]) -> str:
    more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return "; ".join(faults[:SHOWN]) + more
