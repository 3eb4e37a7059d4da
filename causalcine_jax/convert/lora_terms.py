"""Merges adapters into their base while it is read: W + strength (alpha / r) B A.

The sum is in float32, over all adapters, then cast to the base's dtype.
"""

import math
from dataclasses import dataclass

import numpy as np

from causalcine_jax.convert.finite import is_finite
from causalcine_jax.convert.tensor_files import TensorFiles
from causalcine_jax.errors import DataError


@dataclass(frozen=True)
class Difference:
    """An update of one tensor, scale * diff; `diff` is a key of the adapter's `tensors`."""

    tensors: TensorFiles
    scale: float
    diff: str

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensors.shapes[self.diff]

    @property
    def named(self) -> str:
        return self.diff

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the shapes agree, but for axes of length 1: of a Conv3d's kernel, for example."""
        sides = [tuple(size for size in each if size != 1) for each in (self.shape, shape)]
        return sides[0] == sides[1]

    def read(self, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
        """The slice `index` of the update of a tensor of `shape`; float32."""
        return self.scale * self.tensors.read(self.diff).reshape(shape)[index].astype(np.float32)


@dataclass(frozen=True)
class LowRankTerm:
    """An update of one tensor, scale * up @ down; both are keys of the adapter's `tensors`."""

    tensors: TensorFiles
    scale: float
    down: str
    up: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.tensors.shapes[self.up][0], *self.tensors.shapes[self.down][1:])

    @property
    def named(self) -> str:
        return self.up

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the shapes agree; some trainers save a matrix as a convolution of one pixel."""
        own, more = self.shape[: len(shape)], self.shape[len(shape) :]
        return own == shape and math.prod(more) == 1

    def read(self, index: tuple[slice, ...], shape: tuple[int, ...]) -> np.ndarray:
        """As `Difference.read`."""
        if len(shape) == 2:
            rows, columns = (*index, slice(None), slice(None))[:2]
            down = self.tensors.read_slice(self.down, (slice(None), columns))
            up = self.tensors.read_slice(self.up, (rows, slice(None)))
            down, up = (side.reshape(side.shape[:2]).astype(np.float32) for side in (down, up))
            return self.scale * (up @ down)
        up, down = (self.tensors.read(key).astype(np.float32) for key in (self.up, self.down))
        return (
            self.scale
            * (up.reshape(len(up), -1) @ down.reshape(len(down), -1)).reshape(shape)[index]
        )


Term = Difference | LowRankTerm


def merged(
    base: np.ndarray, index: tuple[slice, ...], shape: tuple[int, ...], terms: list[Term]
) -> np.ndarray:
    """The slice `base` at `index` of a tensor of `shape`, plus the sum of all updates."""
    total = base.astype(np.float32)
    for term in terms:
        update = term.read(index, shape)
        if not is_finite(update):
            raise DataError(
                f"{term.tensors.files[0]}: the LoRA's update by {term.named} holds NaN or "
                "infinity: copy the file again, or train it again"
            )
        total = total + update
    with np.errstate(over="ignore"):
        result = total.astype(base.dtype)
    if is_finite(total) and not is_finite(result):
        raise DataError(
            f"{terms[0].tensors.files[0]}: with the LoRA merged, weights exceed {base.dtype}, "
            "the base's dtype: give it less strength"
        )
    return result
