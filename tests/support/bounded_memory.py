"""Keeps a test process small: jax keeps every program that it has compiled."""

import ctypes
import os
from pathlib import Path

import jax

MOST = 2 * 2**30  # bytes; without a bound, one of two processes grew to 5.5 GB


def forget_programs() -> None:
    """Frees compiled programs once the process is large. Those needed again come from the cache."""
    if resident_bytes() > MOST:
        jax.clear_caches()
        _return_freed_memory()


def resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _return_freed_memory() -> None:
    """glibc keeps what programs leave, which are many small blocks, until it is asked."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)
