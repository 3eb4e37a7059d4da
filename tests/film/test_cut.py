"""What a shot's start does to history: keys and values after it, and the films that follow."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import SIZE, random_weights, tiny_model

from causalcine_jax.config import AFTER_CUT, MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.evaluation.storyworld.batch_rollout import BatchRollout
from causalcine_jax.evaluation.storyworld.free_films import stories_apart
from causalcine_jax.film.cut import open_shot
from causalcine_jax.film.director import Director
from causalcine_jax.film.model_folder import latent_size
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import commit_next, embed, new_state
from causalcine_jax.models.dit import Transformer
from causalcine_jax.rollouts import ROLLOUTS
from causalcine_jax.story import Shot, Story
from causalcine_jax.storyworld import WorldConfig

LONGLIVE = ROLLOUTS["longlive"].memory
STORY = Story((Shot("Mia waves.", chunks=2), Shot("Otto sleeps.", chunks=2)), seed=1)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def committed(model, memory, chunks, pool=18):
    """A state after `chunks` chunks under a first prompt, their latents, and a second prompt."""
    settings = FilmSettings(model.sampler, memory, PoolConfig(pool), SIZE.height, SIZE.width)
    first, second = (embed(model, text, settings) for text in ("Mia waves.", "Otto sleeps."))
    state = new_state(model, settings)
    shape = (chunks, 1, 3, *latent_size(model, SIZE.height, SIZE.width), 16)
    made = list(np.random.default_rng(0).normal(size=shape).astype(np.float32))
    for latents in made:
        state = commit_next(model, state, jnp.asarray(latents), first, settings)
    return state, made, second, settings


def frames_at(cache, chunk):
    """Keys and values of a chunk in all layers."""
    at = cache.chunk.tolist().index(chunk) * cache.chunk_frames
    return np.stack([x[:, :, at : at + cache.chunk_frames] for x in (cache.k, cache.v)])


def test_recaching_commits_the_newest_chunks_under_the_new_prompt_and_keeps_the_sink(model):
    state, made, second, settings = committed(model, LONGLIVE, 6)
    before = jax.device_get(state.cache)
    opened, rule = open_shot(model, state, made, second, settings)
    assert (opened.chunk, rule) == (6, settings)
    after = jax.device_get(opened.cache)
    # The last 12 frames beside the sink's 3; chunk 1 is out of reach.
    assert sorted(after.chunk.tolist()) == [-1, 0, 2, 3, 4, 5]
    np.testing.assert_array_equal(frames_at(after, 0), frames_at(before, 0))
    assert np.abs(frames_at(after, 5) - frames_at(before, 5)).max() > 1e-3

    # The same as a film whose chunks 2 to 5 were made under the second prompt, after the sink.
    plain, *_ = committed(model, LONGLIVE, 1)
    plain = dataclasses.replace(plain, chunk=2)
    for latents in made[2:]:
        plain = commit_next(model, plain, jnp.asarray(latents), second, settings)
    for chunk in (2, 3, 4, 5):
        np.testing.assert_array_equal(
            frames_at(after, chunk), frames_at(jax.device_get(plain.cache), chunk)
        )


def test_a_recached_bank_keeps_what_memory_may_retrieve(model):
    memory = dataclasses.replace(ROLLOUTS["memflow"].memory, window_chunks=1)
    opened, _ = open_shot(model, *committed(model, memory, 6))
    assert sorted(opened.cache.chunk.tolist()) == [0, 1, 2, 3, 4, 5]


def test_flushing_keeps_sink_and_last_chunk_and_puts_one_chunk_far_away(model):
    memory = MemoryConfig("sink", window_chunks=3, memory_frames=1, at_cut="flush")
    opened, rule = open_shot(model, *committed(model, memory, 5))
    assert sorted(opened.cache.chunk.tolist()) == [-1, -1, -1, -1, 0, 4] and opened.chunk == 5
    assert rule.memory == dataclasses.replace(memory, positions=AFTER_CUT)


def test_a_films_first_shot_opens_on_nothing(model):
    state, made, second, settings = committed(model, LONGLIVE, 0)
    assert open_shot(model, state, made, second, settings) == (state, settings)


def test_a_film_changes_from_its_cut_on(model):
    once = SamplerConfig("euler", steps=1, guidance=1.0)
    film = lambda memory: [
        chunk.frames
        for chunk in Director(model, STORY, sampler=once, memory=memory, pool=PoolConfig(12))
    ]
    kept = film(dataclasses.replace(LONGLIVE, at_cut="keep"))
    changed = [not np.array_equal(a, b) for a, b in zip(film(LONGLIVE), kept, strict=True)]
    assert changed == [False, False, True, True]


def test_a_small_pool_gives_what_a_large_one_does(model):
    """Where memory reaches no older chunk, recaching must not see one that a pool still holds."""
    small, large = (
        jax.device_get(open_shot(model, *committed(model, LONGLIVE, 6, pool))[0].cache)
        for pool in (LONGLIVE.smallest_pool(3), 18)
    )
    assert sorted(small.chunk.tolist()) == [0, 3, 4, 5]
    for chunk in (0, 3, 4, 5):
        np.testing.assert_allclose(
            frames_at(small, chunk), frames_at(large, chunk), rtol=1e-5, atol=1e-6
        )


def test_a_measured_film_is_cut_where_its_story_is_and_only_alone(model):
    """Films of one batch share their pool's slots."""
    world = WorldConfig.base()
    sizes = dataclasses.replace(model.transformer.config, text_len=64)
    longer = random_weights(lambda key: Transformer(sizes, key=key), 0)
    engine = BatchRollout(dataclasses.replace(model, transformer=longer), world, model.sampler)
    stories = stories_apart(world, 0, 2)
    starts = [{shot.start_chunk for shot in story.shots} for story in stories]
    assert starts[0] != starts[1]

    memory = MemoryConfig("sink", window_chunks=1, memory_frames=1, at_cut="flush")
    size = latent_size(engine.model, world.height, world.width)
    chunks = lambda films: [jnp.zeros((films, 3, *size, 16))] * world.chunks
    contexts = engine.prompts(stories[:1])
    state = engine.history(chunks(1), stories[:1], contexts, memory)
    left = range(max(starts[0]) - 1, world.chunks)  # the chunk before the last cut, and those after
    assert {*state.cache.chunk.tolist()} == {-1, 0, *left}
    with pytest.raises(UsageError, match=r"make them one by one \(batch 1\)"):
        engine.history(chunks(2), stories, engine.prompts(stories), memory)
