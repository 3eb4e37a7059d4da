"""A TPU's gather of a pool's frames: the kernel copies the given rows; a pass with it is equal."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import POOL_SIZES as CONFIG
from tiny_models import random_weights

from causalcine_jax.config import MemoryConfig
from causalcine_jax.film.rollout import chunk_pass, commit_chunk, embed_prompt, segment
from causalcine_jax.models.attention import segments
from causalcine_jax.models.cache import frame_gather, history, kv_cache
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer

MEMORY = MemoryConfig(window_chunks=1, memory_frames=3)
FILMS, CHUNKS = 2, 4


@pytest.mark.parametrize("heads", [3, 4, 8])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.int8])
def test_the_kernel_copies_the_rows_it_is_asked_for(heads, dtype, monkeypatch):
    monkeypatch.setattr(frame_gather, "BLOCK", 2**12)  # a frame in several blocks
    rng = np.random.default_rng(0)
    stored = rng.integers(-100, 100, (5, 24, heads, 128)).astype(dtype)
    rows = np.array([4, 0, 4, 2], np.int32)
    np.testing.assert_array_equal(
        frame_gather.gather_frames(*jax.device_put((stored, rows)), interpret=True), stored[rows]
    )


@pytest.mark.parametrize("kv_dtype", ["same", "int8"])
def test_a_pass_over_a_pool_that_is_handed_over_whole_is_the_same_pass(kv_dtype, monkeypatch):
    model = random_weights(lambda key: Transformer(CONFIG, key=key), 0)
    text = jax.jit(embed_prompt)(model, np.ones((FILMS, 3, CONFIG.text_dim), np.float32))
    rng = np.random.default_rng(1)
    x = rng.standard_normal((CHUNKS + 1, FILMS, 3, 4, 8, CONFIG.in_dim), np.float32)
    pool = KVCache.empty(CONFIG, FILMS, 12, 8, kv_dtype=kv_dtype)
    commit = jax.jit(lambda pool, x, i: commit_chunk(model, pool, x, text, i, memory=MEMORY))
    for i in range(CHUNKS):
        pool = commit(pool, x[i], np.int32(i))

    def velocity():
        out = jax.jit(
            lambda: chunk_pass(
                model,
                pool,
                segment(jnp.asarray(x[CHUNKS]), 500.0, jnp.int32(CHUNKS)),
                text,
                MEMORY,
                keep_field=True,
            )
        )()
        return out.velocity, out.field.frame

    assert pool.layers().layer is not None  # on a CPU, whose field grows
    grown = velocity()
    on = lambda name: [
        monkeypatch.setattr(module, "platform", lambda: name)
        for module in (kv_cache, history, segments)
    ]
    on("gpu")
    assert pool.layers().layer is None
    usual = velocity()
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), grown, usual)
    on("tpu")
    assert (
        pool.layers().layer is None
    )  # heads narrower than a register: the kernel would have the pool turned round
    monkeypatch.setattr(frame_gather, "LANES", CONFIG.head_dim)
    monkeypatch.setattr(
        frame_gather, "gather_frames", partial(frame_gather.gather_frames, interpret=True)
    )
    assert pool.layers().layer is not None
    assert (
        pool.layers(readers=2).layer is None
    )  # many segments gather together, and are learned from
    jax.tree.map(np.testing.assert_array_equal, velocity(), usual)
