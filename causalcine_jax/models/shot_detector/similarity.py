"""How alike a frame is to those around it."""

import einops
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

BEFORE = 50  # frames to each side
AROUND = 2 * BEFORE + 1
BITS = 3  # of each colour in a histogram


def near_cosines(x: Float[Array, "b t d"]) -> Float[Array, "b t 101"]:
    """Cosines of every frame's x with those of the 50 frames before it, itself, and 50 after it.

    They are 0 beyond the first and the last frame.
    """
    frames = x.shape[1]
    x = x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
    cosines = jnp.einsum("bqd,bkd->bqk", x, x)
    padded = jnp.pad(cosines, ((0, 0), (0, 0), (BEFORE, BEFORE)))
    near = jnp.arange(frames)[:, None] + jnp.arange(AROUND)
    return jnp.take_along_axis(padded, near[None], axis=2)


def histograms(frames: UInt8[Array, "b t h w 3"]) -> Float[Array, "b t 512"]:
    """How many pixels of a frame have each of 512 colours: three bits of each channel."""
    red, green, blue = jnp.moveaxis(frames.astype(jnp.int32) >> (8 - BITS), -1, 0)
    colour = einops.rearrange((red << 2 * BITS) | (green << BITS) | blue, "b t h w -> b t (h w)")
    batch, time, _ = colour.shape
    counts = jnp.zeros((batch, time, 1 << 3 * BITS))
    return counts.at[jnp.arange(batch)[:, None, None], jnp.arange(time)[:, None], colour].add(1)
