"""Eight-bit matrices for generation: e4m3, with a scale per weight column and per input token.

Only the matrices of a transformer's blocks are in float8: they are nearly all of its weights and
arithmetic. Norms, modulation, embeddings and the head keep their dtype. Tensor cores multiply two
float8 matrices at twice the rate of bfloat16. Elsewhere the same numbers are widened before the
product. A float8 weight is [out, in], unlike all others: cuBLASLt on Hopper sums along rows of both
operands, and would transpose whole stacks of [in, out] in every pass.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from causalcine_jax.models.cache.quantised import rounded

FLOAT8 = jnp.float8_e4m3fn


def outside_blocks(dtype: str) -> str:
    """The dtype of all other parameters when the model's dtype is `dtype`."""
    return "bfloat16" if dtype == "float8" else dtype


def product(
    x: Float[Array, "*b i"], weight: Float[Array, "o i"], scale: Float[Array, " o"], dtype
) -> Float[Array, "*b o"]:
    """x W^T for a float8 weight with its outputs' scales; x is quantised to float8 first.

    Sums are float32 and leave the product in `dtype`.
    """
    x8, token_scale = rounded(x, FLOAT8, axes=-1)
    y = jnp.einsum("...i,oi->...o", x8, weight, preferred_element_type=dtype)
    return (y * token_scale * scale).astype(dtype)


def quantize_blocks(transformer):
    """Returns the transformer with its blocks' matrices in float8.

    All other parameters are shared with the argument. Matrices are widened one at a time.
    """
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
def columns(weight: Float[Array, "l i o"]) -> tuple[Float[Array, "l o i"], Float[Array, "l o"]]:
    """The layers' matrices as float8 [out, in], and the scales of their outputs.

    Layer by layer, so that only one layer has a float32 copy at a time.
    """

    def layer(matrix):
        weight, scale = rounded(matrix.T, FLOAT8, axes=1)
        return weight, scale[:, 0]

    return jax.lax.map(layer, weight)
