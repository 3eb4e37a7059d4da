"""What one film needs while it is rolled out: the pool of history, the VAE's cache, the noise, and the compiled moves.

    prompt -> embed() -> TextContext          chunk() = noise -> denoise -> commit to the pool -> decode -> uint8 frames

With guidance every array is a batch of two films, [prompt, negative], each with its own history. All shapes are those of
the film's size, so a film compiles each move once (and the decoder twice: the first chunk is shorter).
"""

import time
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.generation import rollout
from causalcine_jax.generation.model_folder import Model
from causalcine_jax.models.dit import TextContext, token_grid
from causalcine_jax.models.kv_cache import KVCache
from causalcine_jax.story_schema import CHUNK_FRAMES


@dataclass(frozen=True)
class Made:
    """One chunk: its frames, the film's latent frames that each layer's memory retrieved (-1: none), and seconds spent."""

    frames: UInt8[np.ndarray, "t h w 3"]
    retrieved: Int[np.ndarray, "l k"]
    seconds: dict[str, float]


class Engine(Protocol):
    """What a `Director` asks of a film maker."""

    def embed(self, prompt: str) -> Any:
        """The prompt, ready for the chunks of its shot."""

    def chunk(self, context: Any, index: int) -> Made:
        """The film's next chunk under that prompt. `index` counts from 0, without gaps."""


class RolloutEngine:
    """One film. Holds the only mutable state of a rollout; everything that computes is a pure, jitted function."""

    def __init__(
        self,
        model: Model,
        *,
        height: int,
        width: int,
        seed: int,
        sampler: SamplerConfig,
        memory: MemoryConfig,
        pool_frames: int,
        negative: str = "",
    ):
        """Allocates the pool. `UsageError` if the model cannot make frames of height x width."""
        stride = model.vae.cfg.spatial_stride
        if height % stride or width % stride:
            raise UsageError(f"frames of {height}x{width} pixels: the VAE needs multiples of {stride}")
        config = model.transformer.config
        rows, columns = token_grid(config, height // stride, width // stride)
        self._model, self._sampler, self._memory, self._negative = model, sampler, memory, negative
        self._key = jax.random.key(seed)
        self._noise_shape = (1, CHUNK_FRAMES, height // stride, width // stride, config.in_dim)
        dtype = model.transformer.patch_embedding.weight[...].dtype
        self._pool = KVCache.empty(config, self.films, pool_frames, rows * columns, CHUNK_FRAMES, dtype)
        self._vae_cache = None

    @property
    def films(self) -> int:
        """Histories kept side by side: two with guidance."""
        return 2 if self._sampler.guided else 1

    @property
    def pool_bytes(self) -> int:
        return self._pool.bytes

    def embed(self, prompt: str) -> TextContext:
        texts = [prompt, self._negative][: self.films]
        ids, mask = self._model.tokenizer(texts, self._model.transformer.config.text_len)
        return _embed(self._model.text_encoder, self._model.transformer, ids, mask)

    def chunk(self, context: TextContext, index: int) -> Made:
        clock = _Clock()
        transformer, number = self._model.transformer, jnp.int32(index)
        noise, key = _noise(self._key, number, self._noise_shape)
        x0, seen = rollout.denoise(transformer, self._pool, noise, context, number, key, sampler=self._sampler, memory=self._memory)
        clock.lap("denoise", x0)
        films = jnp.concatenate([x0] * self.films)
        self._pool = rollout.commit(transformer, self._pool, films, context, number, memory=self._memory)
        clock.lap("commit", self._pool.time)
        frames = self._decode(x0)
        clock.lap("decode", frames)
        return Made(np.asarray(frames[0]), self._memory_only(np.asarray(seen)[:, 0], index), clock.seconds)

    def _decode(self, x0: Array) -> Array:
        latents = x0.astype(self._model.vae.conv2.weight[...].dtype)
        if self._vae_cache is None:
            video, self._vae_cache = self._model.vae.decode_first(latents)
        else:
            video, self._vae_cache = self._model.vae.decode_next(self._vae_cache, latents)
        return _to_uint8(video)

    def _memory_only(self, seen: np.ndarray, index: int) -> np.ndarray:
        """Of the frames [l, r] that the field held, those older than the window, newest first; -1 fills up to K."""
        window_start = (index - self._memory.window_chunks) * CHUNK_FRAMES
        kept = np.full((len(seen), self._memory.retrieved_frames), -1, np.int32)
        for layer, times in enumerate(seen):
            older = times[(times >= 0) & (times < window_start)][: kept.shape[1]]
            kept[layer, : len(older)] = older
        return kept


@jax.jit
def _embed(text_encoder, transformer, ids, mask) -> TextContext:
    return rollout.embed_prompt(transformer, text_encoder(ids, mask))


@jax.jit(static_argnums=2)
def _noise(key: Array, index: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The chunk's noise and the key for solvers that renoise: a function of (seed, chunk) alone."""
    noise_key, solver_key = jax.random.split(jax.random.fold_in(key, index))
    return jax.random.normal(noise_key, shape), solver_key


@jax.jit
def _to_uint8(video: Array) -> Array:
    return jnp.clip(jnp.round((video.astype(jnp.float32) + 1) * 127.5), 0, 255).astype(jnp.uint8)


class _Clock:
    """Seconds between laps; a lap ends when its array is ready, not when it was asked for."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str, array: Array) -> None:
        jax.block_until_ready(array)
        now = time.perf_counter()
        self.seconds[name], self._start = now - self._start, now
