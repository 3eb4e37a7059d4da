"""Writes mutated copies of files and folders; each function returns what it has changed."""

import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.mutate import mutated_bytes, mutated_json, mutated_yaml

DTYPES = ("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "I32", "U8", "BOOL", "C64", "X")
ARRAY_DTYPES = ("float64", "float16", "complex64", "int8", "uint64", "bool", "U4", "S4")
VALUES = (np.nan, np.inf, -np.inf, 1e30, -1, 0, 10**6, -(2**31))


@dataclass(frozen=True)
class Kind:
    """A kind of input: sound ones, and a function that writes a mutated one at a path.

    `write` returns what was mutated; `suffix` is of the name of what it writes.
    """

    sound: list[Path]
    write: Callable[[Path, Random], str]
    suffix: str = ""


def change_bytes(to: Path, rng: Random, source: Path) -> str:
    to.write_bytes(mutated_bytes(source.read_bytes(), rng))
    return f"bytes of {source.name}"


def change_document(to: Path, rng: Random, source: Path) -> str:
    if rng.random() < 0.3:
        return change_bytes(to, rng, source)
    to.write_bytes(mutated_json(json.loads(source.read_bytes()), rng))
    return "values"


def change_inside(to: Path, rng: Random, source: Path, named: tuple[str, ...]) -> str:
    """A copy of the folder with one file mutated or missing, whose path has one of the names."""
    shutil.copytree(source, to)
    names = {file: file.relative_to(to).as_posix() for file in to.rglob("*") if file.is_file()}
    file = rng.choice(sorted(file for file in names if any(name in names[file] for name in named)))
    if rng.random() < 0.1:
        file.unlink()
        return f"{names[file]} missing"
    content = file.read_bytes()
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if file.suffix in (".npz", ".npy") and rng.random() < 0.6:
        return f"{names[file]}, {_change_arrays(file, rng)}"
    if file.suffix == ".safetensors":
        return f"{names[file]}, {change_safetensors(file, rng, file)}"
    if file.suffix == ".yaml" and rng.random() < 0.7:
        file.write_bytes(mutated_yaml(content.decode(), rng))
    elif document is None or rng.random() < 0.3:
        file.write_bytes(mutated_bytes(content, rng))
    else:
        file.write_bytes(mutated_json(document, rng))
    return names[file]


def change_safetensors(to: Path, rng: Random, source: Path) -> str:
    """Changes bytes, the header, the metadata in it (also JSON within JSON), or a dtype."""
    content = source.read_bytes()
    if rng.random() < 0.4:
        to.write_bytes(mutated_bytes(content, rng))
        return "bytes"
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    told, what = header.get("__metadata__"), "header"
    packed = [name for name, text in (told or {}).items() if text[:1] in "[{"]
    if packed and rng.random() < 0.4:
        name, what = rng.choice(packed), "document in the header"
        told[name] = mutated_json(json.loads(told[name]), rng).decode()
    elif told and rng.random() < 0.3:
        name, what = rng.choice(list(told)), "text in the header"
        told[name] = rng.choice(("", "0", "-1", "1e999", "nan", "None", "x" * 10_000, "\x1b[2J"))
    elif rng.random() < 0.3:
        name, what = rng.choice([name for name in header if name != "__metadata__"]), "dtype"
        header[name]["dtype"] = rng.choice(DTYPES)
    else:
        packed_header = mutated_json(header, rng)
        return _write_safetensors(to, packed_header, content[8 + length :], what)
    return _write_safetensors(to, json.dumps(header).encode(), content[8 + length :], what)


def _write_safetensors(to: Path, header: bytes, tensors: bytes, what: str) -> str:
    to.write_bytes(struct.pack("<Q", len(header)) + header + tensors)
    return what


def _change_arrays(file: Path, rng: Random) -> str:
    """Saves one array of a .npy or .npz with another dtype, shape or value, or without it."""
    loaded: Any = np.load(file)
    arrays = {"": loaded} if file.suffix == ".npy" else dict(loaded)
    name = rng.choice(sorted(arrays))
    move = rng.choice(("dtype", "shape", "value", "value", "missing", "another"))
    array = arrays[name]
    if move == "dtype":
        arrays[name] = array.astype(rng.choice(ARRAY_DTYPES))
    elif move == "shape":
        arrays[name] = rng.choice((array.ravel(), array[..., None], array[:0], array[..., :1]))
    elif move == "value":
        changed = array.astype(np.float64)
        changed.flat[rng.randrange(changed.size)] = rng.choice(VALUES)
        with np.errstate(invalid="ignore", over="ignore"):
            arrays[name] = changed.astype(array.dtype)
    elif move == "missing":
        arrays.pop(name)
    else:
        arrays[f"{name}2"] = array
    if file.suffix == ".npy":
        np.save(file, arrays.get(name, np.zeros(0)), allow_pickle=False)
    else:
        np.savez(file, **arrays)
    return f"{move} of {name or 'the array'}"
