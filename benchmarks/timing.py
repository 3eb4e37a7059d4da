"""Times and memory of programs.

A time is of a program that has been compiled and has run before, until its result is ready.
"""

import functools
import resource
import time
from collections.abc import Callable
from statistics import mean, median
from typing import Any, TypedDict

import jax

from benchmarks.flops import peak


class Used(TypedDict):
    """Bytes in use, and their peak so far."""

    in_use: int
    peak: int


class Memory(Used):
    """Whose bytes they are: the device's or the process's."""

    of: str


@functools.cache
def _loads() -> list[str]:
    """An entry per program that this process has loaded since the first call."""
    loaded: list[str] = []

    def noted(event: str, **_: str | int) -> None:
        if event == "/jax/compilation_cache/cache_hits":
            loaded.append(event)

    jax.monitoring.register_event_listener(noted)
    return loaded


def programs_loaded() -> int:
    """Programs that this process found compiled on disk since the first call."""
    return len(_loads())


def spread(seconds: list[float]) -> dict[str, float]:
    """Returns the median, the mean and the spread of times."""
    return {
        "median": median(seconds),
        "mean": mean(seconds),
        "shortest": min(seconds),
        "longest": max(seconds),
        "repeats": len(seconds),
    }


def timed(call: Callable[[], Any]) -> float:
    """Returns the seconds until the result of `call` is ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Times `call` `repeats` times, after one call that compiles and warms up."""
    timed(call)
    return spread([timed(call) for _ in range(repeats)])


def rates(flop: float, seconds: float, dtype, devices: int = 1) -> dict[str, float | None]:
    """Returns operations per second over the devices that ran them, and the MFU.

    MFU is the fraction of what the devices can do in this dtype; None if that is unknown.
    """
    best, rate = peak(jax.devices()[0].device_kind, str(dtype)), flop / seconds
    return {"flop": flop, "flop_per_second": rate, "mfu": rate / (best * devices) if best else None}


def program_bytes(compiled) -> dict[str, int]:
    """Returns a compiled program's bytes per device: arguments and results, and temporaries.

    A donated array counts once.
    """
    stats = compiled.memory_analysis()
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return {
        "held": held,
        "temporary": stats.temp_size_in_bytes,
        "together": held + stats.temp_size_in_bytes,
    }


def device_bytes() -> Used | None:
    """Returns the bytes in use on the first device, and their peak since the process began.

    None if the device does not count them (CPUs).
    """
    stats = jax.devices()[0].memory_stats()
    return {"in_use": stats["bytes_in_use"], "peak": stats["peak_bytes_in_use"]} if stats else None


def process_bytes() -> Used:
    """Returns this process's resident memory and its peak; 0 if the system does not report it."""
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        now = 0
    # The system updates the peak only now and then.
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"in_use": now, "peak": max(now, most)}


def memory() -> Memory:
    """Returns the device's memory if the device counts it, else the process's."""
    counted = device_bytes()
    return {"of": "device", **counted} if counted else {"of": "process", **process_bytes()}
