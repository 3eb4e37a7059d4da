"""How much memory makes of the chunks in a pool: what the eviction `least_retrieved` goes by.

A chunk's usage is a moving average, over commits, of the share of its frames that memory retrieved, itself a mean over layers and films: 1 for a
chunk that every layer has been retrieving whole, 0 for one that none has looked at. Only chunks that could have been retrieved are counted, those
older than the window. A new chunk has shown nothing yet and begins with the mean of those: judged as average until it is known. With less
it would be given up as soon as it leaves the window; with more, every newcomer would drive out one that has earned its place.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from causalcine_jax.models.receptive_field import ReceptiveField

RATE = 0.1  # of the moving average: half of what a chunk has earned is forgotten in seven commits


def usage_after(
    usage: Float[Array, " slots"],
    field: ReceptiveField,
    older: Bool[Array, " slots"],
    chunk_frames: int,
) -> tuple[Float[Array, " slots"], Float[Array, ""]]:
    """(usage after a chunk whose fields were `field`, what a new chunk begins with).

    field  of every layer and film, of arrays [l, s, b, r]
    older  which chunk slots hold what memory could retrieve: history before the window
    """
    held = (field.time >= 0).astype(usage.dtype)
    frames = jnp.zeros_like(usage).at[field.frame // chunk_frames].add(held)
    share = frames / (field.length.size * chunk_frames)
    usage = jnp.where(older, (1 - RATE) * usage + RATE * share, usage)
    return usage, jnp.sum(jnp.where(older, usage, 0)) / jnp.maximum(jnp.sum(older), 1)
