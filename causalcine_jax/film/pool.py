"""The size of a film's pool of history, in latent frames or bytes, and whether memory has room."""

import warnings
from collections.abc import Callable
from functools import partial

import jax

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.host_memory import GB, check_host_room, in_its_places, physical_memory
from causalcine_jax.film.model_folder import Model, latent_size
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer, token_grid
from causalcine_jax.parallel.mesh import active_mesh
from causalcine_jax.parallel.processes import check_all, several
from causalcine_jax.parallel.sharding import place_rollout_weights
from causalcine_jax.story_schema import TEMPORAL_STRIDE

STEP_CHUNKS, STEP_BYTES = 24, 2**28
# Room for shots that are added later: a minute at 16 video frames per second, or as much of it as
# takes this share of the memory that is left. The rest is for activations and the decoder.
LATER_FRAMES, LATER_SHARE = 240, 1 / 3


def kept_near(pool: PoolConfig, memory: MemoryConfig) -> tuple[int, int] | None:
    """How much of a host pool the device holds too: (newest chunks, retrieved frames).

    None for a pool on the device. The chunks are the window, which every pass reads, and the chunk
    that has just left it. The frames are those that the last commit retrieved. Together they hold
    60 to 80 % of what memory retrieves next (benchmarks/host_pool.py).
    """
    return (memory.window_chunks + 1, memory.retrieved_frames) if pool.place == "host" else None


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
    near = kept_near(pool, memory)
    make = partial(_pool, model, films, pool.frames, latent_size, pool.dtype, near)
    shapes = jax.eval_shape(make)
    check_room(shapes.bytes - shapes.host_bytes, batched=films > 2)  # 2: one film with guidance
    if near is None:
        return jax.jit(make)()  # one program instead of one per array
    check_host_room(shapes.host_bytes)
    return in_its_places(make)


def chunk_bytes(
    model: Model, films: int, latent_size: tuple[int, int], kv_dtype: str = "same"
) -> int:
    """Bytes of one chunk in a pool."""
    return jax.eval_shape(
        partial(_pool, model, films, model.chunk_frames, latent_size, kv_dtype)
    ).bytes


def frames_within(pool_gb: float, chunk_bytes: int, memory: MemoryConfig, chunk_frames: int) -> int:
    """Latent frames of the largest pool of at most `pool_gb` GB (10^9 bytes).

    `UsageError` if that cannot hold the receptive field of one chunk.
    """
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
    asked, of_chunk = _asked(model, settings)
    if asked or not memory.route_clean or not memory.reaches_all or several():
        return frames_wanted(memory, chunk_frames, film_chunks, asked)
    frames = frames_wanted(memory, chunk_frames, film_chunks or 1)
    room = physical_memory() if settings.pool.place == "host" else device_memory()
    fitting = round(LATER_SHARE * (room or 0)) // of_chunk * chunk_frames
    return max(frames, min(in_steps(frames + LATER_FRAMES, chunk_frames, of_chunk), fitting))


def closed_pool_size(model: Model, settings: FilmSettings, film_chunks: int | None) -> int:
    """`pool_size` of a film to which no shot will be added, rounded up to a common size."""
    memory, chunk_frames = settings.memory, model.chunk_frames
    asked, of_chunk = _asked(model, settings)
    frames = frames_wanted(memory, chunk_frames, film_chunks, asked)
    # Without camr the size is constant. Without route_clean every chunk would attend to empty
    # slots.
    fixed = asked or not memory.route_clean or not memory.reaches_all
    return frames if fixed else in_steps(frames, chunk_frames, of_chunk)


def _asked(model: Model, settings: FilmSettings) -> tuple[int | None, int]:
    """The requested frames, if any, and the bytes of a chunk."""
    size = latent_size(model, settings.height, settings.width)
    of_chunk = chunk_bytes(model, settings.histories, size, settings.pool.dtype)
    if settings.pool.gb is None:
        return settings.pool.frames, of_chunk
    frames = frames_within(settings.pool.gb, of_chunk, settings.memory, model.chunk_frames)
    return frames, of_chunk


def room_said(frames: int, memory: MemoryConfig, fps: int) -> str | None:
    """What a film loses that outgrows a pool of `frames`; None where memory would not see it."""
    if not memory.reaches_all:
        return None
    seconds, what = frames * TEMPORAL_STRIDE / fps, memory.eviction.replace("_", " ")
    return (
        f"the pool keeps {frames} latent frames, {seconds:.0f} s of film; after that each chunk "
        f"evicts the {what} (choose another size by pool_frames or pool_gb)"
    )


class PoolOutgrown(UserWarning):
    """A film is now longer than its pool, whose size nobody asked for."""


def warns_when_outgrown(
    asked: PoolConfig, settings: FilmSettings, fps: int
) -> Callable[[int], None]:
    """A function of the film's latent frames: warns once they outgrow a pool nobody asked for.

    It names the caller of the director's method that calls it.
    """
    frames = settings.pool.frames or 0
    told: list[int] = []
    unasked = frames and asked.frames is None and asked.gb is None
    room = room_said(frames, settings.memory, fps) if unasked else None

    def check(film_frames: int) -> None:
        if room and film_frames > frames and not told:
            told.append(film_frames)
            warnings.warn(f"the film outgrows its pool: {room}", PoolOutgrown, stacklevel=4)

    return check


def frames_wanted(
    memory: MemoryConfig, chunk_frames: int, film_chunks: int | None, asked: int | None = None
) -> int:
    """Latent frames of history that a film needs, or the number `asked`. Raises as `pool_size`."""
    smallest = memory.smallest_pool(chunk_frames)
    if asked is None and not memory.reaches_all and memory.route_clean:
        return smallest  # what has left the window and the sink is never seen again
    frames = pool_frames_for(film_chunks, memory, chunk_frames, asked)
    # Shots that are added later may evict, so the pool is never smaller than what eviction needs.
    return frames if asked else max(frames, smallest)


def pool_frames_for(
    film_chunks: int | None, memory: MemoryConfig, chunk_frames: int, asked: int | None = None
) -> int:
    """Frame slots for a film of `film_chunks` chunks (None: endless).

    Returns `asked`, if given, after checking that such a pool can hold the field.

    Raises:
      UsageError: the pool is too small; or it evicts while route_clean=False, under which clean
        chunks must see what was evicted.
    """
    smallest = memory.smallest_pool(chunk_frames)
    whole = None if film_chunks is None else film_chunks * chunk_frames
    if asked is None:
        if whole is None:
            raise UsageError(f"an endless film needs a pool size: at least {smallest} frames")
        return whole
    evicts = whole is None or asked < whole
    if asked % chunk_frames or asked <= 0:
        raise UsageError(
            f"a pool holds whole chunks: {asked} frames is not a positive multiple of "
            f"{chunk_frames}"
        )
    if evicts and asked < smallest:
        raise UsageError(
            f"a pool of {asked} frames is too small for this field: "
            f"it needs at least {smallest} (window + sink + one chunk)"
        )
    if evicts and not memory.route_clean:
        raise UsageError(
            "route_clean=False lets clean chunks see the whole film, so nothing may be evicted: "
            "give the pool the film's length"
        )
    return asked


def in_steps(frames: int, chunk_frames: int, chunk_bytes: int) -> int:
    """`frames` rounded up, so that films of different lengths share compiled programs.

    The step is STEP_CHUNKS. It is smaller for a large model, so that at most STEP_BYTES stay
    unused.
    """
    step = chunk_frames * max(1, min(STEP_CHUNKS, STEP_BYTES // chunk_bytes))
    return -(-frames // step) * step


def held_for_films(transformer: Transformer, weights: str) -> Transformer:
    """The transformer with its weights `gathered` (replicated on each device) or `sharded`.

    `UsageError` if the devices have no room for replicated weights.
    """
    if weights == "sharded":
        return transformer
    whole, room = sum(leaf.nbytes for leaf in jax.tree.leaves(transformer)), device_memory()
    mesh, fault = active_mesh(), ""
    devices = 1 if mesh is None else mesh.size
    if room is not None and devices * whole > room:
        fault = (
            f"the transformer's weights take {whole / GB:.3g} GB, whole on each of {devices} "
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
            "keep less of it (pool_frames, pool_gb, memory_frames), "
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
    return physical_memory() if jax.default_backend() == "cpu" else None


def _pool(
    model: Model,
    films: int,
    frames: int,
    latent_size: tuple[int, int],
    kv_dtype: str,
    near: tuple[int, int] | None = None,
) -> KVCache:
    rows, columns = token_grid(model.transformer.config, *latent_size)
    dtype = model.transformer.patch_embedding.weight[...].dtype
    return KVCache.empty(
        model.transformer.config,
        films,
        frames,
        rows * columns,
        model.chunk_frames,
        dtype,
        kv_dtype,
        near,
    )
