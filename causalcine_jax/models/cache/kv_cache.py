"""The KV cache: committed keys and values, as a plain pytree that functions take and return.

A pool has F frame slots, allocated and freed by whole chunks. Denoising reads it. A commit writes
one chunk by one `dynamic_update_slice` into donated buffers; nothing ever copies the pool. Keys are
stored unrotated, because a key has another position in every field that retrieves it.

Keys and values are in the model's dtype or in one byte each (quantised.py). They are on the device,
or in host memory with what the next chunk will likely want also on the device (history.py).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from causalcine_jax.errors import UsageError
from causalcine_jax.models.cache.history import History, PoolFrames
from causalcine_jax.models.cache.quantised import Frames, Quantised, stored_as, values_of, zeros
from causalcine_jax.models.receptive_field import describe
from causalcine_jax.network_sizes import TransformerConfig
from causalcine_jax.parallel.mesh import active_mesh, shard
from causalcine_jax.parallel.platform import platform
from causalcine_jax.utils.arrays import tree_bytes

DEVICE, HOST = "device", "pinned_host"  # kinds of memory, by their names in shardings


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DeviceCopies:
    """Frames of a pool in host memory that are also on the device.

    First those of the newest chunks, chunk i at place i mod `chunks`. Then those that memory
    retrieved for the last commit, separately per layer. `frame` is each one's index in the film
    (-1: none).
    """

    k: Shaped[Array, "*l b n p h d"]  # in the stored form; the scales are always on the device
    v: Shaped[Array, "*l b n p h d"]
    frame: Int[Array, "*l b n"]
    chunks: int = dataclasses.field(metadata={"static": True})


# Values of k and v of frames that memory retrieved, and their indices in the film (-1: none).
RetrievedHistory = tuple[
    Shaped[Array, "l b m p h d"], Shaped[Array, "l b m p h d"], Int[Array, "l b m"]
]


class LayerParts(NamedTuple):
    """The per-layer arrays [l, ...] of a pool: the inputs of a scan over layers.

    k, v    frames; None where each layer gathers from those of all layers
    layer   the layer's number, only where k and v are None
    scales  of k and v, where they are quantised and None here
    copies  the frames that are also on the device, where the pool is in host memory
    """

    descriptors: Float[Array, "*l b f g h d"]
    k: Frames | None = None
    v: Frames | None = None
    layer: Int[Array, "*l"] | None = None
    scales: tuple[Array | None, Array | None] = (None, None)
    copies: DeviceCopies | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Committed history of every layer's self-attention.

    k, v         unrotated keys, and values; in host memory if `copies` is set
    descriptors  each frame's key descriptors, one of each of its g parts (`describe`)
    chunk        which chunk of the film a chunk slot holds (-1: empty)
    usage        how often memory retrieved the chunk (eviction.py); 0 unless eviction needs it
    copies       of a pool in host memory: the frames that are also on the device
    """

    k: Frames  # [l, b, f, p, h, d]
    v: Frames
    descriptors: Float[Array, "l b f g h d"]
    chunk: Int[Array, " slots"]
    usage: Float[Array, " slots"]
    copies: DeviceCopies | None = None

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
        copies: tuple[int, int] | None = None,
    ) -> "KVCache":
        """An empty pool of `frames` slots.

        Args:
          dtype: of k and v, unless kv_dtype is int8 or fp8 (with scales).
          copies: (chunks, frames): so many of the newest chunks, and of the frames that memory
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
            chunk, usage = jnp.full(slots, -1, jnp.int32), jnp.zeros(slots, jnp.float32)
            pool = cls(k, v, jnp.zeros((*films, 1, *heads), jnp.float32), chunk, usage)
            if copies is not None:
                chunks = min(copies[0], *slots)
                lead = config.num_layers, batch, chunks * chunk_frames + min(copies[1], frames)
                empty = lambda like: jnp.zeros((*lead, *like.shape[3:]), like.dtype)
                none = (empty(values_of(k)), empty(values_of(v)), jnp.full(lead, -1, jnp.int32))
                pool = dataclasses.replace(pool, copies=DeviceCopies(*none, chunks))
            return jax.tree.map(lambda a: shard(a, *axes_of(a)), pool)

        # Compiled under a mesh, so that the arrays are created sharded.
        return make() if active_mesh() is None else jax.jit(make)()

    def described_by(self, parts: int) -> "KVCache":
        """An empty pool whose frames have a descriptor for each of `parts` parts."""
        descriptors = jnp.zeros((*self.descriptors.shape[:3], parts, *self.descriptors.shape[4:]))
        return dataclasses.replace(self, descriptors=shard(descriptors, *axes_of(descriptors)))

    @property
    def frames(self) -> int:
        return self.descriptors.shape[2]

    @property
    def chunk_frames(self) -> int:
        return self.frames // self.chunk.shape[0]

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
            if self.copies is None
            else dataclasses.replace(kinds, k=host(kinds.k), v=host(kinds.v))
        )

    @property
    def bytes(self) -> int:
        return tree_bytes(self)

    @property
    def host_bytes(self) -> int:
        """Bytes of the pool that are in host memory."""
        return 0 if self.copies is None else tree_bytes((values_of(self.k), values_of(self.v)))

    def film_index(self) -> Int[Array, " f"]:
        """Each frame slot's index in the film, -1 where empty."""
        within = jnp.arange(self.chunk_frames, dtype=jnp.int32)
        frames = self.chunk[:, None] * self.chunk_frames + within
        return jnp.where(self.chunk[:, None] >= 0, frames, -1).reshape(-1)

    def layers(self, readers: int = 1) -> LayerParts:
        """The inputs of a scan over layers, for `readers` segments that gather from the pool."""
        if self.copies is None and not (readers == 1 and self._picked_in_place()):
            return LayerParts(self.descriptors, self.k, self.v)
        scale = lambda frames: frames.scale if isinstance(frames, Quantised) else None
        return LayerParts(
            self.descriptors,
            layer=jnp.arange(self.descriptors.shape[0], dtype=jnp.int32),
            scales=(scale(self.k), scale(self.v)),
            copies=self.copies,
        )

    def _picked_in_place(self) -> bool:
        """Whether a layer gathers its frames from the whole pool.

        A scan over layers may first copy each layer's part of the pool. It does so on TPUs, and on
        CPUs where a `jax.lax.switch` precedes the gather.
        """
        if platform() != "tpu":
            return platform() == "cpu"
        # Imported here because it loads Pallas for TPUs.
        from causalcine_jax.models.cache.frame_gather import reads_in_place

        return reads_in_place(self.descriptors.shape[-1])

    def of_layer(self, part: LayerParts) -> History:
        """The history of a layer, from its part of `layers` and what all layers share."""
        frame = self.film_index()
        if part.k is not None and part.v is not None:
            return History(part.k, part.v, part.descriptors, frame)
        copied: tuple[Array | None, ...] = (None, None, None)
        if part.copies is not None:
            copied = part.copies.k, part.copies.v, part.copies.frame
        k, v = (
            PoolFrames(values_of(stored), scale, values)
            for stored, scale, values in zip((self.k, self.v), part.scales, copied[:2], strict=True)
        )
        return History(k, v, part.descriptors, frame, part.layer, copied[2])


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
    if (copies := cache.copies) is not None:
        too_new = copies.frame >= chunk * cache.chunk_frames
        copies = dataclasses.replace(copies, frame=jnp.where(too_new, -1, copies.frame))
    return dataclasses.replace(forgotten(cache, cache.chunk >= chunk), copies=copies)


def forgotten(cache: KVCache, gone: Bool[Array, " slots"]) -> KVCache:
    """The pool with the chunk slots `gone` empty, and no copy of their frames on the device."""
    if (copies := cache.copies) is not None:
        old = jnp.isin(copies.frame // cache.chunk_frames, jnp.where(gone, cache.chunk, -2))
        copies = dataclasses.replace(copies, frame=jnp.where(old, -1, copies.frame))
    return dataclasses.replace(
        cache,
        chunk=jnp.where(gone, -1, cache.chunk),
        usage=jnp.where(gone, 0.0, cache.usage),
        copies=copies,
    )


def write(
    cache: KVCache,
    chunk_slot: Int[Array, ""],
    chunk_index: Int[Array, ""],
    k: Float[Array, "l b c p h d"],
    v: Float[Array, "l b c p h d"],
    usage: float | Float[Array, ""] = 0.0,
    retrieved: RetrievedHistory | None = None,
) -> KVCache:
    """Writes this chunk to `chunk_slot`, in place when the caller's jit donates the cache.

    Args:
      retrieved: with a pool in host memory, the frames that memory retrieved for this chunk.
    """
    descriptors = describe(k, parts=cache.descriptors.shape[3])
    new_k, new_v = stored_as(cache.k, k), stored_as(cache.v, v)
    put = lambda buffers, new: jax.tree.map(
        lambda buffer, part: _put(buffer, part, chunk_slot * cache.chunk_frames), buffers, new
    )
    copies, values = cache.copies, (values_of(new_k), values_of(new_v))
    return KVCache(
        k=put(cache.k, new_k),
        v=put(cache.v, new_v),
        descriptors=put(cache.descriptors, descriptors),
        chunk=cache.chunk.at[chunk_slot].set(chunk_index),
        usage=cache.usage.at[chunk_slot].set(usage),
        copies=copies and _copies_after(copies, chunk_index, *values, retrieved),
    )


def _copies_after(
    copies: DeviceCopies, chunk_index: Int[Array, ""], k, v, retrieved: RetrievedHistory | None
) -> DeviceCopies:
    """The frames also on the device, after the chunk of k, v is committed."""
    chunk_frames = k.shape[2]
    frame = jnp.arange(chunk_frames, dtype=jnp.int32) + chunk_index * chunk_frames
    frame = jnp.broadcast_to(frame, k.shape[:3])

    def put(copies: DeviceCopies, new: RetrievedHistory, first: int | Array) -> DeviceCopies:
        pairs = zip((copies.k, copies.v, copies.frame), new, strict=True)
        k, v, frame = (_put(array, part, first) for array, part in pairs)
        return DeviceCopies(k, v, frame, copies.chunks)

    copies = put(copies, (k, v, frame), chunk_index % copies.chunks * chunk_frames)
    return copies if retrieved is None else put(copies, retrieved, copies.chunks * chunk_frames)


def _put(buffer: Array, new: Array, first: int | Int[Array, ""]) -> Array:
    """Writes the frames `new` to `buffer` from index `first`, in the buffer's kind of memory."""
    if (space := jax.typeof(buffer).memory_space) != jax.memory.Space.Device:
        new = jax.device_put(new, space)
    return jax.lax.dynamic_update_slice_in_dim(buffer, new, first, axis=2)
