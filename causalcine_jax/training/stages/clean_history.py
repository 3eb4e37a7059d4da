"""The pool of a given film, as a rollout leaves it: of ground truth, or of a student's own film."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import PassConfig
from causalcine_jax.film.rollout import commit_chunk, embed_prompt, empty_cache
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.gather import gather


def clean_history(
    model: Transformer,
    film: Float[Array, "b f h w c"],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    config: PassConfig,
) -> KVCache:
    """The pool after committing all chunks of `film` but the last, to which nothing attends."""
    (films, chunks), chunk_frames = shot_of_chunk.shape, config.chunk_frames
    _, _, height, width, _ = film.shape
    pool = empty_cache(
        model, films, chunks * chunk_frames, (height, width), chunk_frames, memory=config.memory
    )

    def commit(pool: KVCache, index):
        chunk = jax.lax.dynamic_slice_in_dim(film, index * chunk_frames, chunk_frames, axis=1)
        prompt = gather(text, shot_of_chunk[:, index, None])[:, 0]
        return commit_chunk(
            model, pool, chunk, embed_prompt(model, prompt), index, memory=config.memory
        ), None

    return jax.lax.scan(commit, pool, jnp.arange(chunks - 1, dtype=jnp.int32))[0]
