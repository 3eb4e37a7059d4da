"""Seconds, spread and bytes. A time is of a program that is compiled and has run before, up to the moment its result is ready."""

import resource
import time
from collections.abc import Callable
from statistics import mean, median
from typing import Any

import jax

from causalcine_jax.planning.flops import peak


def spread(seconds: list[float]) -> dict[str, float]:
    """Median, mean, and how far apart the times lie."""
    return {
        "median": median(seconds),
        "mean": mean(seconds),
        "shortest": min(seconds),
        "longest": max(seconds),
        "repeats": len(seconds),
    }


def timed(call: Callable[[], Any]) -> float:
    """Seconds until what `call` returns is ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def measure(call: Callable[[], Any], repeats: int) -> dict[str, float]:
    """`call` once to compile and warm up, then `repeats` times."""
    timed(call)
    return spread([timed(call) for _ in range(repeats)])


def rates(flop: float, seconds: float, dtype, devices: int = 1) -> dict[str, float | None]:
    """Operations a second over the devices that ran them, and as a fraction (MFU) of what those could do in this dtype; None where that is not known."""
    best, rate = peak(jax.devices()[0].device_kind, str(dtype)), flop / seconds
    return {"flop": flop, "flop_per_second": rate, "mfu": rate / (best * devices) if best else None}


def program_bytes(compiled) -> dict[str, int]:
    """What a compiled program needs on each device: arguments and results (what is donated counts once), and temporaries."""
    stats = compiled.memory_analysis()
    held = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return {
        "held": held,
        "temporary": stats.temp_size_in_bytes,
        "together": held + stats.temp_size_in_bytes,
    }


def device_bytes() -> dict[str, int] | None:
    """Bytes in use on the first device, and the most since the process began; None where the device does not count (CPUs)."""
    stats = jax.devices()[0].memory_stats()
    return {"in_use": stats["bytes_in_use"], "peak": stats["peak_bytes_in_use"]} if stats else None


def process_bytes() -> dict[str, int]:
    """Resident memory of this process, and the most since it began; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm") as file:
            now = int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        now = 0
    most = (
        1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )  # noted by the system now and then only
    return {"in_use": now, "peak": max(now, most)}


def memory() -> dict[str, int]:
    """Of the device where it counts, else of the process."""
    counted = device_bytes()
    return {"of": "device", **counted} if counted else {"of": "process", **process_bytes()}
