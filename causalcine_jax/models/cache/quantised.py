"""Symmetric quantisation to one byte, for a pool's keys and values: a scale per frame and head.

    committed k, v --quantise--> values, scale in the pool
    values, scale --gathered by a field--> restored --rotated, attended to

Only a field's frames are restored, so the pool takes fewer bytes and a pass reads fewer. Within a
frame and head, the rounding error is at most half a step (int8) or a sixteenth of the value (fp8:
e4m3, 3 bits of mantissa). The descriptors, by which memory routes, are never rounded.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from causalcine_jax.config import KV_DTYPES
from causalcine_jax.errors import check_choice

STORED = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quantised:
    """Quantised frames [*b, f, p, h, d]: values * scale, one scale per frame and head."""

    values: Shaped[Array, "*b f p h d"]
    scale: Float[Array, "*b f h"]


Frames = Array | Quantised  # [*b, f, p, h, d]


def zeros(shape: tuple[int, ...], dtype, kv_dtype: str) -> Frames:
    """Frames of zeros [*b, f, p, h, d] in `dtype`, or quantised.

    Raises:
      UsageError: kv_dtype is unknown.
    """
    check_choice("kv_dtype", kv_dtype, KV_DTYPES)
    if kv_dtype == "same":
        return jnp.zeros(shape, dtype)
    *films, _, heads, _ = shape
    return Quantised(jnp.zeros(shape, STORED[kv_dtype]), jnp.zeros((*films, heads), jnp.float32))


def values_of(frames):
    """The array [*b, f, p, h, d] of `Frames`, or its shape, without the scales."""
    return frames.values if isinstance(frames, Quantised) else frames


def stored_as(buffer: Frames, frames: Float[Array, "*b f p h d"]) -> Frames:
    """Converts `frames` to the form of `buffer`."""
    if not isinstance(buffer, Quantised):
        return frames.astype(buffer.dtype)
    values, scale = rounded(frames, buffer.values.dtype, axes=(-3, -1))
    return Quantised(values, scale[..., 0, :, 0])


def rounded(
    x: Float[Array, "*n"], dtype, axes: int | tuple[int, ...]
) -> tuple[Shaped[Array, "*n"], Float[Array, "*#n"]]:
    """Quantises x to `dtype` (int8 or a float8), with one scale over `axes`.

    The product of the results is near x. The scale keeps `axes` with size 1, and is 0 where x is
    all zeros.
    """
    whole = jnp.issubdtype(dtype, jnp.integer)
    limit = float(jnp.iinfo(dtype).max if whole else jnp.finfo(dtype).max)
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=axes, keepdims=True) / limit
    scaled = x / jnp.where(scale > 0, scale, 1)
    return (jnp.round(scaled) if whole else scaled).astype(dtype), scale


def restored(frames: Frames) -> Shaped[Array, "*b f p h d"]:
    """The frames' numbers: in float32 if they are quantised, otherwise as they are stored."""
    if not isinstance(frames, Quantised):
        return frames
    return frames.values.astype(jnp.float32) * frames.scale[..., None, :, None]
