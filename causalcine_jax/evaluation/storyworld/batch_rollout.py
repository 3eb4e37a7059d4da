"""Rolls out many films at once, with the same denoise and commit as every rollout.

    true frames -> encode -> latents of the chunks before a return -> commit
        -> denoise, commit, ... -> latents -> decode -> frames

The films of a batch are at the same chunk, each under its own prompts.
A chunk's initial noise depends on (seed, story, chunk) alone, so policies get equal noise.
few_step draws the noise between its steps for the whole batch.
There, a film also depends on its place in the batch.
The caller repeats films to fill the last batch, so a policy compiles each move once.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import raise_faults
from causalcine_jax.film import rollout
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.pool import empty_pool
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import TextContext
from causalcine_jax.storyworld import WorldStory
from causalcine_jax.storyworld.world import CHUNK_FRAMES, WorldConfig, first_frame_of_chunk


@dataclass(frozen=True)
class BatchRollout:
    """A model, how it samples, and the size of its films.

    kept  how much history, stored how and where; its frames None for all of a film. Retrievals are
          counted over a batch's films together. Under eviction least_retrieved, a film is
          therefore independent only in a batch of one.
    """

    model: Model
    world: WorldConfig
    sampler: SamplerConfig
    seed: int = 0
    kept: PoolConfig = PoolConfig()

    def __post_init__(self):
        stride, grid = self.model.vae.cfg.spatial_stride, self.model.transformer.config.patch_size
        token = [stride * n for n in grid[1:]]
        faults = [
            f"{name} {size} is not a multiple of the model's {n}"
            for name, size, n in zip(
                ("height", "width"), (self.world.height, self.world.width), token, strict=True
            )
            if size % n
        ]
        raise_faults(f"a world of {self.world.height}x{self.world.width}", faults)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        stride = self.model.vae.cfg.spatial_stride
        return (
            CHUNK_FRAMES,
            self.world.height // stride,
            self.world.width // stride,
            self.model.transformer.config.in_dim,
        )

    def encode(
        self, films: list[UInt8[np.ndarray, "t h w 3"]], chunks: int
    ) -> Float[Array, "b f h w z"]:
        """Returns latents of every film's first `chunks` chunks.

        Encodes them as a stream, so any number of chunks compiles once.
        """
        pieces, cache = [], None
        for chunk in range(chunks):
            part = np.stack(
                [
                    film[first_frame_of_chunk(chunk) : first_frame_of_chunk(chunk + 1)]
                    for film in films
                ]
            )
            video = part.astype(np.float32) / 127.5 - 1
            encoded = (
                self.model.vae.encode_first(video)
                if cache is None
                else self.model.vae.encode_next(cache, video)
            )
            cache = encoded[1]
            pieces.append(encoded[0])
        return jnp.concatenate(pieces, axis=1)

    def decode(self, latents: Float[Array, "b f h w z"]) -> UInt8[np.ndarray, "b t h w 3"]:
        """Decodes whole films, chunk by chunk."""
        video, cache = self.decoded_start(latents[:, :CHUNK_FRAMES])
        pieces = [video]
        for start in range(CHUNK_FRAMES, latents.shape[1], CHUNK_FRAMES):
            video, cache = self.decoded_next(cache, latents[:, start : start + CHUNK_FRAMES])
            pieces.append(video)
        return np.concatenate(pieces, axis=1)

    def decoded_start(self, latents: Float[Array, "b c h w z"]):
        """Decodes a film's first chunk; returns its frames and the decoder's cache."""
        video, cache = self.model.vae.decode_first(latents)
        return to_uint8(video), cache

    def decoded_next(self, cache, latents: Float[Array, "b c h w z"]):
        """Decodes the next chunk. `cache` is donated."""
        video, cache = self.model.vae.decode_next(cache, latents)
        return to_uint8(video), cache

    def decoded_after(
        self, cache, chunks: list[Float[Array, "b c h w z"]]
    ) -> UInt8[np.ndarray, "b t h w 3"]:
        """Decodes chunks that follow the one which left the decoder's `cache`.

        Copies `cache`, so it can be used again.
        """
        cache, frames = jax.tree.map(jnp.copy, cache), []
        for latents in chunks:
            video, cache = self.decoded_next(cache, latents)
            frames.append(video)
        return np.concatenate(frames, axis=1)

    def prompts(self, stories: list[WorldStory]) -> list[TextContext]:
        """Returns each chunk's prompts, one per film, ready for cross-attention.

        With guidance, as many null prompts follow them.
        """
        shots = max(len(story.shots) for story in stories)
        texts = np.array(
            [[*story.prompts(), *[""] * (shots - len(story.shots))] for story in stories]
        )
        shot_of_chunk = np.stack([story.shot_of_chunk() for story in stories])
        contexts = []
        for chunk in range(self.world.chunks):
            if chunk and (shot_of_chunk[:, chunk] == shot_of_chunk[:, chunk - 1]).all():
                contexts.append(contexts[-1])
                continue
            asked = [
                str(row[shot]) for row, shot in zip(texts, shot_of_chunk[:, chunk], strict=True)
            ]
            asked += [""] * len(asked) if self.sampler.guided else []
            ids, mask = self.model.tokenizer(asked, self.model.transformer.config.text_len)
            contexts.append(_embed(self.model.text_encoder, self.model.transformer, ids, mask))
        return contexts

    def pool(self, films: int, memory: MemoryConfig | None = None) -> KVCache:
        """Returns an empty history for `films` films under `memory` (None: the model's own).

        Raises:
          UsageError: there is no room for it.
        """
        chunk_frames, *size, _ = self.latent_shape
        model = replace(self.model, chunk_frames=chunk_frames)
        kept = replace(self.kept, frames=self.kept.frames or self.world.latent_frames)
        films *= self.sampler.histories
        return empty_pool(model, films, tuple(size), kept, memory or model.memory)

    def commit(
        self,
        pool: KVCache,
        latents: Float[Array, "b c h w z"],
        context: TextContext,
        chunk: int,
        memory: MemoryConfig,
    ) -> KVCache:
        """Commits one clean chunk of every film. `pool` is donated."""
        films = jnp.concatenate([latents, latents]) if self.sampler.guided else latents
        return rollout.commit(
            self.model.transformer, pool, films, context, np.int32(chunk), memory=memory
        )

    def history(
        self,
        chunks: list[Float[Array, "b c h w z"]],
        contexts: list[TextContext],
        memory: MemoryConfig,
    ) -> KVCache:
        """Returns the history after the first chunks of a film."""
        pool = self.pool(len(chunks[0]), memory)
        for number, latents in enumerate(chunks):
            pool = self.commit(pool, latents, contexts[number], number, memory)
        return pool

    def denoise(
        self,
        pool: KVCache,
        stories: list[WorldStory],
        context: TextContext,
        chunk: int,
        memory: MemoryConfig,
    ) -> tuple[Float[Array, "b c h w z"], Int[np.ndarray, "l b r"]]:
        """Denoises one new chunk of every film.

        Returns its latents, and per layer and film the frames in its receptive field.
        """
        key = jax.random.fold_in(jax.random.key(self.seed), chunk)
        noise = _noise(
            key, np.array([story.index for story in stories], np.uint32), self.latent_shape
        )
        solver_key = jax.random.fold_in(key, 2**31)
        x0, seen = rollout.denoise(
            self.model.transformer,
            pool,
            noise,
            context,
            np.int32(chunk),
            solver_key,
            sampler=self.sampler,
            memory=memory,
        )
        return x0, np.asarray(seen)


def to_uint8(video: Float[Array, "b t h w 3"]) -> UInt8[np.ndarray, "b t h w 3"]:
    return np.asarray(jnp.clip(jnp.round((video + 1) * 127.5), 0, 255).astype(jnp.uint8))


@jax.jit
def _embed(text_encoder, transformer, ids, mask) -> TextContext:
    return rollout.embed_prompt(transformer, text_encoder(ids, mask))


@jax.jit(static_argnums=2)
def _noise(
    key: Array, stories: Int[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b c h w z"]:
    return jax.vmap(lambda story: jax.random.normal(jax.random.fold_in(key, story), shape))(stories)
