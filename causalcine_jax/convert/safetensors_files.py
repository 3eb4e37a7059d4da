"""Safetensors: locates tensors before reading, and writes them one at a time.

Format: https://github.com/huggingface/safetensors: 8 bytes with the header's length, a JSON header,
the tensors' bytes without gaps. The library checks a file, but its numpy reader has no bfloat16.
"""

import contextlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from causalcine_jax.convert.stored import MAX_AXES, NUMPY_DTYPES, StoredTensor
from causalcine_jax.errors import DataError, one_line, printable

# The dtypes of weights.
READABLE_DTYPES = {name: NUMPY_DTYPES[name] for name in ("F64", "F32", "F16", "BF16")}
_LENGTH = struct.Struct("<Q")


def locate(file: Path) -> dict[str, StoredTensor]:
    """The location of each tensor in `file`.

    Raises:
      DataError: the header is damaged, or contradicts itself or the file's size.
    """
    with _checked(file) as checked, open(file, "rb") as opened:
        (length,) = _LENGTH.unpack(opened.read(_LENGTH.size))
        entries, begin = json.loads(opened.read(length)), _LENGTH.size + length
        slices = {key: checked.get_slice(key) for key in entries if key != "__metadata__"}
        for key, one in slices.items():
            if (axes := len(one.get_shape())) > MAX_AXES:
                raise ValueError(f"{key} has {axes} axes, and at most {MAX_AXES} are read")
        return {
            key: StoredTensor(
                file,
                one.get_dtype(),
                tuple(one.get_shape()),
                begin + entries[key]["data_offsets"][0],
            )
            for key, one in slices.items()
        }


def metadata(file: Path) -> dict[str, str]:
    """The header's free text, `__metadata__`; empty without one. Raises as `locate` does."""
    with _checked(file) as checked:
        return checked.metadata() or {}


@contextlib.contextmanager
def _checked(file: Path) -> Iterator[Any]:
    """The file as safetensors opens it, which checks all of its header."""
    try:
        with safe_open(file, "numpy") as checked:
            yield checked
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{file} is damaged or incomplete, or no safetensors file "
            f"({printable(one_line(error))}); copy or download it again"
        ) from error


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
    return _LENGTH.pack(len(text)) + text


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
