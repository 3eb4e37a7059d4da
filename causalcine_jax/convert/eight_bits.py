"""Weights that a file holds in eight bits, read as bfloat16: ComfyUI's fp8_scaled files, and plain float8 without scales.

ComfyUI writes a matrix in float8 and beside it how much one unit of it is: `X.scale_weight`, or `X.weight_scale` in later files, one number or one for
each row. `scaled_fp8`, `X.scale_input` and `X.comfy_quant` say how to compute in eight bits, which needs none of it here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from causalcine_jax.errors import DataError

READ_AS = "BF16"
FLOAT8 = ("F8_E4M3", "F8_E5M2")
_SCALE = re.compile(r"(?:(.+)\.)?(?:scale_weight|weight_scale)")
_ASIDE = re.compile(r"(?:(?:.+\.)?(?:scale_input|input_scale|comfy_quant)|scaled_fp8)")


@dataclass(frozen=True)
class Scales:
    """Plain key of a float8 weight -> key in the file of its scale, and the plain keys that are no weights."""

    of: Mapping[str, str]
    aside: frozenset[str]


def scales(names: Mapping[str, str], tensors, what: str) -> Scales:
    """The scales among a network's tensors.

    Args:
      names: plain key -> key in `tensors` (a `TensorFiles`).
      what: the file, for messages.

    Raises:
      DataError: a scale without its float8 weight, or of a shape that is neither one number nor one for each row.
    """
    found, faults = {}, []
    for plain, key in names.items():
        if match := _SCALE.fullmatch(plain):
            weight = f"{match[1]}.weight" if match[1] else "weight"
            shape = tensors.shapes.get(names.get(weight), ())
            if weight not in names or tensors.dtypes[names[weight]] not in FLOAT8:
                faults.append(f"{key} scales no float8 weight")
            elif math.prod(tensors.shapes[key]) not in (1, shape[0]):
                faults.append(
                    f"{key} has shape {tensors.shapes[key]}, where one number or {shape[0]} were expected"
                )
            else:
                found[weight] = key
    if faults:
        raise DataError(f"{what}: {'; '.join(faults[:8])}; take the bf16 or fp16 file")
    aside = {plain for plain in names if _SCALE.fullmatch(plain) or _ASIDE.fullmatch(plain)}
    return Scales(found, frozenset(aside))


def dequantised(
    stored: np.ndarray, index: tuple[slice, ...], scale: np.ndarray | None
) -> np.ndarray:
    """`stored`, which is the slice `index` of a float8 weight, as bfloat16; `scale` is its whole scale."""
    values = stored.astype(np.float32)
    if scale is not None:
        scale = scale.astype(np.float32)
        rows = (
            scale.reshape(-1)[index[0] if index else slice(None)]
            if scale.size > 1
            else scale.reshape(-1)
        )
        values = values * rows.reshape(-1, *(1,) * (stored.ndim - 1))
    return values.astype(ml_dtypes.bfloat16)
