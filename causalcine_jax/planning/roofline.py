"""The least time that a program takes at the hardware's full speed.

Its parts: arithmetic, memory traffic, collectives, copies from and to the host. `bound` is the
longest of these, as if all overlapped; `serial` is their sum, as if none did. A real step lies
between, or above where kernels do not reach the published peaks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from causalcine_jax.planning.hardware import HardwareTarget
from causalcine_jax.planning.hlo.collectives import Collective

# Rings that leave a node use the cards of all its GPUs. Other collectives use each GPU's own card.
RINGS = ("all-gather", "reduce-scatter", "all-reduce")


@dataclass(frozen=True)
class Roofline:
    """Seconds of one run of a program on each device.

    `copies` is None where the program copies at an unpublished speed; it then counts as 0.
    """

    arithmetic: float
    memory: float
    collectives: float
    copies: float | None = 0.0

    @property
    def parts(self) -> dict[str, float]:
        return {field.name: getattr(self, field.name) or 0.0 for field in fields(self)}

    @property
    def bound(self) -> float:
        return max(self.parts.values())

    @property
    def serial(self) -> float:
        return sum(self.parts.values())

    @property
    def limit(self) -> str:
        return max(self.parts, key=lambda part: self.parts[part])


def roofline(
    target: HardwareTarget,
    flops: float,
    traffic: int,
    found: Iterable[Collective],
    copied: tuple[int, int] = (0, 0),
) -> Roofline:
    """The roofline of one program.

    Args:
      flops: of all devices together.
      traffic: bytes of each device's memory traffic.
      found: the collectives of each device.
      copied: bytes that each device copies from the host and to it, at the same time.
    """
    chip = target.chip
    return Roofline(
        arithmetic=flops / target.devices / chip.flops,
        memory=traffic / chip.bandwidth,
        collectives=sum(one.bytes / speed(target, one) for one in found),
        copies=(max(copied) / chip.host if chip.host else None) if any(copied) else 0.0,
    )


def speed(target: HardwareTarget, one: Collective) -> float:
    """Bytes per second at which each device sends in this collective."""
    if not one.far:
        return target.fabric
    shared = target.domain if one.kind in RINGS else 1
    return min(target.fabric, shared * target.chip.network)


def peaks(target: HardwareTarget) -> str:
    """One line: the published speeds of each device. docs/planning.md has what else is assumed."""
    chip, far = target.chip, target.devices > target.domain
    beyond = f", {chip.network / 1e9:.0f} GB/s beyond a node" if far else ""
    host = f"{chip.host / 1e9:.0f} GB/s" if chip.host else "an unknown speed"
    links = f"{target.fabric / 1e9:.0f} GB/s to other devices{beyond}, {host} to the host"
    speed = f"{chip.flops / 1e12:.0f} TFLOP/s (bf16), {chip.bandwidth / 1e9:.0f} GB/s of memory"
    return f"peaks: {speed}; each way {links}"
