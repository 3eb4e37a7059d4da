"""The KV cache: committed keys and values, as a plain pytree that functions take and return.

A pool has F frame slots, allocated and freed by whole chunks. Denoising reads it. A commit writes
one chunk by one `dynamic_update_slice` into donated buffers; nothing ever copies the pool. Keys are
stored unrotated, because the same key gets another slot in every field that retrieves it.

Keys and values are in the model's dtype or in one byte each (quantised.py). They are on the device,
or in host memory with those that the next chunk will most likely want also on the device
(history.py).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from causalcine_jax.errors import UsageError
from causalcine_jax.models.cache.history import History, PoolFrames
from causalcine_jax.models.cache.quantised import Frames, Quantised, stored_as, values_of, zeros
from causalcine_jax.network_sizes import TransformerConfig
from causalcine_jax.parallel.mesh import active_mesh, shard
from causalcine_jax.parallel.platform import platform

DEVICE, HOST = "device", "pinned_host"  # kinds of memory, by their names in shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Near:
    """Frames of a pool in host memory that are also on the device.

    First those of the newest chunks, chunk i at place i mod `chunks`. Then those that memory
    retrieved for the last commit, separately per layer. `time` is each frame's index in the film
    (-1: none).
    """

    k: Shaped[Array, "*l b n p h d"]  # in the stored form; the scales are always on the device
    v: Shaped[Array, "*l b n p h d"]
    time: Int[Array, "*l b n"]
    chunks: int = dataclasses.field(metadata={"static": True})


# Values of k and v of frames that memory retrieved, and their indices in the film (-1: none).
Retrieved = tuple[Shaped[Array, "l b m p h d"], Shaped[Array, "l b m p h d"], Int[Array, "l b m"]]


class LayerParts(NamedTuple):
    """What layers have of a pool for themselves: arrays [l, ...], the inputs of a scan over them.

    k, v    frames; None where each layer gathers from those of all layers
    layer   which layer this is, if k and v are None; then also
    scales  of k and v, where they are quantised
    near    the frames that are also on the device, where the pool is in host memory
    """

    descriptors: Float[Array, "*l b f h d"]
    k: Frames | None = None
    v: Frames | None = None
    layer: Int[Array, "*l"] | None = None
    scales: tuple[Array | None, Array | None] = (None, None)
    near: Near | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Committed history of every layer's self-attention.

    k, v         unrotated keys, and values; in host memory if `near` is set
    descriptors  each frame's key descriptor
    time         which chunk of the film a chunk slot holds (-1: empty)
    usage        how often memory retrieved the chunk (eviction.py); 0 unless eviction needs it
    near         of a pool in host memory: the frames that are also on the device
    """

    k: Frames  # [l, b, f, p, h, d]
    v: Frames
    descriptors: Float[Array, "l b f h d"]
    time: Int[Array, " slots"]
    usage: Float[Array, " slots"]
    near: Near | None = None

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
        near: tuple[int, int] | None = None,
    ) -> "KVCache":
        """An empty pool of `frames` slots.

        Args:
          dtype: of k and v, unless kv_dtype is int8 or fp8 (with scales).
          near: (chunks, frames): so many of the newest chunks, and of the frames that memory
            retrieves, are also on the device. k and v then belong in host memory: the caller must
            place them (`memory_kinds`).

        Raises:
          UsageError: frames is not a positive multiple of chunk_frames, or kv_dtype is unknown.
        """
        if frames <= 0 or frames % chunk_frames:
            raise UsageError(
                f"a pool holds whole chunks: {frames} frames is not a positive multiple of "
                f"{chunk_frames}"
            )
        films, heads = (config.num_layers, batch, frames), (config.num_heads, config.head_dim)

        def make():
            k, v = (zeros((*films, tokens_per_frame, *heads), dtype, kv_dtype) for _ in range(2))
            slots = (frames // chunk_frames,)
            time, usage = jnp.full(slots, -1, jnp.int32), jnp.zeros(slots, jnp.float32)
            pool = cls(k, v, jnp.zeros((*films, *heads), jnp.float32), time, usage)
            if near is not None:
                chunks = min(near[0], *slots)
                held = (config.num_layers, batch, chunks * chunk_frames + min(near[1], frames))
                empty = lambda like: jnp.zeros((*held, *like.shape[3:]), like.dtype)
                near_k, near_v = (empty(values_of(stored)) for stored in (k, v))
                copies = Near(near_k, near_v, jnp.full(held, -1, jnp.int32), chunks)
                pool = dataclasses.replace(pool, near=copies)
            return jax.tree.map(lambda a: shard(a, *axes_of(a)), pool)

        # Compiled under a mesh, so that the arrays are created sharded.
        return make() if active_mesh() is None else jax.jit(make)()

    @property
    def frames(self) -> int:
        return self.descriptors.shape[2]

    @property
    def chunk_frames(self) -> int:
        return self.frames // self.time.shape[0]

    def memory_kinds(self) -> "KVCache":
        """The pytree with each array replaced by the kind of memory that holds it."""
        kinds = jax.tree.map(lambda _: DEVICE, self)
        host = lambda frames: (
            # No array in this tree, only names.
            dataclasses.replace(frames, values=HOST)  # type: ignore[arg-type]
            if isinstance(frames, Quantised)
            else HOST
        )
        return (
            kinds
            if self.near is None
            else dataclasses.replace(kinds, k=host(kinds.k), v=host(kinds.v))
        )

    @property
    def bytes(self) -> int:
        return _size(self)

    @property
    def host_bytes(self) -> int:
        """Bytes of the pool that are in host memory."""
        return 0 if self.near is None else _size((values_of(self.k), values_of(self.v)))

    def frame_time(self) -> Int[Array, " f"]:
        """Each frame slot's index in the film, -1 where empty."""
        frames = self.time[:, None] * self.chunk_frames + jnp.arange(
            self.chunk_frames, dtype=jnp.int32
        )
        return jnp.where(self.time[:, None] >= 0, frames, -1).reshape(-1)

    def layers(self, readers: int = 1) -> LayerParts:
        """The inputs of a scan over layers, for `readers` segments that gather from the pool."""
        if self.near is None and not (readers == 1 and self._picked_in_place()):
            return LayerParts(self.descriptors, self.k, self.v)
        scale = lambda frames: frames.scale if isinstance(frames, Quantised) else None
        return LayerParts(
            self.descriptors,
            layer=jnp.arange(self.descriptors.shape[0], dtype=jnp.int32),
            scales=(scale(self.k), scale(self.v)),
            near=self.near,
        )

    def _picked_in_place(self) -> bool:
        """Whether a layer gathers its frames from the whole pool.

        A scan would first copy the layer's part of it: on a TPU, and on a CPU where a
        `jax.lax.switch` precedes the gather.
        """
        if platform() != "tpu":
            return platform() == "cpu"
        # Imported here because it loads Pallas for TPUs.
        from causalcine_jax.models.cache.frame_gather import reads_in_place

        return reads_in_place(self.descriptors.shape[-1])

    def of_layer(self, part: LayerParts) -> History:
        """The history of a layer, from its part of `layers` and what all layers share."""
        time, near = self.frame_time(), part.near
        if part.k is not None and part.v is not None:
            return History(part.k, part.v, part.descriptors, time)
        copies = (None, None) if near is None else (near.k, near.v)
        k, v = (
            PoolFrames(values_of(stored), scale, copied)
            for stored, scale, copied in zip((self.k, self.v), part.scales, copies, strict=True)
        )
        near_time = None if near is None else near.time
        return History(k, v, part.descriptors, time, part.layer, near_time)


def _size(arrays) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(arrays))


def axes_of(array) -> tuple[str | None, ...]:
    """Mesh axes of a pool's array: films over "data", heads over "seq", all else replicated."""
    if array.ndim < 4:
        return (None, "data") if array.ndim == 3 else ()
    return (None, "data", None, None, "seq") if array.ndim == 6 else (None, "data", None, "seq")


def rewound(cache: KVCache, chunk: int | Int[Array, ""]) -> KVCache:
    """The pool before `chunk` was committed: slots of that chunk and of later ones become empty.

    Keys and values stay in place, so this is exact only if nothing was evicted. The usage of
    earlier chunks keeps what the later chunks' commits added.
    """
    gone = cache.time >= chunk
    near = cache.near
    if near is not None:
        too_new = near.time >= chunk * cache.chunk_frames
        near = dataclasses.replace(near, time=jnp.where(too_new, -1, near.time))
    return dataclasses.replace(
        cache,
        time=jnp.where(gone, -1, cache.time),
        usage=jnp.where(gone, 0.0, cache.usage),
        near=near,
    )


def describe(keys: Float[Array, "*b p h d"]) -> Float[Array, "*b h d"]:
    """A frame's descriptor: its unrotated, normed keys' mean over tokens, float32 (paper Eq. 6)."""
    return jnp.mean(keys.astype(jnp.float32), axis=-3)


def write(
    cache: KVCache,
    slot: Int[Array, ""],
    chunk_index: Int[Array, ""],
    k: Float[Array, "l b c p h d"],
    v: Float[Array, "l b c p h d"],
    usage: float | Float[Array, ""] = 0.0,
    retrieved: Retrieved | None = None,
) -> KVCache:
    """Writes this chunk to chunk slot `slot`, in place when the caller's jit donates the cache.

    Args:
      retrieved: with a pool in host memory, the frames that memory retrieved for this chunk.
    """
    descriptors, new_k, new_v = describe(k), stored_as(cache.k, k), stored_as(cache.v, v)
    put = lambda buffers, new: jax.tree.map(
        lambda buffer, part: _put(buffer, part, slot * cache.chunk_frames), buffers, new
    )
    return KVCache(
        k=put(cache.k, new_k),
        v=put(cache.v, new_v),
        descriptors=put(cache.descriptors, descriptors),
        time=cache.time.at[slot].set(chunk_index),
        usage=cache.usage.at[slot].set(usage),
        near=cache.near
        and _near_after(cache.near, chunk_index, values_of(new_k), values_of(new_v), retrieved),
    )


def _near_after(
    near: Near, chunk_index: Int[Array, ""], k: Array, v: Array, retrieved: Retrieved | None
) -> Near:
    """The frames also on the device, after the chunk of k, v is committed."""
    chunk_frames = k.shape[2]
    time = jnp.broadcast_to(
        chunk_index * chunk_frames + jnp.arange(chunk_frames, dtype=jnp.int32), k.shape[:3]
    )

    def put(near: Near, new: Retrieved, first: int | Array) -> Near:
        held = zip((near.k, near.v, near.time), new, strict=True)
        k, v, time = (_put(array, part, first) for array, part in held)
        return Near(k, v, time, near.chunks)

    near = put(near, (k, v, time), chunk_index % near.chunks * chunk_frames)
    return near if retrieved is None else put(near, retrieved, near.chunks * chunk_frames)


def _put(buffer: Array, new: Array, first: int | Int[Array, ""]) -> Array:
    """Writes the frames `new` to `buffer` from index `first`, in the buffer's kind of memory."""
    if (space := jax.typeof(buffer).memory_space) != jax.memory.Space.Device:
        new = jax.device_put(new, space)
    return jax.lax.dynamic_update_slice_in_dim(buffer, new, first, axis=2)
