"""Safetensors: locates and checks tensors before reading, and writes them one at a time.

Format: https://github.com/huggingface/safetensors: 8 bytes with the header's length, a JSON header,
the tensors' bytes without gaps.
"""

import collections
import json
import math
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from causalcine_jax.convert.stored import MAX_AXES, NUMPY_DTYPES, StoredTensor
from causalcine_jax.errors import DataError

# The dtypes of weights.
READABLE_DTYPES = {name: NUMPY_DTYPES[name] for name in ("F64", "F32", "F16", "BF16")}
MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_LENGTH = struct.Struct("<Q")


def locate(file: Path) -> dict[str, StoredTensor]:
    """The location of each tensor in `file`.

    Raises:
      DataError: the header is damaged, or contradicts itself or the file's size.
    """
    try:
        return _locate(file)
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(
            f"{file} is damaged or incomplete, or no safetensors file ({error}); "
            "copy or download it again"
        ) from error


def metadata(file: Path) -> dict[str, str]:
    """The header's free text, `__metadata__`; empty without one. Raises as `locate` does."""
    try:
        text = _entries(file)[0].get("__metadata__")
    except (ValueError, RecursionError, OSError) as error:
        raise DataError(
            f"{file} is damaged or incomplete, or no safetensors file ({error}); "
            "copy or download it again"
        ) from error
    return (
        {name: value for name, value in text.items() if isinstance(value, str)}
        if isinstance(text, dict)
        else {}
    )


def _entries(file: Path) -> tuple[dict[str, Any], int, int]:
    """(header, offset of the data behind it, file size)."""
    size = os.path.getsize(file)
    with open(file, "rb") as opened:
        start = opened.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            raise ValueError(f"it has only {size} bytes")
        length = _LENGTH.unpack(start)[0]
        if length > MAX_HEADER_BYTES:
            raise ValueError(
                f"its header would have {length:,} bytes, and {MAX_HEADER_BYTES:,} are allowed"
            )
        if _LENGTH.size + length > size:
            raise ValueError(f"its header has {length:,} bytes, the file {size:,}")
        entries = json.loads(
            opened.read(length).decode("utf-8"), object_pairs_hook=_without_duplicates
        )
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    return entries, _LENGTH.size + length, size


def _locate(file: Path) -> dict[str, StoredTensor]:
    entries, begin, size = _entries(file)
    entries.pop("__metadata__", None)
    spans = {key: _span(key, entry) for key, entry in entries.items()}
    end = 0
    for key, (first, last) in sorted(spans.items(), key=lambda item: item[1]):
        if first != end:
            raise ValueError(
                f"{_shown(key)} begins at byte {first:,} of the data, where {end:,} was expected"
            )
        end = last
    if begin + end != size:
        raise ValueError(f"its header describes {begin + end:,} bytes, the file has {size:,}")
    return {
        key: StoredTensor(file, entry["dtype"], tuple(entry["shape"]), begin + spans[key][0])
        for key, entry in entries.items()
    }


def _span(key: str, entry: Any) -> tuple[int, int]:
    """(first byte, end) of a tensor in the data."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        raise ValueError(f"{_shown(key)} has no dtype")
    shape, span = entry.get("shape"), entry.get("data_offsets")
    if not _sizes(shape) or len(shape) > MAX_AXES:
        raise ValueError(f"{_shown(key)} has no shape that a tensor can have")
    if not _sizes(span) or len(span) != 2 or span[0] > span[1]:
        raise ValueError(f"{_shown(key)} has no beginning and end")
    dtype = NUMPY_DTYPES.get(entry["dtype"])
    if dtype is not None and math.prod(shape) * dtype.itemsize != span[1] - span[0]:
        raise ValueError(
            f"{_shown(key)} of shape {tuple(shape)} in {entry['dtype']} "
            f"does not fill its {span[1] - span[0]:,} bytes"
        )
    return span[0], span[1]


def _sizes(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(
        type(value) is int and 0 <= value < 2**63 for value in values
    )


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) < len(pairs):
        twice, _ = collections.Counter(key for key, _ in pairs).most_common(1)[0]
        raise ValueError(f"{_shown(twice)} is listed twice")
    return entries


def _shown(key: str) -> str:
    return ascii(key[:100])


def header(specs: Iterable[tuple[str, tuple[int, ...], str]]) -> bytes:
    """The start of a safetensors file, before the tensors' bytes in the order of `specs`.

    Args:
      specs: key, shape and dtype (such as BF16) of each tensor.
    """
    # "pt" declares torch's layouts, which other readers expect.
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for key, shape, dtype in specs:
        start, end = end, end + math.prod(shape) * READABLE_DTYPES[dtype].itemsize
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the format aligns tensors to 8 bytes
    return struct.pack("<Q", len(text)) + text


def write_tensors(
    file: Path,
    specs: list[tuple[str, tuple[int, ...]]],
    dtype: np.dtype,
    tensors: Iterable[np.ndarray],
) -> None:
    """Writes a safetensors file whose tensors all have `dtype`.

    Args:
      file: a temporary name; the caller renames it.
      specs: key and shape of every tensor, in the order of `tensors`.
      tensors: each is written and dropped before the next is taken, so a generator keeps one in
        memory.
    """
    name = next(name for name, known in READABLE_DTYPES.items() if known == dtype)
    with open(file, "wb") as out:
        out.write(header([(key, shape, name) for key, shape in specs]))
        for (key, shape), tensor in zip(specs, tensors, strict=True):
            if tensor.shape != tuple(shape):
                raise ValueError(f"{key} has shape {tensor.shape}, announced {shape}")
            out.write(np.ascontiguousarray(tensor, dtype=dtype).reshape(-1).view(np.uint8).data)
        out.flush()
        os.fsync(out.fileno())
