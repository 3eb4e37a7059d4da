"""A pool quantised to one byte: rounding by hand, a close rollout, a quarter of the bytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import POOL_SIZES as CONFIG
from tiny_models import mesh_of_nothing, random_weights, tiny_model

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film.rollout import chunk_pass, commit_chunk, embed_prompt, segment
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.cache.quantised import Quantised, restored, stored_as, zeros
from causalcine_jax.models.dit import Transformer
from causalcine_jax.planning.memory_plan import MemoryRequest, memory_plan
from causalcine_jax.story import Shot, Story

MEMORY = MemoryConfig(window_chunks=1, memory_frames=3)
TOKENS, FILMS = 8, 2


def test_rounding_by_hand():
    frames = np.zeros((1, 2, 2, 2), np.float32)  # f, p, h, d
    frames[0, :, 0] = [[2.54, -0.011], [1.0, 0.009]]  # of the second head nothing but zeros
    stored = stored_as(zeros(frames.shape, jnp.float32, "int8"), jnp.asarray(frames))
    assert stored.values.dtype == jnp.int8 and stored.values[0, :, 0].tolist() == [
        [127, -1],
        [50, 0],
    ]
    np.testing.assert_allclose(stored.scale, [[0.02, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(restored(stored)[0, :, 0], [[2.54, -0.02], [1.0, 0.0]], rtol=1e-6)
    assert not restored(stored)[0, :, 1].any()
    eighths = stored_as(zeros(frames.shape, jnp.float32, "fp8"), jnp.asarray(frames))
    np.testing.assert_allclose(restored(eighths), frames, rtol=1 / 16)
    whole = jnp.asarray(frames)
    assert restored(stored_as(zeros(frames.shape, jnp.float32, "same"), whole)) is whole


def moves():
    """commit and velocity of a film under one prompt; both take the pool first."""
    model = random_weights(lambda key: Transformer(CONFIG, key=key), 0)
    text = jax.jit(embed_prompt)(model, np.ones((FILMS, 3, CONFIG.text_dim), np.float32))
    commit = lambda cache, x, i: commit_chunk(model, cache, x, text, i, memory=MEMORY)
    velocity = lambda cache, x, i: chunk_pass(
        model, cache, segment(x, 500.0, i), text, MEMORY, keep_field=True
    )
    return commit, velocity


def empty(frames, kv_dtype):
    return KVCache.empty(CONFIG, FILMS, frames, TOKENS, kv_dtype=kv_dtype)


def test_a_rollout_differs_a_little_takes_a_quarter_and_is_one_program_in_place():
    commit, velocity = moves()
    rng = np.random.default_rng(1)
    x = rng.standard_normal((6, FILMS, 3, 4, 8, CONFIG.in_dim), np.float32)
    outs, pools = {}, {}
    for kv_dtype in ("same", "int8"):
        cache = empty(15, kv_dtype)
        step = jax.jit(commit, donate_argnums=0).lower(cache, x[0], np.int32(0)).compile()
        assert step.memory_analysis().alias_size_in_bytes >= cache.bytes
        for i in range(5):
            cache = step(cache, x[i], np.int32(i))
        outs[kv_dtype], pools[kv_dtype] = jax.jit(velocity)(cache, x[5], np.int32(5)), cache
    exact = np.asarray(outs["same"].velocity)
    pool = pools["int8"]
    assert isinstance(pool.k, Quantised) and pool.descriptors.dtype == jnp.float32
    # What the first layer stores and retrieves does not depend on history, so it is the same.
    first = lambda array: np.asarray(array)[0]
    np.testing.assert_array_equal(first(pool.descriptors), first(pools["same"].descriptors))
    np.testing.assert_array_equal(first(outs["int8"].field.frame), first(outs["same"].field.frame))
    off = float(np.linalg.norm(outs["int8"].velocity - exact) / np.linalg.norm(exact))
    assert 0 < off < 0.02, off
    numbers = pools["same"].k.size
    assert pools["same"].bytes - pool.bytes == 2 * (
        3 * numbers - 4 * numbers // (TOKENS * CONFIG.head_dim)
    )
    assert empty(15, "fp8").bytes == pool.bytes


@pytest.mark.parametrize("kv_dtype", ["same", "int8"])
def test_a_mesh_cuts_a_pool_and_its_scales_by_heads(kv_dtype):
    commit, velocity = moves()
    x = jax.ShapeDtypeStruct((FILMS, 3, 4, 8, CONFIG.in_dim), jnp.float32)
    with jax.sharding.use_abstract_mesh(mesh_of_nothing(1, 2)):
        pool = jax.eval_shape(functools.partial(empty, 9, kv_dtype))
        after = jax.eval_shape(commit, pool, x, jnp.int32(3))
        assert jax.eval_shape(velocity, pool, x, jnp.int32(3)).velocity.shape == x.shape
    shapes = lambda tree: [(a.shape, a.dtype) for a in jax.tree.leaves(tree)]
    assert shapes(after) == shapes(pool)


def test_plans_and_films_count_what_is_stored():
    half, whole = (
        memory_plan(MemoryRequest("wan-14b", kv_dtype=kv_dtype)) for kv_dtype in ("int8", "same")
    )
    scales = 2 * 40 * 40 * 4  # of k and v, per layer and head
    assert half.kv_per_frame == whole.kv_per_frame // 2 + scales
    story, model = Story((Shot("Mia waves.", chunks=4),)), tiny_model()
    films = {
        kv_dtype: Director(model, story, pool=PoolConfig(gb=1e-4, kv_dtype=kv_dtype))
        for kv_dtype in ("same", "int8")
    }
    assert (
        films["int8"].settings.pool.frames > 3 * films["same"].settings.pool.frames
        and films["int8"].pool_bytes <= 100_000
    )
    with pytest.raises(UsageError, match="unknown kv_dtype 'int4', did you mean 'int8'"):
        PoolConfig(kv_dtype="int4")
