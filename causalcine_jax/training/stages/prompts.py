"""Prompts as the stages embed them: token ids [..., T], of which 0 pads."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.utils.arrays import AnyArray


def embed(text_encoder, ids: Int[AnyArray, "*b t"]) -> Float[Array, "*b t d"]:
    return text_encoder(ids, ids != 0)


def embed_null(
    text_encoder, null_prompt: tuple[int, ...], text: Float[Array, "b shots t d"]
) -> Float[Array, "b shots t d"]:
    """The null prompt [T] in the place of every prompt of `text`."""
    null = embed(text_encoder, jnp.asarray(null_prompt)[None, None])
    return jnp.broadcast_to(null, text.shape)
