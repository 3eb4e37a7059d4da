"""Memory guidance: what memory changes in a velocity is strengthened, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import pytest
from tiny_models import random_weights
from tiny_training import tiny_config

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film import rollout
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer

MEMORY, G = MemoryConfig("camr", 1, 2), 0.75
CHUNKS, SHAPE = 4, (2, 3, 4, 4, 16)


@pytest.fixture(scope="module")
def film():
    """A model, a pool of three committed chunks of two films, and their prompts."""
    config = tiny_config().transformer
    model = random_weights(lambda key: Transformer(config, key=key), 0)
    text = jax.random.normal(jax.random.key(1), (2, 4, config.text_dim))
    prompt = jax.jit(rollout.embed_prompt)(model, text)
    pool = KVCache.empty(config, 2, 3 * CHUNKS, 4)
    for chunk in range(CHUNKS - 1):
        latents = jax.random.normal(jax.random.key(2 + chunk), SHAPE)
        pool = rollout.commit(model, pool, latents, prompt, jnp.int32(chunk), memory=MEMORY)
    return model, pool, prompt


def one_step(film, chunk: int, memory: MemoryConfig, memory_guidance: float):
    """x0 of a single Euler step from pure noise: noise - v."""
    model, pool, prompt = film
    sampler = SamplerConfig("euler", 1, 1.0, 1.0, memory_guidance=memory_guidance)
    noise = jax.random.normal(jax.random.key(9), SHAPE)
    x0, _ = rollout.denoise(
        model, pool, noise, prompt, jnp.int32(chunk), jax.random.key(0),
        sampler=sampler, memory=memory,
    )  # fmt: skip
    return x0


def test_a_velocity_moves_away_from_the_one_without_memory(film):
    step = functools.partial(one_step, film, CHUNKS - 1)
    with_memory, without = step(MEMORY, 0.0), step(MemoryConfig("none", 1), 0.0)
    assert float(jnp.abs(with_memory - without).max()) > 1e-2
    expected = with_memory + G * (with_memory - without)
    assert float(jnp.abs(step(MEMORY, G) - expected).max()) < 1e-4


@pytest.mark.parametrize(
    ("chunk", "memory"), [(1, MEMORY), (CHUNKS - 1, MemoryConfig("none", 1))], ids=["early", "none"]
)
def test_nothing_changes_where_memory_holds_nothing(film, chunk, memory):
    guided, plain = (one_step(film, chunk, memory, g) for g in (G, 0.0))
    assert jnp.array_equal(guided, plain)


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf"), "much"])
def test_values_that_are_none_are_refused(value):
    with pytest.raises(UsageError, match="memory_guidance must be from 0 to 1000"):
        SamplerConfig(memory_guidance=value)
