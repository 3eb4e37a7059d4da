"""Prompts as the stages embed them: token ids [..., T], of which 0 pads.

A batch with "text" holds embeddings made before (data/prompt_embeddings.py). Then "null_text" is
the null prompt's, per film, and no text encoder is needed: it may be None.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.utils.arrays import AnyArray


def embed(text_encoder, ids: Int[AnyArray, "*b t"]) -> Float[Array, "*b t d"]:
    return text_encoder(ids, ids != 0)


def text_of(text_encoder, batch) -> Float[Array, "b shots t d"]:
    """The embeddings of a batch's prompts."""
    if "text" in batch:
        return jnp.asarray(batch["text"])
    return embed(text_encoder, batch["token_ids"])


def null_text_of(
    text_encoder, null_prompt: tuple[int, ...], batch, text: Float[Array, "b shots t d"]
) -> Float[Array, "b shots t d"]:
    """The null prompt [T] in the place of every prompt of `text`."""
    if "null_text" in batch:
        null = batch["null_text"][:, None]
    else:
        null = embed(text_encoder, jnp.asarray(null_prompt)[None, None])
    return jnp.broadcast_to(null, text.shape)
