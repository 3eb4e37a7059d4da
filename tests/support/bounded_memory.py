"""Keeps a test process small: jax keeps every program that it has compiled."""

import ctypes

import jax

MOST = 2 * 2**30  # bytes; without a bound, one of two processes grew to 5.5 GB


def forget_programs() -> None:
    """Frees compiled programs once the process is large. Those needed again come from the cache."""
    from benchmarks.timing import process_bytes  # jaxtyping's hook must come before it

    if process_bytes()["in_use"] > MOST:
        jax.clear_caches()
        _return_freed_memory()


def _return_freed_memory() -> None:
    """glibc keeps what programs leave, which are many small blocks, until it is asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
