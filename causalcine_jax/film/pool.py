"""The size of a film's pool of history, in latent frames or bytes, and whether memory has room."""

import warnings
from functools import partial

import jax

from causalcine_jax.clock import TEMPORAL_STRIDE
from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.errors import UsageError, raise_faults, range_faults
from causalcine_jax.film.host_memory import allocate_in_host_memory, check_host_room
from causalcine_jax.film.model_folder import Model, latent_size
from causalcine_jax.film.rollout import empty_cache
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer
from causalcine_jax.parallel.gathering import several
from causalcine_jax.parallel.mesh import active_mesh
from causalcine_jax.parallel.processes import check_all
from causalcine_jax.parallel.sharding import place_rollout_weights
from causalcine_jax.utils.arrays import tree_bytes
from causalcine_jax.utils.machine_memory import GB, memory_size

MOST_GB = 10**9
STEP_CHUNKS, STEP_BYTES = 24, 2**28
# Room for shots that are added later: a minute at 16 video frames per second, or as much of it as
# takes this share of the memory that is left. The rest is for activations and the decoder.
LATER_FRAMES, LATER_SHARE = 240, 1 / 3


def copies_of(pool: PoolConfig, memory: MemoryConfig) -> tuple[int, int] | None:
    """How much of a host pool the device holds too: (newest chunks, retrieved frames).

    None for a pool on the device. The chunks are the window, which every pass reads, and the chunk
    that has just left it. The frames are those that the last commit retrieved. Together they hold
    60 to 80 % of what memory retrieves next (benchmarks/host_pool.py).
    """
    return (memory.window_chunks + 1, memory.retrieved_frames) if pool.on == "host" else None


def empty_pool(
    model: Model,
    films: int,
    latent_size: tuple[int, int],
    pool: PoolConfig,
    memory: MemoryConfig,
) -> KVCache:
    """An empty pool of pool.frames latent frames of `latent_size` (h, w) for `films` histories.

    `UsageError` naming the bytes if device or host has less memory than that.
    """
    assert pool.frames is not None  # decided by the caller
    copies = copies_of(pool, memory)
    make = partial(
        empty_cache,
        model.transformer,
        films,
        pool.frames,
        latent_size,
        model.chunk_frames,
        pool.kv_dtype,
        copies,
        memory,
    )
    shapes = jax.eval_shape(make)
    check_room(shapes.bytes - shapes.host_bytes, batched=films > 2)  # 2: one film with guidance
    if copies is None:
        return jax.jit(make)()  # one program instead of one per array
    check_host_room(shapes.host_bytes)
    return allocate_in_host_memory(make)


def chunk_bytes(
    model: Model, films: int, latent_size: tuple[int, int], kv_dtype: str, memory: MemoryConfig
) -> int:
    """Bytes of one chunk in a pool."""
    frames = model.chunk_frames
    make = partial(
        empty_cache, model.transformer, films, frames, latent_size, frames, kv_dtype, memory=memory
    )
    return jax.eval_shape(make).bytes


def frames_within(pool_gb: float, chunk_bytes: int, memory: MemoryConfig, chunk_frames: int) -> int:
    """Latent frames of the largest pool of at most `pool_gb` GB (10^9 bytes).

    `UsageError` if that cannot hold the receptive field of one chunk, or is no possible size.
    """
    raise_faults("pool", range_faults("pool_gb", pool_gb, 0, MOST_GB, open_low=True))
    size, smallest = round(pool_gb * GB), memory.smallest_pool(chunk_frames)
    chunks = size // chunk_bytes
    if chunks * chunk_frames < smallest:
        least = smallest // chunk_frames * chunk_bytes
        raise UsageError(
            f"a pool of {size:,} bytes is too small for this field: it needs at least "
            f"{smallest} frames (window + sink + one chunk), {least:,} bytes"
        )
    return chunks * chunk_frames


def pool_size(model: Model, settings: FilmSettings, film_chunks: int | None) -> int:
    """Latent frames of the pool of a film to which shots may be added.

    The requested size; else what memory can retrieve of the shots so far, and room for later ones
    (LATER_FRAMES), so that they do not evict the first.

    film_chunks  length of the film so far; None if it has no shot yet

    `UsageError` if the requested size is no whole number of chunks, or too small for the receptive
    field of one chunk.
    """
    memory, chunk_frames = settings.memory, model.chunk_frames
    asked, bytes_of_chunk = _requested(model, settings)
    if asked or not memory.route_clean or not memory.reaches_all or several():
        return frames_wanted(memory, chunk_frames, film_chunks, asked)
    frames = frames_wanted(memory, chunk_frames, film_chunks or 1)
    room = memory_size() if settings.pool.on == "host" else device_memory()
    fitting = round(LATER_SHARE * (room or 0)) // bytes_of_chunk * chunk_frames
    return max(
        frames,
        min(rounded_up_to_step(frames + LATER_FRAMES, chunk_frames, bytes_of_chunk), fitting),
    )


def closed_pool_size(model: Model, settings: FilmSettings, film_chunks: int | None) -> int:
    """`pool_size` of a film to which no shot will be added, rounded up to a common size."""
    memory, chunk_frames = settings.memory, model.chunk_frames
    asked, bytes_of_chunk = _requested(model, settings)
    frames = frames_wanted(memory, chunk_frames, film_chunks, asked)
    if not asked and film_chunks is not None:  # nothing is evicted from a pool of its length
        length = film_chunks * chunk_frames
        frames = min(frames, rounded_up_to_step(length, chunk_frames, bytes_of_chunk))
    # A policy that reaches not all frames needs a constant size. Without route_clean every chunk
    # would attend to empty slots.
    fixed = asked or not memory.route_clean or not memory.reaches_all
    return frames if fixed else rounded_up_to_step(frames, chunk_frames, bytes_of_chunk)


def _requested(model: Model, settings: FilmSettings) -> tuple[int | None, int]:
    """The requested frames, if any, and the bytes of a chunk."""
    size = latent_size(model, settings.height, settings.width)
    bytes_of_chunk = chunk_bytes(
        model, settings.histories, size, settings.pool.kv_dtype, settings.memory
    )
    if settings.pool.gb is None:
        return settings.pool.frames, bytes_of_chunk
    frames = frames_within(settings.pool.gb, bytes_of_chunk, settings.memory, model.chunk_frames)
    return frames, bytes_of_chunk


def eviction_note(
    frames: int, memory: MemoryConfig, fps: int, sized_by: str = "pool_frames or pool_gb"
) -> str | None:
    """What a film loses that outgrows a pool of `frames`; None where memory would not see it.

    sized_by  what the user chooses the size by
    """
    if not memory.reaches_all:
        return None
    seconds, what = frames * TEMPORAL_STRIDE / fps, memory.eviction.replace("_", " ")
    return (
        f"the pool keeps {frames} latent frames, {seconds:.0f} s of film; after that each chunk "
        f"evicts the {what} (choose another size by {sized_by})"
    )


class PoolOutgrown(UserWarning):
    """A film is now longer than its pool, whose size nobody asked for."""


class PoolWatch:
    """Warns, once, where a film outgrows a pool whose size nobody asked for.

    asked  whether the size was asked for
    """

    def __init__(self, asked: PoolConfig, settings: FilmSettings, fps: int):
        """settings.pool has the pool's size."""
        self.asked = asked.frames is not None or asked.gb is not None
        self._frames = settings.pool.frames or 0
        self._room = eviction_note(self._frames, settings.memory, fps) if self._frames else None

    def check(self, film_frames: int, level: int) -> None:
        """`level` is warnings' stacklevel at the caller."""
        if self._room and not self.asked and film_frames > self._frames:
            said, self._room = f"the film outgrows its pool: {self._room}", None
            warnings.warn(said, PoolOutgrown, stacklevel=level + 1)


def frames_wanted(
    memory: MemoryConfig, chunk_frames: int, film_chunks: int | None, asked: int | None = None
) -> int:
    """Latent frames of history that a film needs, or the number `asked`. Raises as `pool_size`."""
    smallest = memory.smallest_pool(chunk_frames)
    if asked is None and not memory.reaches_all and memory.route_clean:
        return smallest  # what has left the window and the sink is never seen again
    if asked is not None:
        check_pool(asked, film_chunks, memory, chunk_frames)
        return asked
    if film_chunks is None:
        raise UsageError(f"an endless film needs pool_frames: at least {smallest}")
    # Shots that are added later may evict, so the pool is never smaller than what eviction needs.
    return max(film_chunks * chunk_frames, smallest)


def same_pool(one: MemoryConfig, other: MemoryConfig, chunk_frames: int) -> bool:
    """Whether films of the same length get the same pool where nobody asks for a size."""
    needs = lambda memory: (
        memory.reaches_all,
        memory.route_clean,
        memory.smallest_pool(chunk_frames),
    )
    return needs(one) == needs(other)


def check_pool(
    frames: int, film_chunks: int | None, memory: MemoryConfig, chunk_frames: int
) -> None:
    """Checks that a pool of `frames` slots serves a film of `film_chunks` chunks (None: endless).

    Raises:
      UsageError: the pool does not hold whole chunks, or is too small for the field; or it evicts
        while route_clean=False, under which clean chunks must see what was evicted.
    """
    smallest = memory.smallest_pool(chunk_frames)
    evicts = film_chunks is None or frames < film_chunks * chunk_frames
    if frames % chunk_frames or frames <= 0:
        raise UsageError(
            f"a pool holds whole chunks: {frames} frames is not a positive multiple of "
            f"{chunk_frames}"
        )
    if evicts and frames < smallest:
        raise UsageError(
            f"a pool of {frames} frames is too small for this field: "
            f"it needs at least {smallest} (window + sink + one chunk)"
        )
    if evicts and not memory.route_clean:
        raise UsageError(
            "route_clean=False lets clean chunks see the whole film, so nothing may be evicted: "
            "give the pool the film's length"
        )


def rounded_up_to_step(frames: int, chunk_frames: int, chunk_bytes: int) -> int:
    """`frames` rounded up, so that films of different lengths share compiled programs.

    The step is STEP_CHUNKS. It is smaller for a large model, so that at most STEP_BYTES stay
    unused.
    """
    step = chunk_frames * max(1, min(STEP_CHUNKS, STEP_BYTES // chunk_bytes))
    return -(-frames // step) * step


def rollout_transformer(transformer: Transformer, weights: str) -> Transformer:
    """The transformer with its weights `gathered` (replicated on each device) or `sharded`.

    `UsageError` if the devices have no room for replicated weights.
    """
    if weights == "sharded":
        return transformer
    whole, room = tree_bytes(transformer), device_memory()
    mesh, fault = active_mesh(), ""
    devices = 1 if mesh is None else mesh.size
    if room is not None and devices * whole > room:
        fault = (
            f"the transformer's weights take {whole / GB:.3g} GB, replicated on each of {devices} "
            f"devices, which have room for {room / GB:.3g} GB together: "
            "film with rollout_weights=sharded"
        )
    check_all(fault)
    return jax.jit(place_rollout_weights, static_argnums=1)(transformer, weights)


def check_room(pool_bytes: int, *, batched: bool = False) -> None:
    """`UsageError` in all processes if the devices have no room for a pool of `pool_bytes`.

    batched  whether it is of several films
    """
    room, fault = device_memory(), ""
    if room is not None and pool_bytes > room:
        fault = (
            f"the pool of history takes {pool_bytes:,} bytes, {pool_bytes / GB:.3g} GB, "
            f"and memory has room for {room:,}: "
            f"{'make fewer films at once (batch), ' if batched else ''}"
            "keep less of it (pool_frames, pool_gb), "
            "use fewer bits (kv_dtype) or host memory (pool_on)"
        )
    check_all(fault)


def device_memory() -> int | None:
    """Free bytes of the devices that share a film; on a CPU, all of its memory. None: unknown."""
    mesh = active_mesh()
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return (stats["bytes_limit"] - stats.get("bytes_in_use", 0)) * (
            1 if mesh is None else mesh.size
        )
    return memory_size() if jax.default_backend() == "cpu" else None
