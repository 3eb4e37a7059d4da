"""Where a tensor lies in a file: the one thing that the readers of every format have to find out."""

import math
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

# By safetensors' names. A file may hold others (packed four-bit ones, say): their tensors have a shape, and cannot be read.
NUMPY_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
    "C128": np.dtype(np.complex128),
}
MAX_AXES = 32


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    dtype    safetensors' name of it
    offset   of the first element, in bytes from the beginning of the file
    strides  in elements, none negative; None where elements follow each other in C order
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None

    def view(self, mapped) -> np.ndarray:
        """The tensor in `mapped`, the bytes of its whole file; nothing is copied."""
        dtype = NUMPY_DTYPES[self.dtype]
        strides = (
            None
            if self.strides is None
            else tuple(stride * dtype.itemsize for stride in self.strides)
        )
        return np.ndarray(self.shape, dtype, mapped, self.offset, strides)


def elements_spanned(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """From its first element to its last one, both included, a strided tensor spans so many."""
    if math.prod(shape) == 0:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
