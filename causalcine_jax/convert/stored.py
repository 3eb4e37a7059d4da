"""The location of a tensor in a file, as the readers of every format report it."""

import math
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

# safetensors' name: numpy's type, whose name is also torch's; the class of torch's storages of it.
# Tensors of other dtypes (packed four-bit ones) have a shape but are not readable.
DTYPES: dict[str, tuple[type, str | None]] = {
    "BOOL": (np.bool_, "BoolStorage"),
    "U8": (np.uint8, "ByteStorage"),
    "I8": (np.int8, "CharStorage"),
    "U16": (np.uint16, None),
    "I16": (np.int16, "ShortStorage"),
    "U32": (np.uint32, None),
    "I32": (np.int32, "IntStorage"),
    "U64": (np.uint64, None),
    "I64": (np.int64, "LongStorage"),
    "F8_E4M3": (ml_dtypes.float8_e4m3fn, None),
    "F8_E5M2": (ml_dtypes.float8_e5m2, None),
    "F8_E8M0": (ml_dtypes.float8_e8m0fnu, None),
    "BF16": (ml_dtypes.bfloat16, "BFloat16Storage"),
    "F16": (np.float16, "HalfStorage"),
    "F32": (np.float32, "FloatStorage"),
    "F64": (np.float64, "DoubleStorage"),
    "C64": (np.complex64, "ComplexFloatStorage"),
    "C128": (np.complex128, "ComplexDoubleStorage"),
}
MAX_AXES = 32
NUMPY_DTYPES = {name: np.dtype(kind) for name, (kind, _) in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    dtype    safetensors' name
    offset   of the first element, in bytes from the start of the file
    strides  in elements, none negative; None for C order
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None

    def view(self, mapped) -> np.ndarray:
        """The tensor as a view of `mapped`, the bytes of its file."""
        dtype = NUMPY_DTYPES[self.dtype]
        strides = (
            None
            if self.strides is None
            else tuple(stride * dtype.itemsize for stride in self.strides)
        )
        return np.ndarray(self.shape, dtype, mapped, self.offset, strides)


def elements_spanned(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """The number of elements from a strided tensor's first to its last, both included."""
    if math.prod(shape) == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
