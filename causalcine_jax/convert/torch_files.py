"""Locates and checks tensors in torch's .pt and .pth files, without torch and without running code.

torch.save writes a zip archive of uncompressed members. `NAME/data.pkl` describes the content, and
`NAME/data/KEY` holds the elements of one storage. `torch_pickle` reads the pickle and cannot call
anything. Each tensor must lie within its storage's member, and each member within the file. So
later memory-mapped reads are in bounds.
"""

import itertools
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from causalcine_jax.convert.stored import NUMPY_DTYPES, StoredTensor, elements_spanned
from causalcine_jax.convert.torch_constructors import PickledTensor, RefusedPickle, kind_name
from causalcine_jax.convert.torch_pickle import MAX_BYTES, read_pickle
from causalcine_jax.errors import DataError

MAX_DEPTH = 32  # of nested dictionaries and lists
MAX_VALUES = 1_000_000  # in all of them, counted once per reference
_SIGNATURE, _ENCRYPTED = b"PK\x03\x04", 1
# Signature; lengths of the name and of the extra field, which precede the bytes.
_LOCAL_HEADER = struct.Struct("<4s22xHH")


def locate(file: Path) -> dict[str, StoredTensor]:
    """The location of each tensor in `file`; keys of nested dictionaries are joined by "/".

    Raises:
      DataError: the file is damaged, of another format, or its pickle asks for anything but tensors
        and plain data (named).
    """
    try:
        with open(file, "rb") as opened:
            _refuse_other_kinds(file, opened.read(4))
            with zipfile.ZipFile(opened) as archive:
                members = _Members(file, opened, archive.infolist())
            return _locate(file, members)
    except RefusedPickle as refused:
        raise DataError(
            f"{file} is refused: its pickle asks for {refused}, and only tensors and plain data "
            "are read from such a file (nothing in it was run). If you trust its source, load it "
            "with torch and save its state dict alone"
        ) from refused
    except (
        zipfile.BadZipFile,
        ValueError,
        OverflowError,
        EOFError,
        IndexError,
        NotImplementedError,
        struct.error,
        OSError,
    ) as error:
        raise DataError(
            f"{file} is damaged or incomplete, or no file of torch.save ({error}); "
            "copy or download it again"
        ) from error


def _refuse_other_kinds(file: Path, start: bytes) -> None:
    if start.startswith(b"\x80"):
        raise DataError(
            f"{file} is in the format that torch wrote before 1.6: load it with torch "
            "(weights_only=True) and torch.save it again, which writes the present one"
        )
    if start != _SIGNATURE:
        raise ValueError("it is no zip archive")


class _Members:
    """The archive's members by their name below its only folder."""

    def __init__(self, file: Path, opened: BinaryIO, infos: list[zipfile.ZipInfo]):
        self._opened = opened
        self._size = os.fstat(opened.fileno()).st_size
        names = [info.filename for info in infos]
        root = next(
            (
                name.removesuffix("data.pkl")
                for name in names
                if re.fullmatch(r"[^/]+/data\.pkl", name)
            ),
            None,
        )
        if root is None:
            raise ValueError("it has no data.pkl")
        self._infos = {
            info.filename.removeprefix(root): info
            for info in infos
            if info.filename.startswith(root)
        }
        if len(self._infos) != len(infos):
            raise ValueError("it has the same member twice, or members outside its folder")
        if "constants.pkl" in self or any(name.startswith("code/") for name in self._infos):
            raise DataError(
                f"{file} is a TorchScript archive, a program with its weights: "
                "save its state_dict() with torch.save instead"
            )

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def content(self, name: str, limit: int) -> bytes:
        """The bytes of a small member."""
        offset, size = self.span(name)
        if size > limit:
            raise ValueError(f"its member {name} has {size:,} bytes, and {limit:,} are allowed")
        self._opened.seek(offset)
        return self._opened.read(size)

    def span(self, name: str) -> tuple[int, int]:
        """(offset in the file, size) of a member's bytes."""
        info, shown = self._infos.get(name), ascii(name[:100])
        if info is None:
            raise ValueError(f"its member {shown} is missing")
        if (
            info.compress_type != zipfile.ZIP_STORED
            or info.compress_size != info.file_size
            or info.flag_bits & _ENCRYPTED
        ):
            raise ValueError(
                f"its member {shown} is compressed or encrypted, which torch.save does not do"
            )
        self._opened.seek(info.header_offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(
            self._opened.read(_LOCAL_HEADER.size)
        )
        offset = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        if signature != _SIGNATURE or offset + info.file_size > self._size:
            raise ValueError(f"its member {shown} is not where the directory says")
        return offset, info.file_size


def _locate(file: Path, members: _Members) -> dict[str, StoredTensor]:
    order = members.content("byteorder", limit=16) if "byteorder" in members else b"little"
    if order != b"little":
        raise DataError(
            f"{file} was saved on a big-endian machine: "
            "load it with torch and save it as .safetensors"
        )
    value = read_pickle(members.content("data.pkl", limit=MAX_BYTES))
    if not isinstance(value, dict):
        raise ValueError(
            f"it holds a {kind_name(type(value)).lower()}, "
            "where a dictionary of tensors was expected"
        )
    found: dict[str, StoredTensor] = {}
    for key, tensor in _tensors(value, itertools.count()):
        if key in found:
            raise ValueError(f"two of its tensors are {key[:100]!a}")
        found[key] = _stored(file, members, key, tensor)
    return found


def _tensors(
    value: Any, seen: Iterator[int], keys: tuple[str, ...] = ()
) -> Iterator[tuple[str, PickledTensor]]:
    """The tensors in nested dictionaries and lists, with joined keys; `seen` counts all values."""
    if next(seen) >= MAX_VALUES:
        raise ValueError(f"it holds more than {MAX_VALUES:,} values")
    if isinstance(value, PickledTensor):
        yield "/".join(keys), value
    elif isinstance(value, (dict, list, tuple)):
        if len(keys) == MAX_DEPTH:
            raise ValueError(f"its dictionaries and lists are nested more than {MAX_DEPTH} deep")
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _tensors(inner, seen, (*keys, str(key)))


def _stored(file: Path, members: _Members, key: str, tensor: PickledTensor) -> StoredTensor:
    """The tensor's location, after checking that it fits its storage and the storage its member."""
    storage, itemsize = tensor.storage, NUMPY_DTYPES[tensor.dtype].itemsize
    offset, size = members.span(f"data/{storage.key}")
    promised = storage.count * (1 if storage.dtype is None else itemsize)
    if promised > size:
        raise ValueError(
            f"{key[:100]!a} is in a storage of {promised:,} bytes, of which the file has {size:,}"
        )
    needed = (tensor.offset + elements_spanned(tensor.shape, tensor.strides)) * itemsize
    if max(needed, math.prod(tensor.shape) * itemsize) > promised:
        raise ValueError(
            f"{key[:100]!a} of shape {tensor.shape} does not fit its storage of {promised:,} bytes"
        )
    return StoredTensor(
        file, tensor.dtype, tensor.shape, offset + tensor.offset * itemsize, _strides(tensor)
    )


def _strides(tensor: PickledTensor) -> tuple[int, ...] | None:
    """The strides, or None for C order. Axes of size 1 may have any stride."""
    if math.prod(tensor.shape) == 0:
        return None
    ordered = tuple(math.prod(tensor.shape[axis + 1 :]) for axis in range(len(tensor.shape)))
    strides = tuple(
        o if size == 1 else s
        for size, s, o in zip(tensor.shape, tensor.strides, ordered, strict=True)
    )
    return None if strides == ordered else strides
