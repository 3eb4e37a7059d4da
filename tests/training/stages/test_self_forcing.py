"""The student's rollout in training is that of generation; one packed pass has its gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import ROLLOUT_SIZES as CONFIG
from tiny_models import random_weights

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.diffusion.solvers import schedule
from causalcine_jax.film import rollout
from causalcine_jax.film.state import noise_of
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer
from causalcine_jax.training.stages.self_forcing import (
    SelfForcingConfig,
    generated,
    student_rollout,
)

MEMORY = MemoryConfig("camr", window_chunks=1, memory_frames=2)
FRAME = (4, 6, 4)
CHUNK, CHUNKS, TOKENS = 2, 4, 6
SHOTS = jax.device_put(np.array([[0, 0, 1, 1], [0, 1, 1, 2]], np.int32))
KEY = jax.random.key(5)


@pytest.fixture(scope="module")
def model():
    return random_weights(lambda key: Transformer(CONFIG, key=key), 0)


@pytest.fixture(scope="module")
def text():
    return np.random.default_rng(1).standard_normal((2, 3, 5, CONFIG.text_dim), np.float32)


@functools.partial(jax.jit, static_argnames="config")
def films(model, text, key, config):
    return student_rollout(model, text, SHOTS, FRAME, key, config, PassConfig(MEMORY, CHUNK))


def empty_pool():
    return KVCache.empty(CONFIG, 2, CHUNK * CHUNKS, TOKENS, CHUNK)


def relative(a, b):
    a, b = np.asarray(a), np.asarray(b)
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_student_rollout_equals_the_rollout_of_generation(model, text):
    """Moves of `film.rollout`, chunk by chunk, with the same noise.

    With the last step as exit every film is the same.
    """
    config = SelfForcingConfig(steps=3, exit="last")
    made = jax.tree.map(np.asarray, films(model, text, KEY, config))
    pool, embed = jax.jit(empty_pool)(), jax.jit(rollout.embed_prompt)
    draw = jax.jit(lambda i: noise_of(jax.random.split(KEY)[1], i, (2, CHUNK, *FRAME)))
    for index in range(CHUNKS):
        i = jax.device_put(np.int32(index))
        context = embed(model, text[np.arange(2), np.asarray(SHOTS)[:, index]])
        noise, key = draw(i)
        settings = {"sampler": config.sampler, "memory": MEMORY}
        x0, _ = rollout.denoise(model, pool, noise, context, i, key, **settings)
        pool = rollout.commit(model, pool, x0, context, i, memory=MEMORY)
        assert relative(made.x0[:, CHUNK * index : CHUNK * (index + 1)], x0) <= 1e-5
    assert relative(made.pool.k, pool.k) <= 1e-5
    assert np.array_equal(made.pool.chunk, pool.chunk)


def differentiated_rollout(model, text, exit_step, config, noise):
    """The films, differentiated through: only every chunk's exit step carries gradient."""
    table, frozen = schedule(config.sampler), jax.lax.stop_gradient(model)
    sigmas, times = jnp.asarray(table.sigmas, jnp.float32), jnp.asarray(table.times)

    def chunk(pool, inputs):
        index, fresh = inputs
        step = lambda model, x, i: (
            x
            - sigmas[i]
            * rollout.chunk_velocity(model, pool, x, times[i], context(model), index, memory=MEMORY)
        )
        context = lambda model: rollout.embed_prompt(model, text[jnp.arange(2), SHOTS[:, index]])
        x = fresh[0]
        for i in range(exit_step):
            x = jax.lax.stop_gradient(
                (1 - sigmas[i + 1]) * step(frozen, x, i) + sigmas[i + 1] * fresh[i + 1]
            )
        x0 = step(model, x, exit_step)
        history = rollout.commit_chunk(
            frozen, pool, jax.lax.stop_gradient(x0), context(frozen), index, memory=MEMORY
        )
        return jax.lax.stop_gradient(history), x0

    _, x0 = jax.lax.scan(chunk, empty_pool(), (jnp.arange(CHUNKS, dtype=jnp.int32), noise))
    return jnp.moveaxis(x0, 0, 1).reshape(2, CHUNK * CHUNKS, *FRAME)


@functools.partial(jax.jit, static_argnums=1)
def noises(key, config):
    """The rollout's noise: per chunk what it starts from, and what each step adds."""

    def chunk(index):
        start, solver = jax.random.split(jax.random.fold_in(jax.random.split(key)[1], index))
        keys = [start, *(jax.random.fold_in(solver, i) for i in range(config.steps - 1))]
        return jnp.stack([jax.random.normal(k, (2, CHUNK, *FRAME)) for k in keys])

    return jnp.stack([chunk(index) for index in range(CHUNKS)])


WEIGHT = np.random.default_rng(2).standard_normal((2, CHUNK * CHUNKS, *FRAME), np.float32)
CONFIG_OF_FRAMES = {frames: SelfForcingConfig(steps=3, grad_frames=frames) for frames in (0, 4)}


@functools.partial(jax.jit, static_argnames=("config", "remat"))
def packed(model, text, made, weight, config, remat=False):
    """The last frames in one pass, and the gradient of their weighted sum in model and text."""
    x, pull = jax.vjp(
        lambda m, p: generated(m, made, p, SHOTS, config, PassConfig(MEMORY, CHUNK, int(remat))),
        model,
        text,
    )
    return x, flat(pull(weight))


def flat(tree):
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def test_one_packed_pass_has_the_gradient_of_the_rollout(model, text):
    config = CONFIG_OF_FRAMES[0]
    made = films(model, text, KEY, config)
    exit_step = int(made.exit)
    assert exit_step == 1  # neither the first nor the last step

    @jax.jit
    def by_brute_force(model, text, noise):
        x, pull = jax.vjp(
            lambda m, p: differentiated_rollout(m, p, exit_step, config, noise), model, text
        )
        return x, flat(pull(WEIGHT))

    x, expected = by_brute_force(model, text, noises(KEY, config))
    again, ours = packed(model, text, made, WEIGHT, config)
    assert relative(made.x0, x) <= 1e-5 and relative(again, x) <= 1e-5
    assert relative(ours, expected) <= 1e-5


@pytest.mark.parametrize("start", [0, 1, 2])
def test_a_windows_frames_alone_have_their_part_of_the_gradient(model, text, start):
    made = films(model, text, KEY, CONFIG_OF_FRAMES[0])
    made = dataclasses.replace(made, start=jax.device_put(np.int32(start)))
    inside = slice(CHUNK * start, CHUNK * start + 4)
    weight = np.zeros_like(WEIGHT)
    weight[:, inside] = WEIGHT[:, inside]
    x, expected = packed(model, text, made, weight, CONFIG_OF_FRAMES[0])
    part, ours = packed(model, text, made, WEIGHT[:, inside], CONFIG_OF_FRAMES[4], remat=True)
    assert part.shape[1] == 4 and relative(part, np.asarray(x)[:, inside]) <= 1e-5
    assert relative(ours, expected) <= 1e-5
    assert np.linalg.norm(ours) > 0


def test_exits_and_windows_are_drawn_evenly():
    """What is drawn is a function of the key alone, so that every process draws the same."""
    config, keys = (
        SelfForcingConfig(steps=4, grad_frames=21),
        jax.random.split(jax.random.key(0), 4000),
    )
    each = lambda draw, keys: np.asarray(jax.jit(jax.vmap(draw))(keys))
    counts = np.bincount(each(config.exit_step, keys), minlength=4)
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(4000 * 3 / 16))  # five standard deviations
    starts = each(lambda key: config.grad_start(key, 20, 3), keys)
    assert set(starts) == set(range(14))
    trained = np.array([np.mean((starts <= chunk) & (chunk < starts + 7)) for chunk in range(20)])
    # Places -6..19 are drawn. Every chunk is inside at least 7 of the 26, and none is inside twice
    # as many.
    assert trained.min() > 7 / 26 - 0.04 and trained.max() < 13 / 26 + 0.04
    assert int(SelfForcingConfig(grad_frames=0).grad_start(keys[0], 20, 3)) == 0
    assert set(each(SelfForcingConfig(exit="last").exit_step, keys[:9])) == {3}


def test_earlier_exits_leave_more_noise(model, text):
    config = CONFIG_OF_FRAMES[0]
    made = [films(model, text, jax.random.key(seed), config) for seed in range(6)]
    exits = np.array([int(each.exit) for each in made])
    assert len(set(exits)) > 1
    table = schedule(config.sampler)
    for each in made:
        # x_t of the first step is pure noise. Later it is the guess of the step before, under
        # sigma of noise.
        assert np.std(each.xt) >= 0.8 * table.sigmas[int(each.exit)]
        assert np.all(np.isfinite(each.x0))


def test_context_noise_changes_what_later_chunks_see_and_nothing_else(model, text):
    config = SelfForcingConfig(steps=3, exit="last")
    clean, noised = (
        jax.tree.map(
            np.asarray, films(model, text, KEY, dataclasses.replace(config, context_noise=t))
        )
        for t in (0.0, 100.0)
    )
    assert np.array_equal(clean.x0[:, :CHUNK], noised.x0[:, :CHUNK])
    assert relative(noised.x0[:, CHUNK:], clean.x0[:, CHUNK:]) > 1e-4
    assert relative(noised.pool.k[:, :, :CHUNK], clean.pool.k[:, :, :CHUNK]) > 1e-4


def test_faults_are_all_named():
    faults = list(
        SelfForcingConfig(
            step_list=(1000.0, 500.0, 750.0), exit="randm", grad_frames=-3, context_noise=1000
        ).faults()
    )
    assert len(faults) == 4
    assert "step_list must fall" in faults[0] and "did you mean 'random'" in faults[1]
    assert not list(SelfForcingConfig(step_list=(1000.0, 937.5, 2500 / 3, 625.0)).faults())


def test_the_default_steps_are_those_of_self_forcing():
    np.testing.assert_allclose(
        SelfForcingConfig().sampler.times, [1000, 937.5, 2500 / 3, 625], rtol=1e-6
    )
