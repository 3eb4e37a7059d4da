"""Ends a film whose networks give NaN or infinity, and names the network: such frames are black.

Finite weights may overflow, most easily in bfloat16 and float8, or after a LoRA. One reduction of
each chunk's latents and frames detects that.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from causalcine_jax.errors import DataError, shown
from causalcine_jax.parallel.gathering import gather_to_host

_ADVICE = "check the weights and LoRAs, lower guidance or strength, or film with --dtype float32"


class NotFinite(DataError):
    """A network gave NaN or infinity; `network` is its name."""

    def __init__(self, network: str, where: str = ""):
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
        raise NotFinite("transformer")
    if not video:
        raise NotFinite("tiny decoder" if tiny_decoder else "VAE's decoder")


def check_embedding(texts: Float[Array, "b t c"], prompt: str) -> None:
    """`NotFinite` if the text encoder, or the file in its place, has no finite embedding."""
    if not gather_to_host(finite(texts))[0]:
        raise NotFinite("text encoder", f" for the prompt {shown(prompt)}")
