"""The time that a program is expected to take: peaks times the fractions that kernels attain.

    attained.json: chip or platform -> kind of work -> fraction of the peak, its range, its source
    operations by kind, bytes, collectives, launches --expected--> seconds, and how sure

Nothing is taken to overlap, so `seconds` is the sum of all parts. A chip's own entry, which
`causalcine bench ceilings --keep-rates` writes from measurements, goes before its platform's.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from causalcine_jax.planning.hardware import HardwareTarget
from causalcine_jax.planning.roofline import Roofline

FILE = Path(__file__).with_name("attained.json")
PRODUCTS = ("wide products", "narrow products", "attention", "convolutions")
KINDS = (*PRODUCTS, "memory", "collectives", "launch_seconds")
ENDS = ("expected", "low", "high")


@dataclass(frozen=True)
class AttainedRate:
    """A fraction of a peak, or the seconds of a launch.

    how  measured (here, on that chip), published (by others), or estimated
    """

    expected: float
    low: float
    high: float
    how: str
    source: str


@dataclass(frozen=True)
class Expected:
    """Seconds of a run; `least` and `most` take every rate at the end of its range.

    parts  seconds by kind of work
    """

    seconds: float
    least: float
    most: float
    parts: dict[str, float]


@cache
def rates(target: HardwareTarget) -> dict[str, AttainedRate]:
    """kind -> rate on that chip."""
    known = json.loads(FILE.read_text(encoding="utf-8"))
    chip = target.name.partition(":")[0]
    entries = known[target.chip.platform] | known.get(chip, {})
    return {kind: AttainedRate(**entries[kind]) for kind in KINDS}


def expected(
    target: HardwareTarget, flops: dict[str, float], line: Roofline, launches: int
) -> Expected:
    """The expected time of a program with this roofline.

    Args:
      flops: of all devices together, by kind of product.
      launches: kernels that a device starts in one run.
    """
    known, peak = rates(target), target.devices * target.chip.flops
    at_peak = {kind: flops.get(kind, 0.0) / peak for kind in PRODUCTS}
    at_peak |= {"memory": line.memory, "collectives": line.collectives}

    def parts(end: str) -> dict[str, float]:
        rate = lambda kind: getattr(known[kind], end)
        return {kind: seconds / rate(kind) for kind, seconds in at_peak.items()} | {
            "launches": launches * getattr(known["launch_seconds"], _OPPOSITE[end]),
            "copies": line.copies or 0.0,
        }

    middle, slow, fast = (parts(end) for end in ENDS)
    return Expected(sum(middle.values()), sum(fast.values()), sum(slow.values()), middle)


# A launch is fast where its seconds are low.
_OPPOSITE = {"expected": "expected", "low": "high", "high": "low"}


def how_sure(target: HardwareTarget) -> str:
    """One line: which rates are measured, published or estimated."""
    by_how: dict[str, list[str]] = {}
    for kind, rate in rates(target).items():
        by_how.setdefault(rate.how, []).append(kind.replace("_seconds", " gaps"))
    order = sorted(by_how, key=["measured", "published", "estimated"].index)
    return "; ".join(f"{how}: {', '.join(by_how[how])}" for how in order)


def rate_lines(target: HardwareTarget) -> list[str]:
    """Every rate with its source."""
    return [
        f"{kind}: {rate.expected:g} ({rate.low:g} to {rate.high:g}), {rate.how}: {rate.source}"
        for kind, rate in rates(target).items()
    ]
