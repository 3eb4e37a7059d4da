"""A pickle of torch.save read as data: a small machine that builds plain values and descriptions of tensors, and can do nothing else.

Python's own unpickler imports whatever a pickle names and calls it. Here a name is a word. Reading follows pickletools' list of opcodes;
"calling" a name looks it up in the table of a few constructors at the end of this file, none of which is torch's or imported by name;
and a name that is not in it ends the reading. So a hostile file can make nothing happen but an error.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from causalcine_jax.convert.stored import MAX_AXES

MAX_BYTES = 16 << 20  # 14B of weights need about 150 KB, with optimizer state three times that


class Refused(Exception):
    """The pickle asks for something that is neither a tensor nor plain data; the text names it."""


@dataclass(frozen=True)
class PickledName:
    """What the pickle calls by a name of Python's, such as torch.float32. Nothing is looked up."""

    text: str


@dataclass(frozen=True)
class PickledStorage:
    """A run of elements in the file. `dtype` is None for an untyped one, which is counted in bytes."""

    key: str
    dtype: str | None
    count: int


@dataclass(frozen=True)
class PickledTensor:
    """A strided view of a storage; offset and strides in elements."""

    storage: PickledStorage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pickle(content: bytes) -> Any:
    """The value that `content` holds: dictionaries, lists, numbers and strings, with `PickledTensor` for tensors and `PickledName` for dtypes.

    Raises:
      Refused: it asks for anything else.
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
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
}  # fmt: skip


class _Machine:
    """The stack, the marks that cut it, and the values that the pickle numbered."""

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
                self.stack.append(
                    {"TUPLE": tuple, "LIST": list, "DICT": _from_flat, "FROZENSET": _set}[op](
                        values
                    )
                )
            case "APPEND":
                value = pop()
                _expect(list, self.stack[-1]).append(value)
            case "APPENDS":
                values = self._since_mark()
                _expect(list, self.stack[-1]).extend(values)
            case "SETITEM":
                value, key = pop(), pop()
                _expect(dict, self.stack[-1]).update(_from_flat([key, value]))
            case "SETITEMS":
                values = self._since_mark()
                _expect(dict, self.stack[-1]).update(_from_flat(values))
            case "ADDITEMS":
                values = self._since_mark()
                _expect(set, self.stack[-1]).update(_set(values))
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                push(self.memo[argument])
            case "GLOBAL":
                push(_name(*argument.split(" ", 1)))
            case "INST":
                raise Refused(f"a call of {_shown('.'.join(argument.split(' ', 1)))}")
            case "STACK_GLOBAL":
                name, module = pop(), pop()
                push(_name(_expect(str, module), _expect(str, name)))
            case "BINPERSID":
                push(_storage(pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, name = pop(), pop()
                push(_construct(name, arguments))
            case "BUILD":  # a state dict has notes on its modules' versions as attributes
                pop()
                _expect(dict, self.stack[-1])
            case _:
                raise Refused(f"the opcode {op}")

    def _since_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.below.pop()
        return values


def _expect(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        raise ValueError(f"its pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value


def _hashable(value: Any) -> Any:
    """Keys are plain: hashing a tuple that is nested a million times would overflow the interpreter's stack."""
    if value is not None and type(value) not in (str, int, float, bool, bytes):
        raise ValueError(f"its pickle has a {type(value).__name__} as a key")
    return value


def _from_flat(values: list[Any]) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _set(values: list[Any]) -> set[Any]:
    return {_hashable(value) for value in values}


def _name(module: str, name: str) -> PickledName:
    text = f"{module}.{name}"
    if text not in _CONSTRUCTORS and text not in _STORAGES and text not in _NAMES:
        raise Refused(_shown(text))
    return PickledName(text)


def _shown(name: str) -> str:
    return ascii(name[:100])[1:-1]


def _construct(name: Any, arguments: Any) -> Any:
    if type(name) is not PickledName or name.text not in _CONSTRUCTORS:
        raise Refused(
            f"a call of {name.text if type(name) is PickledName else f'a {type(name).__name__}'}"
        )
    return _CONSTRUCTORS[name.text](*_expect(tuple, arguments))


def _storage(identity: Any) -> PickledStorage:
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        raise ValueError("its pickle refers to something outside it that is no storage")
    _, kind, key, _, count = identity
    if type(kind) is not PickledName or kind.text not in _STORAGES:
        raise ValueError("its pickle refers to a storage of no known kind")
    return PickledStorage(_expect(str, key), _STORAGES[kind.text], _size(count))


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(
            "its pickle describes a tensor with a size, offset or stride that no tensor has"
        )
    return value


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return _from_flat([part for pair in pairs for part in _pair(pair)])


def _pair(pair: Any) -> Any:
    if type(pair) not in (tuple, list) or len(pair) != 2:
        raise ValueError("its pickle has a dictionary of something other than pairs")
    return pair


def _tensor(
    storage,
    offset,
    shape,
    strides,
    requires_grad=False,
    hooks=None,
    metadata=None,
    dtype: str | None = None,
) -> PickledTensor:
    _expect(PickledStorage, storage)
    shape, strides = (tuple(map(_size, _expect(tuple, sizes))) for sizes in (shape, strides))
    if len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise ValueError(
            f"its pickle describes a tensor of {len(shape)} sizes and {len(strides)} strides"
        )
    if metadata:
        raise Refused("a conjugated or negated view of a tensor")
    dtype = dtype or storage.dtype
    if dtype is None:
        raise ValueError("its pickle describes a tensor without a dtype")
    return PickledTensor(storage, dtype, _size(offset), shape, strides)


def _tensor_v3(
    storage, offset, shape, strides, requires_grad, hooks, dtype, metadata=None
) -> PickledTensor:
    if type(dtype) is not PickledName or dtype.text not in _TORCH_DTYPES:
        raise ValueError("its pickle describes a tensor of no known dtype")
    return _tensor(
        storage, offset, shape, strides, metadata=metadata, dtype=_TORCH_DTYPES[dtype.text]
    )


def _parameter(data, requires_grad, hooks, state=None) -> PickledTensor:
    return _expect(PickledTensor, data)


def _shape(sizes) -> tuple[int, ...]:
    return tuple(map(_size, _expect(tuple, sizes)))


def _encoded(text, encoding) -> bytes:
    if encoding != "latin1":
        raise Refused(f"_codecs.encode to {ascii(encoding)[:30]}")
    return _expect(str, text).encode("latin1")


_TORCH_DTYPES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16", "torch.float8_e4m3fn": "F8_E4M3",
    "torch.float8_e5m2": "F8_E5M2", "torch.float8_e8m0fnu": "F8_E8M0", "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16",
    "torch.int8": "I8", "torch.uint64": "U64", "torch.uint32": "U32", "torch.uint16": "U16", "torch.uint8": "U8", "torch.bool": "BOOL",
    "torch.complex64": "C64", "torch.complex128": "C128",
}  # fmt: skip
_STORAGES = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16", "torch.BFloat16Storage": "BF16",
    "torch.LongStorage": "I64", "torch.IntStorage": "I32", "torch.ShortStorage": "I16", "torch.CharStorage": "I8",
    "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL", "torch.ComplexFloatStorage": "C64", "torch.ComplexDoubleStorage": "C128",
    "torch.UntypedStorage": None, "torch.storage.UntypedStorage": None,
}  # fmt: skip
_NAMES = _TORCH_DTYPES.keys() | {"torch.strided"}
_CONSTRUCTORS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _shape,
    "torch.device": lambda *arguments: ":".join(map(str, arguments)),
    "builtins.set": _set,
    "builtins.frozenset": _set,
    "__builtin__.set": _set,
    "__builtin__.frozenset": _set,
    "_codecs.encode": _encoded,
}
