"""Bytes that a compiled program moves to and from device memory, and its largest arrays.

Each instruction reads its operands and writes its results once. For an array that is only sliced,
the slice counts; for one updated in place, the update. Not counted: a TPU's on-chip memory, and
buffers that a fusion only passes on, as fusions beside a running collective do. Caches are not
modelled.
"""

from dataclasses import dataclass

from causalcine_jax.planning.hlo.collectives import is_continuation
from causalcine_jax.planning.hlo.program import Computation, HloProgram, Instruction

FREE = {
    "parameter",
    "constant",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "while",
    "conditional",
    "call",
    "after-all",
    "partition-id",
    "replica-id",
    "iota",
    "opt-barrier",
    "copy-start",
    "copy-done",
    "async-start",
    "async-update",
    "async-done",
}
SLICES = {"dynamic-slice", "slice", "gather"}
# models/cache/frame_gather.py: the kernel's operand is the whole pool; it reads what it returns.
PICKS = "gather_frames"


@dataclass(frozen=True)
class Buffer:
    """An array made during a run: its bytes and shape per device, and its traced operation."""

    bytes: int
    shape: str
    source: str


def memory_traffic(program: HloProgram, unknown_trips: int = 1) -> int:
    """Bytes read and written per device in one run."""

    def measure(computation: Computation, one: Instruction) -> dict:
        return (
            {}
            if one.opcode in FREE or one.opcode.endswith("-done")
            else {"bytes": _moved(program, computation, one.waited_for)}
        )

    return program.total(measure, unknown_trips=unknown_trips, into_fusions=False).get("bytes", 0)


def launches(program: HloProgram, unknown_trips: int = 1) -> int:
    """Kernels, copies and collectives that a device starts in one run."""

    def measure(computation: Computation, one: Instruction) -> dict:
        waits = one.opcode in FREE or one.opcode.endswith("-done")
        return {} if waits else {"launches": 1}

    found = program.total(measure, unknown_trips=unknown_trips, into_fusions=False)
    return found.get("launches", 0)


def host_copies(program: HloProgram, unknown_trips: int = 1) -> tuple[int, int]:
    """Bytes that a device copies in one run: (from host memory, to it).

    These are slices, updates and whole arrays; all are asynchronous.
    """

    def measure(computation: Computation, one: Instruction) -> dict:
        arrays, given = one.arrays, len(one.operands)
        if not one.opcode.endswith("-start") or not any(array.host_memory for array in arrays):
            return {}
        if one.opcode == "copy-start":  # (to, from, ...)
            to, source = arrays[:2]
            return (
                {}
                if to.host_memory == source.host_memory
                else {"to" if to.host_memory else "from": to.bytes}
            )
        if given >= len(arrays):
            return {}
        result = arrays[given]  # (operands, result, ...)
        return {"to": arrays[1].bytes} if result.host_memory else {"from": result.bytes}

    found = program.total(measure, unknown_trips=unknown_trips, into_fusions=False)
    return found.get("from", 0), found.get("to", 0)


def largest_buffers(program: HloProgram, count: int = 8) -> list[Buffer]:
    """The largest arrays that instructions make, one of each shape, without arguments."""
    found: dict[str, Buffer] = {}
    for _, one in program.running():
        if one.opcode not in FREE and not one.opcode.endswith("-done"):
            for array in one.waited_for.arrays:
                if array.main_memory and not (array.text in found and found[array.text].source):
                    found[array.text] = Buffer(array.bytes, array.text, one.source)
    return sorted(found.values(), key=lambda buffer: -buffer.bytes)[:count]


def _moved(program: HloProgram, computation: Computation, one: Instruction) -> int:
    operands = [_main(operand) for operand in computation.operands(one)]
    if one.opcode in SLICES or (one.opcode == "custom-call" and PICKS in one.source):
        return 2 * _main(one)
    if one.opcode == "dynamic-update-slice":
        return 2 * (operands[1] if len(operands) > 1 else 0)
    if one.opcode != "fusion" or one.called[0] not in program.computations:
        return _main(one) + sum(operands)
    inner = program.computations[one.called[0]]
    if "AsyncCollectiveDone" in inner.root.attributes:
        return 0
    read = sum(
        _read(program, inner, name, whole)
        for name, whole in zip(_parameters(inner), operands, strict=False)
    )
    return read + _written(program, inner, one)


def _written(program: HloProgram, inner: Computation, fusion: Instruction) -> int:
    """Bytes that a fusion writes: each result in full, or its update where it is in place."""
    results = inner.operands(inner.root) if inner.root.opcode == "tuple" else [inner.root]
    if len(results) != len(fusion.arrays):
        return _main(fusion)
    total = 0
    for array, result in zip(fusion.arrays, results, strict=True):
        if array.main_memory and not _passed_on(inner, result):
            updated = _updated(program, inner, result)
            total += array.bytes if updated is None else updated
    return total


def _passed_on(inner: Computation, one: Instruction) -> bool:
    """Whether `one` is only the buffer of a collective that runs beside this fusion.

    It is then the collective's results so far, or a parameter that is returned unchanged.
    """
    return is_continuation(inner, one) or (
        one.opcode == "parameter"
        and any(is_continuation(inner, other) for other in inner.instructions.values())
    )


def _parameters(inner: Computation) -> list[str]:
    """The names of a fusion's parameters, in the order of its operands."""
    return [
        i.name
        for i in sorted(
            (i for i in inner.instructions.values() if i.opcode == "parameter"),
            key=lambda i: int(i.operands[0]),
        )
    ]


def _updated(program: HloProgram, inner: Computation, result: Instruction) -> int | None:
    """Bytes of the update where `result` is updated in place; None where it is written in full."""
    if result.opcode == "dynamic-update-slice":
        return sum(operand.bytes for operand in inner.operands(result)[1:2])
    if result.opcode == "bitcast" and (of := inner.operands(result)):
        return _updated(program, inner, of[0])
    if nested := _nested(program, result):
        return _updated(program, nested, nested.root)
    return None


def _read(program: HloProgram, inner: Computation, name: str, whole: int) -> int:
    """Bytes that a fusion reads of an array of `whole` bytes.

    Slices count, and slices of slices. An array that is only updated in place counts as nothing.
    """
    total, used = 0, False
    for user in inner.instructions.values():
        if name not in user.operands:
            continue
        used, first = True, user.operands.index(name) == 0
        if is_continuation(inner, user) or (
            user.root and user.opcode == "tuple" and _passed_on(inner, inner.instructions[name])
        ):
            continue
        if user.opcode == "bitcast":
            total += _read(program, inner, user.name, whole)
        elif user.opcode in SLICES and first:
            total += _read(program, inner, user.name, user.bytes)
        elif nested := _nested(program, user):
            # On a TPU a matrix product may slice a layer's weights in a nested fusion.
            names = _parameters(nested)
            total += sum(
                _read(program, nested, names[at], whole)
                for at, operand in enumerate(user.operands)
                if operand == name
            )
        elif not (user.opcode == "dynamic-update-slice" and first):
            return whole
    return min(whole, total) if used else whole


def _nested(program: HloProgram, one: Instruction) -> Computation | None:
    return program.computations.get(one.called[0]) if one.opcode == "fusion" else None


def _main(one: Instruction) -> int:
    return sum(array.bytes for array in one.arrays if array.main_memory)
