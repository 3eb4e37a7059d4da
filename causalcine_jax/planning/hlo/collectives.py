"""What the devices of a compiled program say to each other: collectives by kind, how often, and the bytes each device sends.

Bytes are those of the bandwidth-optimal algorithm, for a group of n: an all-gather sends its operand n - 1 times, a reduce-scatter and an all-to-all (n - 1)/n of it, an
all-reduce twice that, a permutation the operand once. A collective in a loop counts as often as the loop runs.

A TPU's compiler writes two things in ways of its own. A collective that runs while others compute stands in the fusion that starts it, once more in each that runs
beside it, and in the one that waits for it: it is one. An all-reduce of which each device keeps a part stands in a fusion called all-reduce-scatter: it is a reduce-scatter.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from causalcine_jax.planning.hlo.program import Computation, HloProgram, Instruction

KINDS = {
    "all-gather": lambda n: n - 1,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "ragged-all-to-all": lambda n: (n - 1) / n,
    "collective-permute": lambda n: 1,
    "collective-broadcast": lambda n: 1,
}


@dataclass(frozen=True)
class Collective:
    """All collectives of one kind from one operation of the traced program.

    devices  in a group
    far      whether a group spans several domains of fast links (nodes of GPUs)
    bytes    that each device sends in one run of the program; count: how many there are
    """

    kind: str
    source: str
    devices: int
    far: bool
    count: int
    bytes: int


def collectives(
    program: HloProgram, devices: int, domain: int, unknown_trips: int = 1
) -> list[Collective]:
    """Those of `program` over `devices` devices, `domain` of which share fast links; the most bytes first."""

    def measure(computation: Computation, one: Instruction) -> dict:
        kind = kind_of(computation, one)
        if kind is None or goes_on(computation, one):
            return {}
        group = first_group(one.attributes, devices)
        if len(group) < 2:
            return {}
        operands = sum(operand.bytes for operand in computation.operands(one))
        key = (kind, one.source, len(group), len({member // domain for member in group}) > 1)
        return {(*key, "count"): 1, (*key, "bytes"): round(operands * KINDS[kind](len(group)))}

    sums = program.total(measure, unknown_trips=unknown_trips)
    found = [
        Collective(*key[:-1], count=sums[(*key[:-1], "count")], bytes=value)
        for key, value in sums.items()
        if key[-1] == "bytes"
    ]
    return sorted(found, key=lambda one: -one.bytes)


def kind_of(computation: Computation, one: Instruction) -> str | None:
    """Which of `KINDS` an instruction is; None for all others."""
    if one.opcode == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    kind = one.opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def goes_on(computation: Computation, one: Instruction) -> bool:
    """Whether an instruction is a collective that another computation has started."""
    return "chain_id=" in one.attributes and not any(
        "AsyncCollectiveStart" in other.attributes for other in computation.instructions.values()
    )


def by_kind(found: Iterable[Collective]) -> dict[str, tuple[int, int]]:
    """kind -> (how many, bytes that each device sends), the most bytes first."""
    sums: dict[str, tuple[int, int]] = {}
    for one in found:
        count, size = sums.get(one.kind, (0, 0))
        sums[one.kind] = (count + one.count, size + one.bytes)
    return dict(sorted(sums.items(), key=lambda item: -item[1][1]))


def first_group(attributes: str, devices: int) -> list[int]:
    """The devices of the first group that talk to each other, from any of the ways that HLO writes groups."""
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        return [int(pairs[1]), int(pairs[2])] if pairs[1] != pairs[2] else [int(pairs[1])]
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return [int(member) for member in listed[1].split(",")]
    if iota := re.search(
        r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes
    ):
        numbers = np.arange(int(iota[1]) * int(iota[2])).reshape(
            [int(side) for side in iota[3].split(",")]
        )
        if iota[4]:
            numbers = numbers.transpose([int(axis) for axis in iota[4].split(",")])
        return numbers.reshape(int(iota[1]), int(iota[2]))[0].tolist()
    if mesh := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\([^)]*\))? ?\{([^}]*)\}", attributes
    ):
        return _mesh_group(mesh[1], mesh[2])
    return list(range(devices))


def _mesh_group(axes: str, used: str) -> list[int]:
    """`axes` such as 'a'=8,'b'=4; `used` such as 'a','b':(2)2, the second meaning a part of b: 2, after a major part of 2."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    numbers = np.arange(int(np.prod(list(sizes.values())))).reshape(list(sizes.values()))
    index: list = [slice(0, 1)] * numbers.ndim
    for name, major, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used):
        axis = list(sizes).index(name)
        step = sizes[name] // (int(major) * int(size)) if major else 1
        index[axis] = slice(0, step * int(size), step) if major else slice(None)
    return numbers[tuple(index)].ravel().tolist()
