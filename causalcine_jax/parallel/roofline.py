"""How long a program takes at least: its arithmetic, its memory traffic and its collectives, each at the hardware's full speed.

`bound` is the longest of the three, as if all overlapped perfectly; `serial` their sum, as if nothing did. A real step lies between, or above where kernels do not
reach the published peaks.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from causalcine_jax.parallel.hlo_collectives import Collective
from causalcine_jax.parallel.targets import Target

# Rings that leave a node use the cards of all its GPUs; what goes to every device alike leaves by the GPU's own card.
RINGS = ("all-gather", "reduce-scatter", "all-reduce")


@dataclass(frozen=True)
class Roofline:
    """Seconds of one run of a program on each device."""

    arithmetic: float
    memory: float
    collectives: float

    @property
    def bound(self) -> float:
        return max(self.arithmetic, self.memory, self.collectives)

    @property
    def serial(self) -> float:
        return self.arithmetic + self.memory + self.collectives

    @property
    def limit(self) -> str:
        return max(("arithmetic", "memory", "collectives"), key=lambda name: getattr(self, name))


def roofline(target: Target, flops: float, traffic: int, found: Iterable[Collective]) -> Roofline:
    """flops: of all devices together; traffic and collectives: of each."""
    chip = target.chip
    return Roofline(
        arithmetic=flops / target.devices / chip.flops,
        memory=traffic / chip.bandwidth,
        collectives=sum(one.bytes / speed(target, one) for one in found),
    )


def speed(target: Target, one: Collective) -> float:
    """Bytes per second at which each device sends."""
    if not one.far:
        return target.fabric
    shared = target.domain if one.kind in RINGS else 1
    return min(target.fabric, shared * target.chip.network)


def assumptions(target: Target) -> list[str]:
    """What the estimate takes for granted, one line each."""
    chip = target.chip
    lines = [
        f"peaks as published: {chip.flops / 1e12:.0f} TFLOP/s (bf16), {chip.bandwidth / 1e9:.0f} GB/s of memory per device; float32 products count as bf16 ones",
        "FLOPs are counted in the traced program, remat's second pass included, and are taken to be spread evenly over all devices",
        "memory traffic: every instruction of the compiled program reads and writes its arrays once, slices and updates in place excepted",
    ]
    if chip.platform == "gpu":
        far = (
            f"; beyond a node {chip.network / 1e9:.0f} GB/s per GPU, which rings of a whole node share"
            if target.devices > target.domain
            else ""
        )
        return [*lines, f"collectives at {target.fabric / 1e9:.0f} GB/s per GPU each way inside a node{far}; no latency"]
    closed = all(side % chip.wraps == 0 for side in target.sides if side > 1)
    shape = "closed to a torus" if closed else "not closed: a corner has half the links of a torus"
    return [*lines, f"collectives at {target.fabric / 1e9:.0f} GB/s per chip each way, all links busy ({shape}); no latency"]
