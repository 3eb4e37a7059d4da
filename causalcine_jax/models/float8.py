"""Eight-bit matrices for generation: e4m3 numbers, a scale per output channel for weights and per token for what they are multiplied with.

Of a transformer, the matrices of the blocks are kept so: they are nearly all of its weights and of its arithmetic. Norms, modulation, embeddings and
the head stay as they are. A product of two float8 matrices is what tensor cores compute at twice their rate in bfloat16; elsewhere it is the same
numbers, widened first.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from causalcine_jax.models.cache.quantised import rounded

FLOAT8 = jnp.float8_e4m3fn


def outside_blocks(dtype: str) -> str:
    """What the networks' other parameters are kept in where the model's dtype is `dtype`."""
    return "bfloat16" if dtype == "float8" else dtype


def product(
    x: Float[Array, "*b i"], weight: Float[Array, "i o"], scale: Float[Array, " o"], dtype
) -> Float[Array, "*b o"]:
    """x W for a float8 weight and the scale of its columns; x is made float8 on the way."""
    x8, token_scale = rounded(x, FLOAT8, axes=-1)
    y = jnp.einsum("...i,io->...o", x8, weight, preferred_element_type=jnp.float32)
    return (y * token_scale * scale).astype(dtype)


def quantize_blocks(transformer):
    """The transformer with its blocks' matrices in float8; the other parameters are shared with the one given. One matrix at a time is widened."""
    transformer = jax.tree.map(lambda leaf: leaf, transformer)
    blocks = transformer.blocks
    matrices = [
        getattr(attention, name)
        for attention in (blocks.self_attn, blocks.cross_attn)
        for name in "qkvo"
    ]
    for linear in (*matrices, blocks.ffn_0, blocks.ffn_2):
        linear.quantize()
    return transformer


@jax.jit
def columns(weight: Float[Array, "l i o"]) -> tuple[Array, Float[Array, "l o"]]:
    """The layers' matrices as float8, and the scales of their columns; layer by layer, so that the float32 copy is one layer's."""

    def layer(matrix):
        weight, scale = rounded(matrix, FLOAT8, axes=0)
        return weight, scale[0]

    return jax.lax.map(layer, weight)
