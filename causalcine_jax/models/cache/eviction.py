"""How much memory retrieves from each chunk of a pool: the basis of the eviction `least_retrieved`.

A chunk's usage is a moving average, over commits, of the share of its frames that memory
retrieved. The share is a mean over layers and films: 1 if every layer retrieved the whole chunk, 0
if none retrieved any of it. Only chunks that could have been retrieved are counted, those older
than the window. A new chunk has no record yet and starts with the mean of those. Starting lower, it
would be evicted as soon as it leaves the window. Starting higher, every new chunk would drive out
one that is in use.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from causalcine_jax.models.receptive_field import ReceptiveField

RATE = 0.1  # of the moving average: its half-life is seven commits


def usage_after(
    usage: Float[Array, " slots"],
    field: ReceptiveField,
    older: Bool[Array, " slots"],
    chunk_frames: int,
) -> tuple[Float[Array, " slots"], Float[Array, ""]]:
    """Returns (usage after a chunk whose fields were `field`, a new chunk's initial usage).

    Args:
      field: of every layer and film, with arrays [l, s, b, r].
      older: which chunk slots memory could retrieve: history before the window.
    """
    held = (field.time >= 0).astype(usage.dtype)
    frames = jnp.zeros_like(usage).at[field.frame // chunk_frames].add(held)
    share = frames / (field.length.size * chunk_frames)
    usage = jnp.where(older, (1 - RATE) * usage + RATE * share, usage)
    return usage, jnp.sum(jnp.where(older, usage, 0)) / jnp.maximum(jnp.sum(older), 1)
