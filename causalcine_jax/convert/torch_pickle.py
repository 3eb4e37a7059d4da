"""Reads a torch.save pickle as data: a small machine builds plain values and tensor records.

Python's unpickler imports and calls whatever a pickle names. Here a name is only text. The machine
follows pickletools' list of opcodes. "Calling" a name looks it up in a fixed table of constructors
(torch_constructors.py); a name outside of it is an error. So a malicious file can cause an error
and nothing else.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from causalcine_jax.convert.torch_constructors import (
    RefusedPickle,
    construct,
    dict_from_flat,
    expect,
    name_of,
    set_of,
    shown_name,
    storage_of,
)

MAX_BYTES = 16 << 20  # 14B of weights need about 150 KB, with optimizer state three times that


def read_pickle(content: bytes) -> Any:
    """The value in `content`: dictionaries, lists, numbers and strings.

    Tensors are `PickledTensor` and dtypes `PickledName`.

    Raises:
      RefusedPickle: it asks for anything else.
      ValueError: it is damaged, or larger than any checkpoint's.
    """
    if len(content) > MAX_BYTES:
        raise ValueError(f"its pickle has {len(content):,} bytes, and {MAX_BYTES:,} are allowed")
    machine = _Machine()
    try:
        for op, argument, _ in pickletools.genops(content):
            if op.name == "STOP":
                return machine.stack.pop()
            machine.step(op.name, argument)
    except (
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise ValueError(f"its pickle makes no sense: {type(error).__name__}") from error
    raise ValueError("its pickle ends too early")


_LITERALS = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
}
_COLLECTIONS: dict[str, Callable[[list[Any]], Any]] = {
    "TUPLE": tuple,
    "LIST": list,
    "DICT": dict_from_flat,
    "FROZENSET": set_of,
}


class _Machine:
    """The stack, the stacks below its marks, and the memo."""

    def __init__(self):
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def step(self, op: str, argument: Any) -> None:
        push, pop = self.stack.append, self.stack.pop
        match op:
            case "PROTO" | "FRAME":
                pass
            case _ if op in _LITERALS:
                push(argument)
            case "NONE":
                push(None)
            case "NEWTRUE" | "NEWFALSE":
                push(op == "NEWTRUE")
            case "EMPTY_DICT":
                push({})
            case "EMPTY_LIST":
                push([])
            case "EMPTY_SET":
                push(set())
            case "EMPTY_TUPLE":
                push(())
            case "MARK":
                self.below.append(self.stack)
                self.stack = []
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                values = [pop() for _ in range(int(op[-1]))]
                push(tuple(reversed(values)))
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET":
                values = self._since_mark()
                self.stack.append(_COLLECTIONS[op](values))
            case "APPEND":
                value = pop()
                expect(list, self.stack[-1]).append(value)
            case "APPENDS":
                values = self._since_mark()
                expect(list, self.stack[-1]).extend(values)
            case "SETITEM":
                value, key = pop(), pop()
                expect(dict, self.stack[-1]).update(dict_from_flat([key, value]))
            case "SETITEMS":
                values = self._since_mark()
                expect(dict, self.stack[-1]).update(dict_from_flat(values))
            case "ADDITEMS":
                values = self._since_mark()
                expect(set, self.stack[-1]).update(set_of(values))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                push(name_of(*argument.split(" ", 1)))
            case "INST":
                raise RefusedPickle(f"a call of {shown_name('.'.join(argument.split(' ', 1)))}")
            case "STACK_GLOBAL":
                name, module = pop(), pop()
                push(name_of(expect(str, module), expect(str, name)))
            case "BINPERSID":
                push(storage_of(pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, name = pop(), pop()
                push(construct(name, arguments))
            case "BUILD":  # a state dict has its modules' versions as attributes
                pop()
                expect(dict, self.stack[-1])
            case _:
                raise RefusedPickle(f"the opcode {op}")

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values
