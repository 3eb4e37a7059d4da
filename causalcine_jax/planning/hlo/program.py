"""Parses a compiled program's text (HLO after all passes): instructions, shapes, calls, trips."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"\b(pred|bf16|[a-z]+\d+\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_CALLED = re.compile(
    r"\b(?:calls|body|called_computations|branch_computations|true_computation|false_computation)"
    r"=(\{[^}]*\}|%?[\w.\-]+)"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_NOTE = re.compile(r"/\*.*?\*/")  # HLO numbers every fifth element of a long list
_SOURCE = re.compile(r'op_name="([^"]*)"')
HOST = "5"  # the number of host memory in a layout such as {1,0:S(5)}
_BITS = {"pred": 8, "bf16": 16, "token": 0, "opaque": 0}


@dataclass(frozen=True)
class HloArray:
    """An array type: its bytes and its memory.

    That is the device's main memory, the host's, or (neither) a faster, smaller one of a TPU.
    """

    text: str
    bytes: int
    main_memory: bool
    host_memory: bool = False


@dataclass(frozen=True)
class Instruction:
    """name = type opcode(operands), attributes. `source` is its operation in the traced program."""

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @cached_property
    def arrays(self) -> tuple[HloArray, ...]:
        """The result arrays: one, or those of a tuple."""
        return tuple(_array(*match) for match in _ARRAY.findall(self.type))

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.arrays)

    @property
    def source(self) -> str:
        return match[1] if (match := _SOURCE.search(self.attributes)) else ""

    @property
    def is_fusion(self) -> bool:
        return self.opcode in ("fusion", "fusion-start")

    @property
    def waited_for(self) -> "Instruction":
        """The same, if it is a fusion that others run beside (jax >= 0.11), as a plain fusion.

        The type of such a fusion-start is (operands, results, context).
        """
        if self.opcode != "fusion-start":
            return self
        return dataclasses.replace(self, opcode="fusion", type=_split(self.type[1:-1])[1].strip())

    @property
    def trips(self) -> int | None:
        """The trip count of a while loop, where the compiler knows it."""
        return int(match[1]) if (match := _TRIPS.search(self.attributes)) else None

    @property
    def called(self) -> tuple[str, ...]:
        """The computations that it runs, except reductions' functions and loop conditions."""
        found = _CALLED.findall(self.attributes)
        return tuple(
            name.strip(" %")
            for group in found
            for name in group.strip("{}").split(",")
            if name.strip()
        )


@dataclass
class Computation:
    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        return next(one for one in self.instructions.values() if one.root)

    def operands(self, instruction: Instruction) -> list[Instruction]:
        return [
            self.instructions[name] for name in instruction.operands if name in self.instructions
        ]


@dataclass(frozen=True)
class HloProgram:
    computations: dict[str, Computation]
    entry: str

    def total(
        self,
        measure: Callable[[Computation, Instruction], dict],
        *,
        unknown_trips: int = 1,
        into_fusions: bool = True,
    ) -> dict:
        """The sum of `measure` over all instructions that run: {key: number}.

        A loop multiplies by its trip count (`unknown_trips` where it is only known at run time). A
        conditional counts its costliest branch.
        """
        known: dict[str, dict] = {}

        def of(name: str) -> dict:
            if name in known:
                return known[name]
            sums: dict = {}
            computation = self.computations[name]
            for one in computation.instructions.values():
                _add(sums, measure(computation, one))
                if one.is_fusion and not into_fusions:
                    continue
                inner = [of(called) for called in one.called if called in self.computations]
                if one.opcode == "conditional":
                    inner = [max(inner, key=lambda part: sum(part.values()))] if inner else []
                rounds = (
                    (one.trips or self._trips(one) or unknown_trips) if one.opcode == "while" else 1
                )
                for part in inner:
                    _add(sums, part, rounds)
            known[name] = sums
            return sums

        return of(self.entry)

    def running(self) -> Iterator[tuple[Computation, Instruction]]:
        """Every instruction reachable from the entry, once; fusions are not entered."""
        seen, waiting = {self.entry}, [self.entry]
        while waiting:
            computation = self.computations[waiting.pop()]
            for one in computation.instructions.values():
                yield computation, one
                if not one.is_fusion:
                    new = [
                        name
                        for name in one.called
                        if name in self.computations and name not in seen
                    ]
                    seen.update(new)
                    waiting += new

    def _trips(self, loop: Instruction) -> int | None:
        """The trip count from a condition i < constant, of a loop that counts from 0."""
        if (
            not (match := re.search(r"condition=%?([\w.\-]+)", loop.attributes))
            or match[1] not in self.computations
        ):
            return None
        inside = list(self.computations[match[1]].instructions.values())
        for name in {name for one in inside if one.opcode == "fusion" for name in one.called}:
            inside += self.computations[name].instructions.values()
        constants = [
            one for one in inside if one.opcode == "constant" and re.match(r"[su]\d+\[\]", one.type)
        ]
        compares = [
            one for one in inside if one.opcode == "compare" and "direction=LT" in one.attributes
        ]
        if len(constants) != 1 or len(compares) != 1:
            return None
        return (
            int(constants[0].operands[0])
            if constants[0].operands and constants[0].operands[0].isdigit()
            else None
        )


def parse_hlo(text: str) -> HloProgram:
    """The program in `text`, which is the output of `compiled.as_text()`."""
    computations, entry, current = {}, "", None
    for line in text.splitlines():
        if current is None or not line.startswith(" "):
            if head := _HEAD.match(line):
                current = computations[head[2]] = Computation(head[2])
                entry = head[2] if head[1] else entry
        elif name := _NAME.match(line):
            one = _instruction(name[2], _NOTE.sub("", line[name.end() :]), bool(name[1]))
            current.instructions[one.name] = one
    if not entry:
        raise ValueError("this is no HLO text: it has no ENTRY computation")
    return HloProgram(computations, entry)


def _instruction(name: str, rest: str, root: bool) -> Instruction:
    kind, rest = _until_closed(rest) if rest.startswith("(") else rest.split(" ", 1)
    opcode, _, rest = rest.strip().partition("(")
    inside, attributes = _until_closed("(" + rest)
    operands = tuple(
        part.strip().rsplit(" ", 1)[-1].lstrip("%") for part in _split(inside[1:-1]) if part.strip()
    )
    return Instruction(name, opcode.strip(), kind, operands, attributes, root)


def _until_closed(text: str) -> tuple[str, str]:
    """The bracketed start of `text`, and the rest."""
    depth = 0
    for position, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if depth == 0:
            return text[: position + 1], text[position + 1 :]
    return text, ""


def _split(text: str) -> list[str]:
    """Splits at the commas outside of brackets."""
    parts, depth, start = [], 0, 0
    for position, sign in enumerate(text):
        depth += (sign in "([{") - (sign in ")]}")
        if sign == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    return [*parts, text[start:]]


def _array(kind: str, sides: str, layout: str) -> HloArray:
    count = 1
    for side in sides.replace("<=", "").split(","):
        count *= int(side) if side else 1
    bits = _BITS[kind] if kind in _BITS else int(re.findall(r"\d+", kind)[0])
    space = re.search(r"S\((\d+)\)", layout)
    return HloArray(
        f"{kind}[{sides}]",
        -(-count * bits // 8),
        space is None or space[1] == "0",
        space is not None and space[1] == HOST,
    )


def _add(sums: dict, more: dict, times: int = 1) -> None:
    for key, value in more.items():
        sums[key] = sums.get(key, 0) + times * value
