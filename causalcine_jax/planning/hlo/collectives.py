"""Collectives of a compiled program: by kind, how many, and the bytes that each device sends.

Bytes are those of the bandwidth-optimal algorithm for a group of n. An all-gather sends its operand
n - 1 times. A reduce-scatter and an all-to-all send (n - 1)/n of it, an all-reduce twice that. A
permutation sends the operand once. A collective in a loop counts once per round.

A TPU's compiler writes two things in its own way. An asynchronous collective appears in the fusion
that starts it, in each fusion that runs beside it, and in the one that waits for it. It counts
once. A fusion called all-reduce-scatter is an all-reduce after which each device keeps only its own
part of the sum. It counts as a reduce-scatter.
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
    count    how many there are in one run of the program
    bytes    that each device sends in one run
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
    """The collectives of `program` over `devices` devices, the most bytes first.

    Args:
      domain: the number of devices that share fast links.
    """

    def measure(computation: Computation, one: Instruction) -> dict:
        kind = kind_of(computation, one)
        if kind is None or is_continuation(computation, one):
            return {}
        group = first_group(one.attributes, devices)
        if len(group) < 2:
            return {}
        operands = sum(operand.bytes for operand in computation.operands(one))
        key = (kind, one.source, len(group), len({member // domain for member in group}) > 1)
        return {(*key, "count"): 1, (*key, "bytes"): round(operands * KINDS[kind](len(group)))}

    sums = program.total(measure, unknown_trips=unknown_trips)
    found = [
        Collective(kind, source, size, far, sums[(kind, source, size, far, "count")], value)
        for (kind, source, size, far, what), value in sums.items()
        if what == "bytes"
    ]
    return sorted(found, key=lambda one: -one.bytes)


def kind_of(computation: Computation, one: Instruction) -> str | None:
    """The kind in `KINDS` of an instruction; None for all others."""
    if one.opcode == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        return "reduce-scatter"
    kind = one.opcode.removesuffix("-start")
    return kind if kind in KINDS else None


def is_continuation(computation: Computation, one: Instruction) -> bool:
    """Whether an instruction belongs to a collective that another computation has started."""
    return "chain_id=" in one.attributes and not any(
        "AsyncCollectiveStart" in other.attributes for other in computation.instructions.values()
    )


def by_kind(found: Iterable[Collective]) -> dict[str, tuple[int, int]]:
    """kind -> (count, bytes that each device sends), the most bytes first."""
    sums: dict[str, tuple[int, int]] = {}
    for one in found:
        count, size = sums.get(one.kind, (0, 0))
        sums[one.kind] = (count + one.count, size + one.bytes)
    return dict(sorted(sums.items(), key=lambda item: -item[1][1]))


def first_group(attributes: str, devices: int) -> list[int]:
    """The devices of the first communicating group, from any of HLO's notations for groups."""
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
    """The first group in mesh notation.

    Args:
      axes: such as 'a'=8,'b'=4.
      used: such as 'a','b':(2)2. The latter is a part of b: size 2, after a major part of 2.
    """
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", axes)}
    numbers = np.arange(int(np.prod(list(sizes.values())))).reshape(list(sizes.values()))
    index: list = [slice(0, 1)] * numbers.ndim
    for name, major, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", used):
        axis = list(sizes).index(name)
        step = sizes[name] // (int(major) * int(size)) if major else 1
        index[axis] = slice(0, step * int(size), step) if major else slice(None)
    return numbers[tuple(index)].ravel().tolist()
