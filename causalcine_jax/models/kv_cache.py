"""The pool of history: keys and values of committed chunks, as a plain pytree that functions take and return.

A pool has F frame slots, a multiple of the chunk, given and taken back by whole chunks. Denoising reads it; a commit writes one
chunk by one `dynamic_update_slice` into donated buffers; nothing ever copies it. Keys are stored unrotated, because the same
key gets another slot in every field that retrieves it; keys and values in the model's dtype or in a byte each (quantised.py).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import MemoryConfig, TransformerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.models.quantised import Frames, stored_as, zeros
from causalcine_jax.models.receptive_field import ReceptiveField
from causalcine_jax.models.usage import usage_after
from causalcine_jax.parallel.mesh import active_mesh, cut


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """k, v of every layer's self-attention; each frame's key descriptor; which chunk of the film a chunk slot holds (-1: empty), and what
    memory has made of it (usage.py; 0 unless eviction goes by it)."""

    k: Frames  # [l, b, f, p, h, d]
    v: Frames
    descriptors: Float[Array, "l b f h d"]
    time: Int[Array, " slots"]
    usage: Float[Array, " slots"]

    @classmethod
    def empty(
        cls,
        config: TransformerConfig,
        batch: int,
        frames: int,
        tokens_per_frame: int,
        chunk_frames: int = 3,
        dtype=jnp.float32,
        kv_dtype: str = "same",
    ) -> "KVCache":
        """An empty pool of `frames` slots, its k and v in `dtype` or, by kv_dtype, as int8 or fp8 with scales.

        `UsageError` when frames is not a positive multiple of chunk_frames, or for an unknown kv_dtype.
        """
        if frames <= 0 or frames % chunk_frames:
            raise UsageError(f"a pool holds whole chunks: {frames} frames is not a positive multiple of {chunk_frames}")
        films, heads = (config.num_layers, batch, frames), (config.num_heads, config.head_dim)

        def make():
            k, v = (zeros((*films, tokens_per_frame, *heads), dtype, kv_dtype) for _ in range(2))
            slots = (frames // chunk_frames,)
            time, usage = jnp.full(slots, -1, jnp.int32), jnp.zeros(slots, jnp.float32)
            pool = cls(k, v, jnp.zeros((*films, *heads), jnp.float32), time, usage)
            return jax.tree.map(lambda a: cut(a, *axes_of(a)), pool)

        # Compiled under a mesh: it is born cut by heads.
        return make() if active_mesh() is None else jax.jit(make)()

    @property
    def frames(self) -> int:
        return self.descriptors.shape[2]

    @property
    def chunk_frames(self) -> int:
        return self.frames // self.time.shape[0]

    @property
    def bytes(self) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))

    def frame_time(self) -> Int[Array, " f"]:
        """Each frame slot's index in the film, -1 where empty."""
        frames = self.time[:, None] * self.chunk_frames + jnp.arange(self.chunk_frames, dtype=jnp.int32)
        return jnp.where(self.time[:, None] >= 0, frames, -1).reshape(-1)


def axes_of(array) -> tuple[str | None, ...]:
    """Along which axes of a mesh an array of a pool is cut: films over "data", heads over "seq"; what all share is whole."""
    if array.ndim == 1:
        return ()
    return (None, "data", None, None, "seq") if array.ndim == 6 else (None, "data", None, "seq")


def describe(keys: Float[Array, "*b p h d"]) -> Float[Array, "*b h d"]:
    """A frame's descriptor: the mean of its unrotated, normed keys over its tokens, in float32 (paper Eq. 6)."""
    return jnp.mean(keys.astype(jnp.float32), axis=-3)


def slot_for(cache: KVCache, chunk_index: Int[Array, ""], memory: MemoryConfig) -> Int[Array, ""]:
    """The chunk slot that a commit of `chunk_index` writes: its own if present, else an empty one, else one that may go, by memory.eviction
    the oldest of all or of those that memory used least.

    Never the sink nor the next chunk's window; a pool of at least `memory.smallest_pool` always has such a slot.
    Reads only `time` and `usage`, which layers and batch share.
    """
    big = jnp.int32(1 << 30)
    sink_chunks = -(-memory.memory_frames // cache.chunk_frames)
    may_go = (cache.time >= sink_chunks) & (cache.time <= chunk_index - memory.window_chunks)
    if memory.eviction == "least_retrieved":
        may_go &= cache.usage <= jnp.min(jnp.where(may_go, cache.usage, jnp.inf))
    order = jnp.where(may_go, cache.time, big)
    order = jnp.where(cache.time < 0, -big, order)
    order = jnp.where(cache.time == chunk_index, -big - 1, order)
    return jnp.argmin(order)


def counted(cache: KVCache, field: ReceptiveField, chunk_index: Int[Array, ""], memory: MemoryConfig) -> tuple[KVCache, Float[Array, ""]]:
    """`cache` after its chunks' usage was updated by the fields [l, s, b, r] of chunk `chunk_index`, and the usage that this one begins with."""
    older = (cache.time >= 0) & (cache.time < chunk_index - memory.window_chunks)
    usage, newcomer = usage_after(cache.usage, field, older, cache.chunk_frames)
    return dataclasses.replace(cache, usage=usage), newcomer


def write(
    cache: KVCache,
    slot: Int[Array, ""],
    chunk_index: Int[Array, ""],
    k: Float[Array, "l b c p h d"],
    v: Float[Array, "l b c p h d"],
    usage: float | Float[Array, ""] = 0.0,
) -> KVCache:
    """`cache` with chunk slot `slot` holding this chunk. In place when the caller's jit donates the cache."""
    first = slot * cache.chunk_frames
    put_array = lambda buffer, new: jax.lax.dynamic_update_slice_in_dim(buffer, new, first, axis=2)
    put = lambda buffer, new: jax.tree.map(put_array, buffer, stored_as(buffer, new))
    return KVCache(
        k=put(cache.k, k),
        v=put(cache.v, v),
        descriptors=put(cache.descriptors, describe(k)),
        time=cache.time.at[slot].set(chunk_index),
        usage=cache.usage.at[slot].set(usage),
    )


def pool_frames_for(film_chunks: int | None, memory: MemoryConfig, chunk_frames: int, asked: int | None = None) -> int:
    """Frame slots for a film of `film_chunks` chunks (None: endless), or `asked` after checking that it can hold the field.

    Raises `UsageError` for a pool that is too small, and for eviction together with route_clean=False, whose clean
    chunks would have to see what was evicted.
    """
    smallest = memory.smallest_pool(chunk_frames)
    whole = None if film_chunks is None else film_chunks * chunk_frames
    if asked is None:
        if whole is None:
            raise UsageError(f"an endless film needs a pool size: at least {smallest} frames")
        return whole
    evicts = whole is None or asked < whole
    if asked % chunk_frames or asked <= 0:
        raise UsageError(f"a pool holds whole chunks: {asked} frames is not a positive multiple of {chunk_frames}")
    if evicts and asked < smallest:
        raise UsageError(f"a pool of {asked} frames is too small for this field: it needs at least {smallest} (window + sink + one chunk)")
    if evicts and not memory.route_clean:
        raise UsageError(
            "route_clean=False lets clean chunks see the whole film, so nothing may be evicted: give the pool the film's length"
        )
    return asked
