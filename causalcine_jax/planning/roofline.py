"""How long a program takes at least: its arithmetic, memory traffic, collectives and copies from and to the host, each at the hardware's full speed.

`bound` is the longest of these, as if all overlapped perfectly; `serial` their sum, as if nothing did. A real step lies between, or above where kernels do not
reach the published peaks.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from causalcine_jax.config import GPU_MEMORY
from causalcine_jax.planning.hardware import HardwareTarget
from causalcine_jax.planning.hlo.collectives import Collective

# Rings that leave a node use the cards of all its GPUs; what goes to every device alike leaves by the GPU's own card.
RINGS = ("all-gather", "reduce-scatter", "all-reduce")


@dataclass(frozen=True)
class Roofline:
    """Seconds of one run of a program on each device. `copies` is None, and left out, where it copies and nobody says how fast."""

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
        return max(self.parts, key=self.parts.get)


def roofline(
    target: HardwareTarget,
    flops: float,
    traffic: int,
    found: Iterable[Collective],
    copied: tuple[int, int] = (0, 0),
) -> Roofline:
    """flops: of all devices together; traffic, collectives and bytes copied (from and to the host, at the same time) of each."""
    chip = target.chip
    return Roofline(
        arithmetic=flops / target.devices / chip.flops,
        memory=traffic / chip.bandwidth,
        collectives=sum(one.bytes / speed(target, one) for one in found),
        copies=(max(copied) / chip.host if chip.host else None) if any(copied) else 0.0,
    )


def speed(target: HardwareTarget, one: Collective) -> float:
    """Bytes per second at which each device sends."""
    if not one.far:
        return target.fabric
    shared = target.domain if one.kind in RINGS else 1
    return min(target.fabric, shared * target.chip.network)


def assumptions(target: HardwareTarget, copying: bool = False) -> list[str]:
    """What the account and the estimate take for granted, one line each. `copying`: whether anything is in host memory."""
    chip = target.chip
    lines = [
        f"peaks as published: {chip.flops / 1e12:.0f} TFLOP/s (bf16), {chip.bandwidth / 1e9:.0f} GB/s of memory per device; float32 products count as bf16 ones",
        "FLOPs are counted in the traced program, remat's second pass included, and are taken to be spread evenly over all devices",
        "memory traffic: every instruction of the compiled program reads and writes its arrays once, slices and updates in place excepted",
    ]
    if copying:
        link = (
            f"{chip.host / 1e9:.0f} GB/s each way, one link per device"
            if chip.host
            else "an unknown speed, so they are left out"
        )
        lines.append(
            f"copies from and to the host at {link}; as many as there can be: nothing that memory retrieves is near already"
        )
    if chip.platform == "gpu":
        lines.append(
            f"a program may use {GPU_MEMORY:.0%} of a GPU's memory, {chip.memory / 1e9:.1f} of {chip.memory / GPU_MEMORY / 1e9:.1f} GB: "
            f"XLA_CLIENT_MEM_FRACTION={GPU_MEMORY}, as every command sets it"
        )
        far = (
            f"; beyond a node {chip.network / 1e9:.0f} GB/s per GPU, which rings of a whole node share"
            if target.devices > target.domain
            else ""
        )
        return [
            *lines,
            f"collectives at {target.fabric / 1e9:.0f} GB/s per GPU each way inside a node{far}; no latency",
        ]
    closed = all(side % chip.wraps == 0 for side in target.sides if side > 1)
    shape = "closed to a torus" if closed else "not closed: a corner has half the links of a torus"
    return [
        *lines,
        f"collectives at {target.fabric / 1e9:.0f} GB/s per chip each way, all links busy ({shape}); no latency",
    ]
