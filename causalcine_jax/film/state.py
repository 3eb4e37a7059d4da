"""A rollout as a value: `roll_chunk` takes a state and returns the next one.

    new_state -> state --roll_chunk--> state, chunk --roll_chunk--> ...
    rewind(state, chunk) -> state

With guidance every array of the pool is a batch of two films, [prompt, negative], each with its own
history. All shapes are those of the film's size, so a film compiles each move once, and the decoder
twice: its first chunk is shorter.
"""

import dataclasses
import time
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from causalcine_jax.config import MemoryConfig
from causalcine_jax.film import finite, rollout
from causalcine_jax.film.model_folder import Model, latent_size
from causalcine_jax.film.pool import empty_pool
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.models.cache.kv_cache import KVCache, rewound
from causalcine_jax.models.dit import TextContext, Transformer, token_grid
from causalcine_jax.models.vae.video import to_uint8
from causalcine_jax.parallel.gathering import gather_to_host
from causalcine_jax.parallel.mesh import active_mesh, check_shardable
from causalcine_jax.utils.arrays import AnyArray


@dataclass(frozen=True)
class RolloutState:
    """Where a film is, or a batch of films that are at the same chunk.

    cache      the pool of committed chunks; None for a whole film, which has no history
    vae_cache  what the decoder keeps of earlier chunks; None before the first
    chunk      the next chunk's index, from 0
    key        of the noise: chunk i is made from fold_in(key, i) alone
    """

    cache: KVCache | None
    vae_cache: Any
    chunk: int
    key: Array


@dataclass(frozen=True)
class ChunkOutput:
    """A chunk that was made.

    frames     uint8 video frames
    latents    what was committed
    retrieved  per layer, the film's latent frames that memory brought back, newest first; -1: none
    seconds    spent on each move, where the moves were waited for
    """

    frames: UInt8[np.ndarray, "t height width 3"] | None
    latents: Float[AnyArray, "1 c h w z"]
    retrieved: Int[np.ndarray, "l k"]
    seconds: dict[str, float]


def new_state(model: Model, settings: FilmSettings, films: int = 1) -> RolloutState:
    """The state before the first chunk of `films` films, their pool allocated.

    Raises:
      UsageError: the model cannot make frames of that size, the mesh cannot shard them, or the pool
        is larger than the memory that is left.
    """
    size, films = latent_size(model, settings.height, settings.width), films * settings.histories
    if mesh := active_mesh():
        rows, columns = token_grid(model.transformer.config, *size)
        tokens = model.chunk_frames * rows * columns
        heads = model.transformer.config.num_heads
        check_shardable(mesh, films=films, heads=heads, chunk_tokens=tokens)
    cache = empty_pool(model, films, size, settings.pool, settings.memory)
    return RolloutState(cache, None, 0, jax.random.key(settings.seed))


def roll_chunk(
    model: Model,
    state: RolloutState,
    prompt: TextContext,
    settings: FilmSettings,
    *,
    latents: Float[AnyArray, "1 c h w z"] | None = None,
    wait: bool = True,
) -> tuple[RolloutState, ChunkOutput]:
    """The film's next chunk: denoised, committed, decoded. The old state's pool is donated.

    latents  the chunk's latents, where they are not to be made from noise
    wait     for each move before the next begins, to know its seconds

    `finite.NotFinite` if latents or frames hold NaN or infinity.
    """
    state, output = roll_latents(model, state, prompt, settings, latents=latents, wait=wait)
    clock = LapTimer(wait, output.seconds)
    video, vae_cache = decode_next(model, state.vae_cache, output.latents)
    state = dataclasses.replace(state, vae_cache=vae_cache)
    clock.lap("decode", video)
    frames = gather_to_host(video)[0]
    return state, dataclasses.replace(output, frames=frames, seconds=clock.seconds)


def roll_latents(
    model: Model,
    state: RolloutState,
    prompt: TextContext,
    settings: FilmSettings,
    *,
    latents: Float[AnyArray, "1 c h w z"] | None = None,
    wait: bool = True,
) -> tuple[RolloutState, ChunkOutput]:
    """`roll_chunk` without decoding: the output has no frames."""
    clock, memory = LapTimer(wait), settings.memory
    if latents is None:
        noise = chunk_noise(model, state, settings)
        latents, seen = denoise_next(model, state, prompt, settings, noise)
        clock.lap("denoise", latents)
        retrieved = _memory_only(
            gather_to_host(seen)[:, 0], state.chunk, memory, model.chunk_frames
        )
    else:
        retrieved = nothing_retrieved(model.transformer, memory.retrieved_frames)
    state = commit_next(model, state, latents, prompt, settings)
    assert state.cache is not None
    clock.lap("commit", state.cache.chunk)
    return state, ChunkOutput(None, latents, retrieved, clock.seconds)


def denoise_next(
    model: Model,
    state: RolloutState,
    prompt: TextContext,
    settings: FilmSettings,
    noise: tuple[Float[Array, "b c h w z"], Array],
) -> tuple[Float[Array, "b c h w z"], Int[Array, "l b r"]]:
    """The next chunk of b films, and the film frames that every layer's field held.

    noise  the chunk's, and the key for solvers that renoise
    """
    start, key = noise
    return rollout.denoise(
        model.transformer,
        state.cache,
        start,
        prompt,
        np.int32(state.chunk),
        key,
        sampler=settings.sampler.of_chunk(state.chunk),
        memory=settings.memory,
    )


def commit_next(
    model: Model,
    state: RolloutState,
    latents: Float[AnyArray, "b c h w z"],
    prompt: TextContext,
    settings: FilmSettings,
) -> RolloutState:
    """The state after the next chunk of b films, which is `latents`. The old pool is donated."""
    films, index = jnp.concatenate([latents] * settings.histories), np.int32(state.chunk)
    cache = rollout.commit(
        model.transformer, state.cache, films, prompt, index, memory=settings.memory
    )
    return dataclasses.replace(state, cache=cache, chunk=state.chunk + 1)


def rewind(state: RolloutState, chunk: int, vae_cache) -> RolloutState:
    """The state before `chunk`, given the decoder's cache of that moment.

    Exact while the pool holds all chunks before `chunk` (`holds_all`); the old state's pool is
    shared.
    """
    cache = None if state.cache is None else rewound(state.cache, chunk)
    return dataclasses.replace(state, cache=cache, vae_cache=vae_cache, chunk=chunk)


def holds_all(state: RolloutState, chunks: int) -> bool:
    """Whether the pool still holds the film's first `chunks` chunks: none was evicted."""
    assert state.cache is not None
    return set(range(chunks)) <= set(np.asarray(state.cache.chunk).tolist())


def is_lost(state: RolloutState) -> bool:
    """Whether its arrays were donated to a move that did not end (Ctrl-C, out of memory)."""
    return any(leaf.is_deleted() for leaf in jax.tree.leaves((state.cache, state.vae_cache)))


def copied(state: RolloutState) -> RolloutState:
    """A state with arrays of its own, so that two films may go on from here."""
    cache, vae_cache = jax.tree.map(jnp.copy, (state.cache, state.vae_cache))
    return dataclasses.replace(state, cache=cache, vae_cache=vae_cache)


def embed(
    model: Model,
    prompt: str,
    settings: FilmSettings,
    negative: Float[Array, "1 t c"] | None = None,
) -> TextContext:
    """A prompt, and with guidance the negative one beside it, ready for the chunks of its shot.

    negative  the negative prompt's embedding, where it was made before
    """
    texts = [model.embed(prompt)]
    if settings.histories == 2:
        texts.append(model.embed(settings.negative) if negative is None else negative)
    embedded = jnp.concatenate(texts)
    finite.check_embedding(embedded, prompt)
    return text_context(model.transformer, embedded)


@jax.jit
def text_context(transformer: Transformer, text: Float[Array, "b t c"]) -> TextContext:
    """What cross-attention needs of embedded prompts, one per film of the batch."""
    return rollout.embed_prompt(transformer, text)


@jax.jit(static_argnums=2)
def noise_of(key: Array, index: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The chunk's noise and the key for solvers that renoise: a function of (seed, chunk) alone."""
    noise_key, solver_key = jax.random.split(jax.random.fold_in(key, index))
    return jax.random.normal(noise_key, shape), solver_key


def chunk_noise(model: Model, state: RolloutState, settings: FilmSettings) -> tuple[Array, Array]:
    """`noise_of` the next chunk."""
    size = latent_size(model, settings.height, settings.width)
    shape = (1, model.chunk_frames, *size, model.transformer.config.in_dim)
    return noise_of(state.key, np.int32(state.chunk), shape)


def nothing_retrieved(transformer: Transformer, frames: int) -> Int[np.ndarray, "l k"]:
    return np.full((transformer.config.num_layers, frames), -1, np.int32)


def decode_next(
    model: Model, cache, latents: Float[AnyArray, "b c h w z"]
) -> tuple[UInt8[Array, "b t height width 3"], Any]:
    """Frames of a film's next chunk, and the decoder's cache after it (`cache` None: the first).

    `finite.NotFinite` if latents or frames are not finite.
    """
    latents = jnp.asarray(latents, model.vae.conv2.weight[...].dtype)
    if cache is None:
        video, cache = model.decoder.decode_first(latents)
    else:
        video, cache = model.decoder.decode_next(cache, latents)
    finite.check_decoded(finite.finite(latents, video), model.tiny_decoder)
    return to_uint8(video), cache


def _memory_only(
    seen: Int[np.ndarray, "l r"], chunk: int, memory: MemoryConfig, chunk_frames: int
) -> Int[np.ndarray, "l k"]:
    """The field's frames that are older than the window, newest first; -1 fills up to K."""
    window_start = (chunk - memory.window_chunks) * chunk_frames
    kept = np.full((len(seen), memory.retrieved_frames), -1, np.int32)
    for layer, times in enumerate(seen):
        older = times[(times >= 0) & (times < window_start)][: kept.shape[1]]
        kept[layer, : len(older)] = older
    return kept


class LapTimer:
    """Seconds between laps. A lap ends when its array is ready, not when it was asked for."""

    def __init__(self, wait: bool = True, seconds: dict[str, float] | None = None):
        self.seconds: dict[str, float] = dict(seconds or {})
        self._wait, self._start = wait, time.perf_counter()

    def lap(self, name: str, array: AnyArray) -> None:
        if not self._wait:
            return
        jax.block_until_ready(array)
        now = time.perf_counter()
        self.seconds[name], self._start = now - self._start, now
