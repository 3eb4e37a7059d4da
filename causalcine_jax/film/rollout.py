"""The rollout's two moves: denoise a chunk against a read-only pool, then commit it by one clean pass.

    noise -> denoise_chunk (solver steps; the pool is only read) -> x0 -> commit_chunk (t = 0; its K/V enter the pool) -> next chunk

Classifier-free guidance is a batch of two films, [prompt, null], each with its own history: both halves get the same chunk, each
commits it under its own prompt. `chunk_index` is an array, so a whole film compiles each move once.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig, sample
from causalcine_jax.models import dit
from causalcine_jax.models.cache.kv_cache import KVCache, counted, slot_for, write
from causalcine_jax.models.dit import TextContext, Transformer
from causalcine_jax.models.packed import PassOutput, transformer_pass, unbounded


def embed_prompt(model: Transformer, text: Float[Array, "b tokens text_dim"]) -> TextContext:
    """One shot's prompt, ready for every layer's cross-attention."""
    return dit.embed_text(model, text[:, None])


def chunk_pass(
    model: Transformer,
    cache: KVCache,
    latents: Float[Array, "b c h w ch"],
    t: Float[Array, ""] | Float[Array, " b"],
    text: TextContext,
    chunk_index: Int[Array, ""],
    *,
    memory: MemoryConfig = MemoryConfig(),
    **asked,
) -> PassOutput:
    """One forward of one chunk against the pool, with whatever `asked` of `transformer_pass` is wanted back."""
    batch = latents.shape[0]
    t = jnp.broadcast_to(jnp.asarray(t, jnp.float32).reshape(-1, 1), (batch, 1))
    shot = jnp.zeros((batch, 1), jnp.int32)
    index = jnp.reshape(jnp.asarray(chunk_index, jnp.int32), (1,))
    return transformer_pass(
        model, latents, t, index, text, shot, memory=memory, chunk_frames=cache.chunk_frames, history=cache, **asked
    )  # fmt: skip


def chunk_velocity(
    model, cache, latents, t, text, chunk_index, *, memory: MemoryConfig = MemoryConfig()
) -> Float[Array, "b c h w ch"]:
    """The velocity of one noisy chunk given the pool; what a solver calls. See `chunk_pass`."""
    return chunk_pass(model, cache, latents, t, text, chunk_index, memory=memory).velocity


def commit_chunk(
    model: Transformer,
    cache: KVCache,
    latents: Float[Array, "b c h w ch"],
    text: TextContext,
    chunk_index: Int[Array, ""],
    *,
    memory: MemoryConfig = MemoryConfig(),
    t: float = 0.0,
    replay=None,
) -> KVCache:
    """The pool with this clean chunk in it: one pass at t = 0 under the chunk's own prompt. Donate `cache` to write in place.

    With memory.route_clean=False the pass sees every chunk in the pool, as the packed pass's clean stream then does.
    Where eviction asks for it, what this pass retrieved is counted, over all layers and films: histories that share a pool evict together.
    """
    chunk_index, counts = jnp.asarray(chunk_index, jnp.int32), memory.eviction == "least_retrieved"
    rule = memory if memory.route_clean else unbounded(memory, cache.frames, cache.chunk_frames)
    hosted = cache.near is not None
    out = chunk_pass(
        model, cache, latents, jnp.float32(t), text, chunk_index, memory=rule, return_kv=True, return_field=counts or hosted, replay=replay
    )  # fmt: skip
    cache, usage = counted(cache, out.field, chunk_index, memory) if counts else (cache, 0.0)
    slot, retrieved = slot_for(cache, chunk_index, memory), None
    if hosted:
        time = out.field.time[:, 0]
        retrieved = (*out.retrieved, time[..., time.shape[-1] - out.retrieved[0].shape[2] :])
    return write(cache, slot, chunk_index, out.k, out.v, usage, retrieved)


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

    With guidance the pool and the text hold 2b films, first all with their prompts, then all with the null text; noise and x0 hold b.
    Sampling needs noise of unit variance at t = 1000. `key` is used by solvers that renoise.
    Also returns which film frames every layer's field held at the last step, newest first, -1 where it held none; the first
    window_chunks * C entries are the window, the rest memory (once the film is long enough).
    """

    def velocity(x, t):
        out = chunk_pass(model, cache, x, t, text, chunk_index, memory=memory, return_field=True)
        return out.velocity, out.field.time

    x0, seen = sample(velocity, noise, sampler, key, has_aux=True)
    return x0, seen[-1, :, 0, : noise.shape[0]]


# The jitted moves that every rollout shares: one compilation each per film shape, sampler and memory.
denoise = jax.jit(denoise_chunk, static_argnames=("sampler", "memory"))
commit = jax.jit(commit_chunk, static_argnames=("memory", "t"), donate_argnames=("cache",))
