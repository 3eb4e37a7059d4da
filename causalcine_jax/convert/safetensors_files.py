"""Safetensors, one tensor at a time: reading from one file or many shards, writing without holding the file in memory.

Format: https://github.com/huggingface/safetensors: 8 bytes with the header's length, a JSON header, the tensors' bytes.
"""

import contextlib
import json
import math
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from causalcine_jax.errors import DataError

DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


class TensorFiles:
    """The tensors of one or more safetensors `files`, by key. `shapes` is known from the headers; `read` fetches one tensor's bytes."""

    def __init__(self, files: list[Path], handles: contextlib.ExitStack):
        self.files = files
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, str] = {}
        self._source: dict[str, tuple[Path, object]] = {}
        for file in files:
            try:
                handle = handles.enter_context(safe_open(str(file), framework="np"))
            except FileNotFoundError as error:
                raise DataError(f"{file} is missing; copy or download it again") from error
            except (SafetensorError, OSError) as error:
                raise _damaged(file, error) from error
            for key in handle.keys():  # noqa: SIM118 (a handle is not a dict)
                if key in self._source:
                    raise DataError(f"tensor {key} is in both {self._source[key][0]} and {file}; remove the file that does not belong")
                part = handle.get_slice(key)
                self.shapes[key] = tuple(part.get_shape())
                self.dtypes[key] = part.get_dtype()
                self._source[key] = file, handle

    def read(self, key: str) -> np.ndarray:
        file, handle = self._source[key]
        try:
            return handle.get_tensor(key)
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from error

    def read_slice(self, key: str, index: tuple[slice, ...]) -> np.ndarray:
        """A part of a tensor; only its bytes are read."""
        file, handle = self._source[key]
        try:
            return handle.get_slice(key)[index]
        except (SafetensorError, OSError) as error:
            raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> DataError:
    return DataError(f"{file} is damaged or incomplete, or no safetensors file ({error}); copy or download it again")


@contextlib.contextmanager
def open_tensors(path: Path) -> Iterator[TensorFiles]:
    """Opens one .safetensors file, or a folder of them: the shards its index names, else all it holds.

    Raises:
      DataError: nothing there, shards missing (all are named), a damaged file.
    """
    with contextlib.ExitStack() as handles:
        yield TensorFiles(_find(path), handles)


def _find(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    indices = sorted(path.glob("*.safetensors.index.json"))
    if not indices:
        files = sorted(path.glob("*.safetensors"))
        if not files:
            raise DataError(f"no .safetensors file in {path}")
        return files
    try:
        shards = sorted({shard for index in indices for shard in json.loads(index.read_text("utf-8"))["weight_map"].values()})
    except (ValueError, KeyError, AttributeError, TypeError, OSError) as error:
        raise DataError(f"{' or '.join(map(str, indices))} is not an index of shards ({error}); copy or download it again") from error
    missing = [shard for shard in shards if not (path / shard).is_file()]
    if missing:
        raise DataError(f"shards missing in {path}: {', '.join(missing)}; copy or download them again")
    return [path / shard for shard in shards]


def header(specs: Iterable[tuple[str, tuple[int, ...], str]]) -> bytes:
    """What a safetensors file begins with; the tensors' bytes follow in the order of `specs` (key, shape and dtype, such as BF16)."""
    entries, end = {"__metadata__": {"format": "pt"}}, 0  # "pt": the layouts are torch's, which other readers expect to be told
    for key, shape, dtype in specs:
        start, end = end, end + math.prod(shape) * DTYPES[dtype].itemsize
        entries[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % 8)  # the format wants tensors to start at a multiple of 8
    return struct.pack("<Q", len(text)) + text


def write_tensors(file: Path, specs: list[tuple[str, tuple[int, ...]]], dtype: np.dtype, tensors: Iterable[np.ndarray]) -> None:
    """Writes a safetensors file whose tensors all have `dtype`.

    Args:
      file: where to; the caller gives it its final name by renaming.
      specs: key and shape of every tensor, in the order of `tensors`.
      tensors: each is taken, written and dropped before the next, so a generator keeps one in memory.
    """
    name = next(name for name, known in DTYPES.items() if known == dtype)
    with open(file, "wb") as out:
        out.write(header([(key, shape, name) for key, shape in specs]))
        for (key, shape), tensor in zip(specs, tensors, strict=True):
            if tensor.shape != tuple(shape):
                raise ValueError(f"{key} has shape {tensor.shape}, announced {shape}")
            out.write(np.ascontiguousarray(tensor, dtype=dtype).reshape(-1).view(np.uint8).data)
        out.flush()
        os.fsync(out.fileno())
