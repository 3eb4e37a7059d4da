"""Which chunk a full pool evicts, and the usage counts that decide it.

The eviction `oldest` counts nothing; `least_retrieved` counts what memory retrieves of each chunk.

A chunk's usage is a moving average, over commits, of the share of its frames that memory
retrieved. The share is a mean over layers and films: 1 if every layer retrieved the whole chunk, 0
if none retrieved any of it. Only chunks that could have been retrieved are counted, those older
than the window. A new chunk has no record yet and starts with their mean usage. Starting lower, it
would be evicted as soon as it leaves the window. Starting higher, every new chunk would drive out
one that is in use.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from causalcine_jax.config import MemoryConfig
from causalcine_jax.models.cache.kv_cache import KVCache
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
    is_valid = (field.frame >= 0).astype(usage.dtype)
    frames = jnp.zeros_like(usage).at[field.slot // chunk_frames].add(is_valid)
    share = frames / (field.length.size * chunk_frames)
    usage = jnp.where(older, (1 - RATE) * usage + RATE * share, usage)
    return usage, jnp.sum(jnp.where(older, usage, 0)) / jnp.maximum(jnp.sum(older), 1)


def slot_for(cache: KVCache, chunk_index: Int[Array, ""], memory: MemoryConfig) -> Int[Array, ""]:
    """The chunk slot that a commit of `chunk_index` writes.

    In order of preference: the chunk's own slot, an empty one, or an evictable one. Among the
    evictable, memory.eviction picks the oldest, or the oldest of those that memory used least. The
    sink and the next chunk's window are not evictable; a pool of at least `memory.smallest_pool`
    always has another. Reads only `chunk` and `usage`, which layers and batch share.
    """
    big = jnp.int32(1 << 30)
    unprotected = cache.chunk >= memory.protected_chunks(cache.chunk_frames)
    may_go = unprotected & (cache.chunk <= chunk_index - memory.window_chunks)
    if memory.eviction == "least_retrieved":
        may_go &= cache.usage <= jnp.min(jnp.where(may_go, cache.usage, jnp.inf))
    order = jnp.where(may_go, cache.chunk, big)
    order = jnp.where(cache.chunk < 0, -big, order)
    order = jnp.where(cache.chunk == chunk_index, -big - 1, order)
    return jnp.argmin(order)


def counted(
    cache: KVCache, field: ReceptiveField, chunk_index: Int[Array, ""], memory: MemoryConfig
) -> tuple[KVCache, Float[Array, ""]]:
    """Updates the chunks' usage by the fields [l, s, b, r] of chunk `chunk_index`.

    Returns the updated cache and the new chunk's initial usage.
    """
    older = (cache.chunk >= 0) & (cache.chunk < chunk_index - memory.window_chunks)
    usage, newcomer = usage_after(cache.usage, field, older, cache.chunk_frames)
    return dataclasses.replace(cache, usage=usage), newcomer
