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
from jaxtyping import Array, Float, Int, UInt8

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import raise_faults
from causalcine_jax.film import rollout
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.pool import chunk_bytes, empty_pool, in_steps, kept_near
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import TextContext, Transformer, token_grid
from causalcine_jax.parallel.mesh import active_mesh, check_shardable
from causalcine_jax.parallel.processes import gather_to_host
from causalcine_jax.story import Video
from causalcine_jax.story_schema import nearest_multiples


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

    def given(self, context: Any, index: int, latents: Array) -> Made:
        """The film's next chunk under that prompt, of these latents."""


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
        kv_dtype: str = "same",
        pool_on: str = "device",
        negative: str = "",
    ):
        """Allocates the pool. `UsageError` if the model cannot make frames of height x width, or the mesh it is under cannot cut them."""
        self._model, self._sampler, self._memory, self._negative = model, sampler, memory, negative
        self._key = jax.random.key(seed)
        self._noise_shape = (
            1,
            model.chunk_frames,
            *latent_size(model, height, width),
            model.transformer.config.in_dim,
        )
        if mesh := active_mesh():
            rows, columns = token_grid(model.transformer.config, *self._noise_shape[2:4])
            tokens = model.chunk_frames * rows * columns
            check_shardable(
                mesh,
                films=self.films,
                heads=model.transformer.config.num_heads,
                chunk_tokens=tokens,
            )
        self._pool = self._empty_pool(pool_frames, kv_dtype, kept_near(pool_on, memory))
        self._negative_text, self._vae_cache = None, None

    @staticmethod
    def shared_pool(
        model: Model, sampler: SamplerConfig, video: Video, frames: int, kv_dtype: str
    ) -> int:
        """`frames` of history, or a few more where films of about this length then share compiled programs."""
        size = latent_size(model, video.height, video.width)
        return in_steps(
            frames, model.chunk_frames, chunk_bytes(model, histories(sampler), size, kv_dtype)
        )

    @property
    def films(self) -> int:
        """Histories kept side by side: two with guidance."""
        return histories(self._sampler)

    @property
    def pool_bytes(self) -> int:
        return self._pool.bytes

    @property
    def pool_host_bytes(self) -> int:
        return self._pool.host_bytes

    def embed(self, prompt: str) -> TextContext:
        texts = [self._model.embed(prompt)]
        if self.films == 2:
            if self._negative_text is None:
                self._negative_text = self._model.embed(self._negative)
            texts.append(self._negative_text)
        return text_context(self._model.transformer, jnp.concatenate(texts))

    def chunk(self, context: TextContext, index: int) -> Made:
        clock = self._clock()
        transformer, number = self._model.transformer, np.int32(index)
        noise, key = noise_of(self._key, number, self._noise_shape)
        sampler = self._sampler.of_chunk(index)
        x0, seen = rollout.denoise(
            transformer,
            self._pool,
            noise,
            context,
            number,
            key,
            sampler=sampler,
            memory=self._memory,
        )
        clock.lap("denoise", x0)
        frames = self._finish(x0, context, number, clock)
        return Made(frames, self._memory_only(gather_to_host(seen)[:, 0], index), clock.seconds)

    def given(self, context: TextContext, index: int, latents: Float[Array, "1 c h w z"]) -> Made:
        """A chunk that is not made from noise, such as a start's: committed and decoded like any other."""
        clock = self._clock()
        frames = self._finish(latents, context, np.int32(index), clock)
        nothing = np.full(
            (self._model.transformer.config.num_layers, self._memory.retrieved_frames), -1, np.int32
        )
        return Made(frames, nothing, clock.seconds)

    def _finish(
        self, x0: Array, context: TextContext, number: Array, clock: "Clock"
    ) -> UInt8[np.ndarray, "t h w 3"]:
        films = jnp.concatenate([x0] * self.films)
        self._pool = rollout.commit(
            self._model.transformer, self._pool, films, context, number, memory=self._memory
        )
        clock.lap("commit", self._pool.time)
        frames = self._decode(x0)
        clock.lap("decode", frames)
        return gather_to_host(frames)[0]

    def _clock(self) -> "Clock":
        return Clock()

    def _empty_pool(self, frames: int, kv_dtype: str, near: tuple[int, int] | None) -> KVCache:
        return empty_pool(self._model, self.films, frames, self._noise_shape[2:4], kv_dtype, near)

    def _decode(self, x0: Array) -> Array:
        latents = x0.astype(self._model.vae.conv2.weight[...].dtype)
        if self._vae_cache is None:
            video, self._vae_cache = self._model.decoder.decode_first(latents)
        else:
            video, self._vae_cache = self._model.decoder.decode_next(self._vae_cache, latents)
        return _to_uint8(video)

    def _memory_only(self, seen: np.ndarray, index: int) -> np.ndarray:
        """Of the frames [l, r] that the field held, those older than the window, newest first; -1 fills up to K."""
        window_start = (index - self._memory.window_chunks) * self._model.chunk_frames
        kept = np.full((len(seen), self._memory.retrieved_frames), -1, np.int32)
        for layer, times in enumerate(seen):
            older = times[(times >= 0) & (times < window_start)][: kept.shape[1]]
            kept[layer, : len(older)] = older
        return kept


def histories(sampler: SamplerConfig) -> int:
    """How many histories one film has: with guidance the null prompt's beside its own."""
    return 2 if sampler.guided else 1


def latent_size(model: Model, height: int, width: int) -> tuple[int, int]:
    """Height and width of latent frames of `height` x `width` pixels; `UsageError` naming the nearest legal sizes if the model cannot make them."""
    stride, (_, rows, columns) = model.vae.cfg.spatial_stride, model.transformer.config.patch_size
    sides = (("height", height, stride * rows), ("width", width, stride * columns))
    raise_faults(
        f"frames of {width}x{height} pixels",
        [
            f"{side} must be a multiple of {step} (nearest: {nearest_multiples(size, step)})"
            for side, size, step in sides
            if size % step
        ],
    )
    return height // stride, width // stride


@jax.jit
def text_context(transformer: Transformer, text: Float[Array, "b t c"]) -> TextContext:
    """What cross-attention needs of embedded prompts, one per film of the batch."""
    return rollout.embed_prompt(transformer, text)


@jax.jit(static_argnums=2)
def noise_of(key: Array, index: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """The chunk's noise and the key for solvers that renoise: a function of (seed, chunk) alone."""
    noise_key, solver_key = jax.random.split(jax.random.fold_in(key, index))
    return jax.random.normal(noise_key, shape), solver_key


@jax.jit
def _to_uint8(video: Array) -> Array:
    return jnp.clip(jnp.round((video.astype(jnp.float32) + 1) * 127.5), 0, 255).astype(jnp.uint8)


class Clock:
    """Seconds between laps; a lap ends when its array is ready, not when it was asked for."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    def lap(self, name: str, array: Array) -> None:
        jax.block_until_ready(array)
        now = time.perf_counter()
        self.seconds[name], self._start = now - self._start, now
