"""Frames or prompts picked by indices, with a gradient that is exact and repeatable everywhere."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from causalcine_jax.parallel.platform import platform


def gather(stored: Shaped[Array, "b f *d"], index: Int[Array, "b r"]) -> Shaped[Array, "b r *d"]:
    """`stored[b, index[b]]` of every film b."""
    by_product = platform() != "cpu" and jnp.issubdtype(stored.dtype, jnp.floating)
    take = gather_by_product if by_product else lambda frames, index: frames[index]
    return jax.vmap(take)(stored, index)


@jax.custom_jvp
def gather_by_product(
    frames: Float[Array, " f *d"], index: Int[Array, " r"]
) -> Float[Array, " r *d"]:
    """`frames[index]`, whose gradient is a product with float32 sums in a fixed order.

    The gradient of a plain gather is a scatter-add. On GPUs it adds in the arrays' dtype, by
    atomics in any order: a frame that 40 segments retrieve loses digits, and no two runs agree.
    """
    return frames[index]


@gather_by_product.defjvp
def _gather_jvp(primals, tangents):
    (frames, index), (change, _) = primals, tangents
    # Its transpose contracts all segments' frames in one matrix product.
    chosen = jax.nn.one_hot(index, frames.shape[0], dtype=frames.dtype)
    return frames[index], jnp.einsum("rf,f...->r...", chosen, change)
