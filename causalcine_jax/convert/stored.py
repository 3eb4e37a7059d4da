"""The location of a tensor in a file, as the readers of every format report it."""

import math
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

# By safetensors' names. Tensors of other dtypes (packed four-bit ones) have a shape but are not
# readable.
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
