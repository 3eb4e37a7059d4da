"""Reads float8 weights as bfloat16: ComfyUI's fp8_scaled files, and plain float8 without scales.

ComfyUI stores a float8 matrix with its scale, `X.scale_weight`, or `X.weight_scale` in later files:
one number, or one per row. `scaled_fp8`, `X.scale_input` and `X.comfy_quant` configure computation
in eight bits and are not needed here.
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
MARKER = "scaled_fp8"  # in a file whose float8 weights are scaled
_ASIDE = re.compile(rf"(?:(?:.+\.)?(?:scale_input|input_scale|comfy_quant)|{MARKER})")


@dataclass(frozen=True)
class Scales:
    """The scales and other float8 entries among a network's tensors.

    of     plain key of a float8 weight -> key in the file of its scale
    aside  plain keys that are not weights
    """

    of: Mapping[str, str]
    aside: frozenset[str]


def scales(names: Mapping[str, str], tensors, what: str) -> Scales:
    """Finds the scales among a network's tensors.

    Args:
      names: plain key -> key in `tensors` (a `TensorFiles`).
      what: the file, for messages.

    Raises:
      DataError: a scale without its float8 weight, or with neither one number nor one per row; a
        scale that is not positive; or float8 weights without a scale in a file of scaled ones.
    """
    found: dict[str, str] = {}
    faults = []
    for plain, key in names.items():
        if match := _SCALE.fullmatch(plain):
            weight = f"{match[1]}.weight" if match[1] else "weight"
            shape = tensors.shapes.get(names.get(weight), ())
            if weight not in names or tensors.dtypes[names[weight]] not in FLOAT8:
                faults.append(f"{key} scales no float8 weight")
            elif weight in found:
                faults.append(f"{found[weight]} and {key} both scale {weight}")
            elif not _is_scale(tensors.shapes[key], shape[0]):
                faults.append(
                    f"{key} has shape {tensors.shapes[key]}, "
                    f"where one number or {shape[0]} were expected"
                )
            elif not _is_positive(tensors.read(key)):
                faults.append(f"{key} is not a positive finite number")
            else:
                found[weight] = key
    float8 = [plain for plain, key in names.items() if tensors.dtypes[key] in FLOAT8]
    scaled = not faults and (found or MARKER in names)
    faults += [
        f"{names[plain]} is float8 and its scale is missing"
        for plain in float8
        if scaled and plain not in found and len(tensors.shapes[names[plain]]) > 1
    ]
    if faults:
        raise DataError(f"{what}: {'; '.join(faults[:8])}; take the bf16 or fp16 file")
    aside = {plain for plain in names if _SCALE.fullmatch(plain) or _ASIDE.fullmatch(plain)}
    return Scales(found, frozenset(aside))


def _is_scale(shape: tuple[int, ...], rows: int) -> bool:
    return math.prod(shape) == 1 or (shape[0] == rows and math.prod(shape) == rows)


def _is_positive(scale: np.ndarray) -> bool:
    values = scale.astype(np.float32)
    return bool(np.isfinite(values).all() and (values > 0).all())


def dequantised(
    stored: np.ndarray, index: tuple[slice, ...], scale: np.ndarray | None
) -> np.ndarray:
    """The slice `stored` at `index` of a float8 weight, as bfloat16; `scale` is its full scale."""
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
