"""Checks that weights are finite while they are read: one NaN makes a black film hours later."""

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.errors import DataError

# Exponents of all ones encode infinity and NaN. They are the largest of the positive bit patterns,
# read as signed, and the largest of the negative ones, read as unsigned.
_INFINITY = {2: 0x7F80, 4: 0x7F800000, 8: 0x7FF0000000000000}
_HALF_INFINITY = 0x7C00


def is_finite(values: np.ndarray) -> bool:
    """Whether all `values`, of a float type of 2, 4 or 8 bytes, are finite.

    Exact, by two maxima over their bits; allocates nothing of their size.
    """
    if not values.size:
        return True
    size = values.dtype.itemsize
    infinity = _HALF_INFINITY if values.dtype == np.float16 else _INFINITY[size]
    signed, unsigned = values.view(f"i{size}"), values.view(f"u{size}")
    return int(signed.max()) < infinity and int(unsigned.max()) < infinity + (1 << (8 * size - 1))


def check_finite(values: np.ndarray, tensors, key: str) -> None:
    """Raises `DataError`, naming network and tensor, if any of `values` is not finite.

    Args:
      values: read from `key` of `tensors` (a `formats.PartTensors`).
    """
    if not is_finite(values):
        kind = "NaN" if np.isnan(values.astype(np.float32)).any() else "infinity"
        raise DataError(_fault(f"{tensors.path}", tensors.part, tensors.source_key(key), kind))


def check_parameters(parameters: dict[str, jax.Array], path, part: str) -> None:
    """`check_finite` for parameters on their devices, by name."""
    found = jax.jit(lambda values: [jnp.isfinite(value).all() for value in values])(
        list(parameters.values())
    )
    for name, finite in zip(parameters, jax.device_get(found), strict=True):
        if not finite:
            raise DataError(_fault(f"{path}", part, name, "NaN or infinity"))


def _fault(path: str, part: str, tensor: str, kind: str) -> str:
    return (
        f"{path}: {tensor} of the {part.replace('_', ' ')} holds {kind}, which makes black films: "
        "copy the file again, or train it again"
    )
