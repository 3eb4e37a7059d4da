"""The names that a torch pickle may use, and the plain values that they build.

None of these functions is torch's, and none is imported by a name in the pickle.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from causalcine_jax.convert.stored import DTYPES, MAX_AXES, NUMPY_DTYPES


class RefusedPickle(Exception):
    """The pickle asks for something that is neither a tensor nor plain data; the text names it."""


@dataclass(frozen=True)
class PickledName:
    """A Python name in the pickle, such as torch.float32, kept as text."""

    text: str


@dataclass(frozen=True)
class PickledStorage:
    """A run of elements in the file. `dtype` is None for an untyped one, which counts bytes."""

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


def kind_name(kind: type) -> str:
    """A kind of value, for messages."""
    return kind.__name__.removeprefix("Pickled")


def expect(kind: type, value: Any) -> Any:
    """`value`, if it is exactly of type `kind`."""
    if type(value) is not kind:
        raise ValueError(
            f"its pickle has a {kind_name(type(value))} where a {kind_name(kind)} belongs"
        )
    return value


def _hashable(value: Any) -> Any:
    """`value`, if it may be a key: plain types only.

    Hashing a tuple nested a million times would overflow the interpreter's stack.
    """
    if value is not None and type(value) not in (str, int, float, bool, bytes):
        raise ValueError(f"its pickle has a {kind_name(type(value))} as a key")
    return value


def dict_from_flat(values: list[Any]) -> dict[Any, Any]:
    return {_hashable(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def set_of(values: list[Any]) -> set[Any]:
    return {_hashable(value) for value in values}


def name_of(module: str, name: str) -> PickledName:
    """A name that the pickle may use, or `RefusedPickle`."""
    text = f"{module}.{name}"
    if text not in _CONSTRUCTORS and text not in _STORAGES and text not in _NAMES:
        raise RefusedPickle(shown_name(text))
    return PickledName(text)


def shown_name(name: str) -> str:
    return ascii(name[:100])[1:-1]


def construct(name: Any, arguments: Any) -> Any:
    """What the pickle's call of `name` builds, or `RefusedPickle`."""
    if type(name) is not PickledName or name.text not in _CONSTRUCTORS:
        raise RefusedPickle(
            f"a call of {name.text if type(name) is PickledName else f'a {kind_name(type(name))}'}"
        )
    return _CONSTRUCTORS[name.text](*expect(tuple, arguments))


def storage_of(identity: Any) -> PickledStorage:
    """The storage of a persistent id that torch.save wrote."""
    if type(identity) is not tuple or len(identity) != 5 or identity[0] != "storage":
        raise ValueError("its pickle refers to something outside it that is no storage")
    _, kind, key, _, count = identity
    if type(kind) is not PickledName or kind.text not in _STORAGES:
        raise ValueError("its pickle refers to a storage of no known kind")
    return PickledStorage(expect(str, key), _STORAGES[kind.text], _size(count))


def _size(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(
            "its pickle describes a tensor with a size, offset or stride that no tensor has"
        )
    return value


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return dict_from_flat([part for pair in pairs for part in _pair(pair)])


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
    expect(PickledStorage, storage)
    shape, strides = (tuple(map(_size, expect(tuple, sizes))) for sizes in (shape, strides))
    if len(shape) != len(strides) or len(shape) > MAX_AXES:
        raise ValueError(
            f"its pickle describes a tensor of {len(shape)} sizes and {len(strides)} strides"
        )
    if metadata:
        raise RefusedPickle("a conjugated or negated view of a tensor")
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
    return expect(PickledTensor, data)


def _shape(sizes) -> tuple[int, ...]:
    return tuple(map(_size, expect(tuple, sizes)))


def _encoded(text, encoding) -> bytes:
    if encoding != "latin1":
        raise RefusedPickle(f"_codecs.encode to {ascii(encoding)[:30]}")
    return expect(str, text).encode("latin1")


_TORCH_DTYPES = {f"torch.{dtype.name}": name for name, dtype in NUMPY_DTYPES.items()}
_STORAGES: dict[str, str | None] = {
    **{f"torch.{storage}": name for name, (_, storage) in DTYPES.items() if storage},
    "torch.UntypedStorage": None,
    "torch.storage.UntypedStorage": None,
}
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
    "builtins.set": set_of,
    "builtins.frozenset": set_of,
    "__builtin__.set": set_of,
    "__builtin__.frozenset": set_of,
    "_codecs.encode": _encoded,
}
