"""Rolls out many films at once: a `RolloutState` of a batch, moved as any film's (film/state.py).

    true frames -> encode -> latents of the chunks before a return -> commit
        -> denoise, commit, ... -> latents -> decode -> frames

The films of a batch are at the same chunk, each under its own prompts.
A chunk's initial noise depends on (seed, story, chunk) alone, so policies get equal noise.
few_step draws the noise between its steps for the whole batch.
There, a film also depends on its place in the batch.
The caller repeats films to fill the last batch, so a policy compiles each move once.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt, UInt8

from causalcine_jax.clock import CHUNK_FRAMES, first_frame_of_chunk
from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film import rollout
from causalcine_jax.film.cut import open_shot
from causalcine_jax.film.model_folder import Model, latent_size
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import (
    RolloutState,
    commit_next,
    decode_next,
    denoise_next,
    new_state,
)
from causalcine_jax.models.dit import TextContext
from causalcine_jax.models.vae.video import encode_pieces, to_model_range
from causalcine_jax.storyworld import WorldStory
from causalcine_jax.storyworld.world import WorldConfig


@dataclass(frozen=True)
class BatchRollout:
    """A model, how it samples, and the size of its films.

    pool  how much history, stored how and where; its frames None for all of a film. Retrievals are
          counted over a batch's films together. Under eviction least_retrieved, a film is
          therefore independent only in a batch of one.
    """

    model: Model
    world: WorldConfig
    sampler: SamplerConfig
    seed: int = 0
    pool: PoolConfig = PoolConfig()

    def __post_init__(self):
        latent_size(self.model, self.world.height, self.world.width)
        if self.model.chunk_frames != CHUNK_FRAMES:
            raise UsageError(
                f"StoryWorld's films have chunks of {CHUNK_FRAMES} latent frames, "
                f"this model was trained with {self.model.chunk_frames}: it cannot be measured here"
            )

    def encode(
        self, films: list[UInt8[np.ndarray, "t height width 3"]], chunks: int
    ) -> Float[Array, "b f h w z"]:
        """Returns latents of every film's first `chunks` chunks.

        Encodes them as a stream, so any number of chunks compiles once.
        """
        bounds = map(first_frame_of_chunk, range(chunks + 1))
        pieces = (
            to_model_range(np.stack([film[begin:end] for film in films]))
            for begin, end in itertools.pairwise(bounds)
        )
        return jnp.concatenate(encode_pieces(self.model.vae, pieces), axis=1)

    def decode(self, latents: Float[Array, "b f y x z"]) -> UInt8[np.ndarray, "b t h w 3"]:
        """Decodes whole films, chunk by chunk."""
        return self.decoded_after(
            None, jnp.split(latents, latents.shape[1] // CHUNK_FRAMES, axis=1)
        )

    def decoded_after(
        self, cache, chunks: list[Float[Array, "b c y x z"]]
    ) -> UInt8[np.ndarray, "b t h w 3"]:
        """Decodes chunks that follow the one which left the decoder's `cache` (None: no chunk).

        Copies `cache`, so it can be used again.
        """
        cache, frames = jax.tree.map(jnp.copy, cache), []
        for latents in chunks:
            video, cache = decode_next(self.model, cache, latents)
            frames.append(np.asarray(video))
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
        tokenizer, text_encoder = self.model.tokenizer, self.model.text_encoder
        if tokenizer is None:
            raise UsageError("a batch needs the text encoder: load the model without embeddings")
        contexts: list[TextContext] = []
        for chunk in range(self.world.chunks):
            if chunk and (shot_of_chunk[:, chunk] == shot_of_chunk[:, chunk - 1]).all():
                contexts.append(contexts[-1])
                continue
            asked = [
                str(row[shot]) for row, shot in zip(texts, shot_of_chunk[:, chunk], strict=True)
            ]
            asked += [""] * len(asked) if self.sampler.guided else []
            ids, mask = tokenizer(asked, self.model.transformer.config.text_len)
            contexts.append(_embed(text_encoder, self.model.transformer, ids, mask))
        return contexts

    def settings(self, memory: MemoryConfig) -> FilmSettings:
        """What the films are made with under `memory`."""
        pool = replace(self.pool, frames=self.pool.frames or self.world.latent_frames)
        size = self.world.height, self.world.width
        return FilmSettings(self.sampler, memory, pool, *size, self.seed)

    def start(self, films: int, memory: MemoryConfig) -> RolloutState:
        """Returns the state before the first chunk of `films` films. Raises as `new_state`."""
        return new_state(self.model, self.settings(memory), films)

    def at_chunk(
        self,
        state: RolloutState,
        made: Sequence[Float[Array, "b c h w z"]],
        stories: list[WorldStory],
        context: TextContext,
        memory: MemoryConfig,
    ) -> tuple[RolloutState, MemoryConfig]:
        """Returns the state before the next chunk, and the memory that it is made under.

        They differ from the arguments only where a shot begins and memory.at_cut is not "keep".
        The old state's pool may be donated.

        made  latents of the films' chunks so far

        Raises:
          UsageError: the films of the batch are not cut at the same chunks.
        """
        begins = {any(shot.start_chunk == state.chunk for shot in story.shots) for story in stories}
        if memory.at_cut == "keep" or begins == {False}:
            return state, memory
        if len(begins) > 1:
            raise UsageError(
                f"at_cut={memory.at_cut} changes the history of all films that are made at once: "
                "make them one by one (batch 1)"
            )
        state, settings = open_shot(self.model, state, made, context, self.settings(memory))
        return state, settings.memory

    def commit(
        self,
        state: RolloutState,
        latents: Float[Array, "b c h w z"],
        context: TextContext,
        memory: MemoryConfig,
    ) -> RolloutState:
        """Commits the next chunk of every film. The old state's pool is donated."""
        return commit_next(self.model, state, latents, context, self.settings(memory))

    def history(
        self,
        chunks: list[Float[Array, "b c h w z"]],
        stories: list[WorldStory],
        contexts: list[TextContext],
        memory: MemoryConfig,
    ) -> RolloutState:
        """Returns the state after the first chunks of the films."""
        state = self.start(len(chunks[0]), memory)
        for number, (latents, context) in enumerate(zip(chunks, contexts, strict=False)):
            state, rule = self.at_chunk(state, chunks[:number], stories, context, memory)
            state = self.commit(state, latents, context, rule)
        return state

    def denoise(
        self,
        state: RolloutState,
        stories: list[WorldStory],
        context: TextContext,
        memory: MemoryConfig,
    ) -> tuple[Float[Array, "b c h w z"], Int[np.ndarray, "l b r"]]:
        """Denoises the next chunk of every film.

        Returns its latents, and per layer and film the frames in its receptive field.
        """
        settings, key = self.settings(memory), jax.random.fold_in(state.key, state.chunk)
        size = latent_size(self.model, settings.height, settings.width)
        shape = (CHUNK_FRAMES, *size, self.model.transformer.config.in_dim)
        indices = np.array([story.index for story in stories], np.uint32)
        noise = _noise(key, indices, shape), jax.random.fold_in(key, 2**31)
        x0, seen = denoise_next(self.model, state, context, settings, noise)
        return x0, np.asarray(seen)


@jax.jit
def _embed(text_encoder, transformer, ids, mask) -> TextContext:
    return rollout.embed_prompt(transformer, text_encoder(ids, mask))


@jax.jit(static_argnums=2)
def _noise(
    key: Array, stories: UInt[Array, " b"], shape: tuple[int, ...]
) -> Float[Array, "b c h w z"]:
    return jax.vmap(lambda story: jax.random.normal(jax.random.fold_in(key, story), shape))(stories)
