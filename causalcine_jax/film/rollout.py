"""The rollout's two moves: denoise a chunk against a read-only pool, then commit it clean.

    noise -> denoise_chunk (solver steps; the pool is only read) -> x0
          -> commit_chunk (t = 0; its keys and values enter the pool) -> next chunk

Classifier-free guidance is a batch of two films, [prompt, null], each with its own history. Both
halves get the same chunk, and each commits it under its own prompt. `chunk_index` is an array, so a
film compiles each move once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.diffusion.solvers import SamplerConfig, memory_guided, sample
from causalcine_jax.models import dit
from causalcine_jax.models.attention.segments import unbounded
from causalcine_jax.models.cache.eviction import counted, slot_for
from causalcine_jax.models.cache.kv_cache import KVCache, write
from causalcine_jax.models.dit import TextContext, Transformer
from causalcine_jax.models.packed import PassOutput, Segments, transformer_pass


def empty_cache(
    model: Transformer,
    films: int,
    frames: int,
    latent_size: tuple[int, int],
    chunk_frames: int,
    kv_dtype: str = "same",
    copies: tuple[int, int] | None = None,
    memory: MemoryConfig = MemoryConfig(),
) -> KVCache:
    """`KVCache.empty` for latent frames of `latent_size` (h, w), in the dtype of the weights.

    memory  the rule by which frames will be retrieved, for which they are described
    """
    rows, columns = dit.token_grid(model.config, *latent_size)
    dtype = model.patch_embedding.weight[...].dtype
    pool = KVCache.empty(
        model.config, films, frames, rows * columns, chunk_frames, dtype, kv_dtype, copies
    )
    return pool.described_by(memory.parts(rows * columns))


def embed_prompt(model: Transformer, text: Float[Array, "b tokens text_dim"]) -> TextContext:
    """One shot's prompt, ready for every layer's cross-attention."""
    return dit.text_keys_values(model, text[:, None])


def segment(
    latents: Float[Array, "b c h w ch"],
    t: float | Float[Array, ""] | Float[Array, " b"],
    chunk_index: int | Int[Array, ""],
) -> Segments:
    """One chunk of every film as a pass of a single segment, under the text's only prompt."""
    batch = latents.shape[0]
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32).reshape(-1, 1), (batch, 1))
    index = jnp.reshape(jnp.asarray(chunk_index, jnp.int32), (1,))
    return Segments(latents, t, index, jnp.zeros((batch, 1), jnp.int32))


def chunk_pass(
    model: Transformer,
    cache: KVCache,
    chunk: Segments,
    text: TextContext,
    memory: MemoryConfig = MemoryConfig(),
    **keep: bool,
) -> PassOutput:
    """One forward of one chunk against the pool; keep_kv, keep_field as in `transformer_pass`."""
    config = PassConfig(memory, cache.chunk_frames)
    return transformer_pass(model, chunk, text, config, history=cache, **keep)


def chunk_velocity(
    model: Transformer,
    cache: KVCache,
    latents: Float[Array, "b c h w ch"],
    t: float | Float[Array, ""] | Float[Array, " b"],
    text: TextContext,
    chunk_index: Int[Array, ""],
    memory: MemoryConfig = MemoryConfig(),
) -> Float[Array, "b c h w ch"]:
    """The velocity of one noisy chunk given the pool: what a solver calls."""
    return chunk_pass(model, cache, segment(latents, t, chunk_index), text, memory).velocity


def commit_chunk(
    model: Transformer,
    cache: KVCache,
    latents: Float[Array, "b c h w ch"],
    text: TextContext,
    chunk_index: Int[Array, ""],
    *,
    memory: MemoryConfig = MemoryConfig(),
    t: float = 0.0,
) -> KVCache:
    """The pool with this clean chunk in it, by one pass under the chunk's own prompt.

    With memory.route_clean=False the pass sees every chunk in the pool, as the packed pass's clean
    stream does. Donate `cache` to write in place.

    t  the noise time of the pass: 0, or the context noise that a student is trained with
    """
    rule = memory if memory.route_clean else unbounded(memory, cache.frames, cache.chunk_frames)
    needs_field = memory.eviction == "least_retrieved" or cache.copies is not None
    chunk = segment(latents, t, chunk_index)
    out = chunk_pass(model, cache, chunk, text, rule, keep_kv=True, keep_field=needs_field)
    return committed(cache, out, chunk_index, memory)


def committed(
    cache: KVCache, out: PassOutput, chunk_index: int | Int[Array, ""], memory: MemoryConfig
) -> KVCache:
    """The pool with the keys and values of a clean pass in it.

    For least_retrieved eviction, counts what the pass retrieved in all layers and films: histories
    that share a pool evict together.
    """
    usage: float | Array = 0.0
    chunk_index = jnp.asarray(chunk_index, jnp.int32)
    if memory.eviction == "least_retrieved":
        assert out.field is not None
        cache, usage = counted(cache, out.field, chunk_index, memory)
    chunk_slot, retrieved = slot_for(cache, chunk_index, memory), None
    if cache.copies is not None:
        assert out.field is not None and out.retrieved is not None
        (k, v), frame = out.retrieved, out.field.frame[:, 0]
        retrieved = (k, v, frame[..., frame.shape[-1] - k.shape[2] :])
    assert out.k is not None and out.v is not None
    return write(cache, chunk_slot, chunk_index, out.k, out.v, usage, retrieved)


def denoise_chunk(
    model: Transformer,
    cache: KVCache,
    noise: Float[Array, "b c h w ch"],
    text: TextContext,
    chunk_index: Int[Array, ""],
    key: Array,
    *,
    sampler: SamplerConfig,
    memory: MemoryConfig = MemoryConfig(),
) -> tuple[Float[Array, "b c h w ch"], Int[Array, "l b r"]]:
    """A chunk from noise to x0 by the sampler's solver; the pool is only read.

    With guidance the pool and the text hold 2b films: first b with their prompts, then b with the
    null text. Noise and x0 hold b. Sampling needs noise of unit variance at t = 1000. `key` is used
    by solvers that renoise.

    Also returns which film frames every layer's field held at the last step, newest first, -1 where
    it held none. The first window_chunks * C entries are the window, the rest memory, once the film
    is long enough.
    """

    def velocity(x, t):
        chunk = segment(x, t, chunk_index)
        out = chunk_pass(model, cache, chunk, text, memory, keep_field=True)
        assert out.field is not None

        def under(other: MemoryConfig):
            # Up to chunk W all history is in the window, so memory changes nothing.
            return jax.lax.cond(
                chunk_index > memory.window_chunks,
                lambda: chunk_pass(model, cache, chunk, text, other).velocity,
                lambda: out.velocity,
            )

        v = memory_guided(out.velocity, under, memory, sampler.memory_guidance)
        return v, out.field.frame

    x0, seen = sample(velocity, noise, sampler, key, has_aux=True)
    # seen: [steps, layers, segments, films, r]. The last step, films under their own prompts.
    return x0, seen[-1, :, 0, : noise.shape[0]]


# The jitted moves that all rollouts share: one compilation per film shape, sampler and memory.
denoise = jax.jit(denoise_chunk, static_argnames=("sampler", "memory"))
commit = jax.jit(commit_chunk, static_argnames=("memory", "t"), donate_argnames=("cache",))
