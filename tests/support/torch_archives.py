"""Makes torch's files without torch: pickles from opcodes, in a zip archive."""

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

STOP = b"."
MARK, TUPLE, REDUCE, BINPERSID = b"(", b"t", b"R", b"Q"


def text(value: str) -> bytes:
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def integer(value: int) -> bytes:
    if 0 <= value < 256:
        return b"K" + bytes([value])
    encoded = pickle.encode_long(value)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def name(dotted: str) -> bytes:
    module, _, attribute = dotted.rpartition(".")
    return b"c" + module.encode() + b"\n" + attribute.encode() + b"\n"


def tuple_of(*values: bytes) -> bytes:
    return MARK + b"".join(values) + TUPLE


def call(dotted: str, *arguments: bytes) -> bytes:
    return name(dotted) + tuple_of(*arguments) + REDUCE


def dictionary(**values: bytes) -> bytes:
    return b"}" + MARK + b"".join(text(key) + value for key, value in values.items()) + b"u"


def storage(kind: str, key: str, count: int, tag: str = "storage") -> bytes:
    return tuple_of(text(tag), name(kind), text(key), text("cpu"), integer(count)) + BINPERSID


def tensor(kind: str, key: str, count: int, shape=None, strides=None, offset: int = 0) -> bytes:
    """Pickles a view; by default, of the whole storage as a vector."""
    shape = (count,) if shape is None else shape
    strides = (
        tuple(int(np.prod(shape[axis + 1 :])) for axis in range(len(shape)))
        if strides is None
        else strides
    )
    sizes = (tuple_of(*map(integer, values)) for values in (shape, strides))
    hooks = call("collections.OrderedDict")
    return call(
        "torch._utils._rebuild_tensor_v2",
        storage(kind, key, count),
        integer(offset),
        *sizes,
        b"\x89",
        hooks,
    )


def archive(
    file: Path,
    content: bytes,
    storages: dict[str, np.ndarray] | None = None,
    compression=zipfile.ZIP_STORED,
    **members: bytes,
) -> Path:
    """Writes a file as torch.save does.

    `content` is the pickle without its first two bytes and its STOP.
    """
    with zipfile.ZipFile(file, "w", compression) as out:
        out.writestr("model/data.pkl", b"\x80\x02" + content + STOP)
        out.writestr("model/byteorder", members.pop("byteorder", b"little"))
        for key, values in (storages or {}).items():
            out.writestr(f"model/data/{key}", values.tobytes())
        for member, bytes_ in members.items():
            out.writestr(f"model/{member}", bytes_)
        out.writestr("model/version", b"3\n")
    return file
