"""Keeps a test process small: jax keeps every program that it has compiled."""

import ctypes
import gc
import os

import jax

from causalcine_jax.utils.machine_memory import GB, memory_size


def forget_programs() -> None:
    """Frees compiled programs once the process is large. Those needed again come from the cache."""
    from benchmarks.timing import process_bytes  # jaxtyping's hook must come before it

    if process_bytes()["in_use"] > most():
        gc.collect()
        jax.clear_caches()
        _return_freed_memory()


def most() -> float:
    """Bytes that one process may keep: all together a third of the machine's.

    Not more than 5 GB, which nearly all tests' programs take.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1))
    return min(5 * GB, (memory_size() or 8 * GB) / 3 / workers)


def _return_freed_memory() -> None:
    """glibc keeps what programs leave, which are many small blocks, until it is asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
