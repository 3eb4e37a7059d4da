"""Ends a film whose networks give NaN or infinity, and names the network: such frames are black.

Finite weights may overflow, most easily in bfloat16 and float8, or after a LoRA. One reduction of
each chunk's latents and frames detects that. The slow search for the layer runs only then.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from causalcine_jax.config import PassConfig
from causalcine_jax.diffusion.flow import TRAIN_TIMES
from causalcine_jax.errors import DataError, shown
from causalcine_jax.film.rollout import segment
from causalcine_jax.models.dit import TextContext, Transformer
from causalcine_jax.models.packed import transformer_pass
from causalcine_jax.parallel.gathering import gather_to_host

_ADVICE = "check the weights and LoRAs, lower guidance or strength, or film with --dtype float32"


class NotFinite(DataError):
    """A network gave NaN or infinity; `network` is its name."""

    def __init__(self, network: str, where: str):
        self.network = network
        super().__init__(
            f"the {network} gives NaN or infinity{where}, which makes black frames: {_ADVICE}"
        )


@jax.jit
def finite(*arrays: Array) -> Bool[Array, " n"]:
    """Of each array, whether all its values are finite."""
    return jnp.stack([jnp.isfinite(array).all() for array in arrays])


def check_decoded(found: Bool[Array, "2"], tiny_decoder) -> None:
    """`NotFinite` unless both are: a chunk's latents, and the frames that were decoded from them.

    found  their `finite`, computed on the device
    """
    latents, video = gather_to_host(found)
    if not latents:
        raise NotFinite("transformer", "")
    if not video:
        raise NotFinite("tiny decoder" if tiny_decoder else "VAE's decoder", "")


def check_embedding(texts: Float[Array, "b t c"], prompt: str) -> None:
    """`NotFinite` if the text encoder, or the file in its place, has no finite embedding."""
    if not gather_to_host(finite(texts))[0]:
        raise NotFinite("text encoder", f" for the prompt {shown(prompt)}")


def with_layer(error: NotFinite, model: Transformer, noise, prompt: TextContext) -> NotFinite:
    """The error, naming the first block that fails on the chunk's noise without history."""
    if error.network != "transformer":
        return error
    try:
        layers = gather_to_host(_finite_layers(model, noise, prompt))
    except RuntimeError:  # memory has no room for one more pass
        return error
    where, bad = "after its last attention, or in a later step", np.flatnonzero(~layers)
    if len(bad):
        where = f"in block {bad[0] - 1} or {bad[0]}" if bad[0] else "in its embeddings or block 0"
    return NotFinite("transformer", f", first {where}")


@jax.jit
def _finite_layers(
    model: Transformer, noise: Float[Array, "1 c h w ch"], prompt: TextContext
) -> Bool[Array, " l"]:
    """Of each layer, whether the keys and values that it makes of the noise are finite."""
    noise = jnp.concatenate([noise] * prompt.k.shape[1])
    chunk = segment(noise, float(TRAIN_TIMES), 0)
    config = PassConfig(chunk_frames=noise.shape[1])
    out = transformer_pass(model, chunk, prompt, config, keep_kv=True)
    assert out.k is not None and out.v is not None
    return jnp.stack([jnp.isfinite(kv).all((1, 2, 3, 4, 5)) for kv in (out.k, out.v)]).all(0)
