"""The pool: eviction by chunks, commits in place, one compilation, flat memory over a long film."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import SMALLEST_SIZES as CONFIG
from tiny_models import random_weights

from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.pool import check_pool, frames_wanted
from causalcine_jax.film.rollout import chunk_velocity, commit_chunk
from causalcine_jax.models import dit
from causalcine_jax.models.cache.eviction import slot_for
from causalcine_jax.models.cache.kv_cache import KVCache, write


def empty(frames, chunk_frames=3):
    return KVCache.empty(CONFIG, 1, frames, 4, chunk_frames)


def test_eviction_takes_the_oldest_but_never_the_sink_nor_the_next_window():
    memory = MemoryConfig(window_chunks=2, memory_frames=4)  # the sink is ceil(4 / 3) = 2 chunks
    cache = empty(memory.smallest_pool(3) + 3)
    shape = (CONFIG.num_layers, 1, 3, 4, CONFIG.num_heads, CONFIG.head_dim)
    held = []

    @jax.jit
    def commit(cache, i):
        slot, keys = slot_for(cache, i, memory), jnp.full(shape, i, jnp.float32)
        return write(cache, slot, i, keys, -keys)

    for i in range(12):
        cache = commit(cache, np.int32(i))
        chunks, k, descriptors = map(np.asarray, (cache.chunk, cache.k, cache.descriptors))
        held.append(sorted(int(t) for t in chunks if t >= 0))
        for chunk in held[-1]:
            at = int(np.argmax(chunks == chunk)) * 3
            assert (k[:, :, at : at + 3] == chunk).all()
            assert (descriptors[:, :, at : at + 3] == chunk).all()
    assert held[5] == [0, 1, 2, 3, 4, 5]
    assert held[6] == [0, 1, 3, 4, 5, 6]  # 2 is the oldest outside the sink
    assert held[11] == [0, 1, 8, 9, 10, 11]


def test_a_chunk_committed_again_replaces_itself():
    memory = MemoryConfig(window_chunks=1, memory_frames=3)
    cache = empty(12)
    cache = KVCache(
        cache.k, cache.v, cache.descriptors, jnp.asarray([0, 1, 2, -1], jnp.int32), cache.usage
    )
    slot = jax.jit(lambda cache, i: slot_for(cache, i, memory))
    assert [int(slot(cache, np.int32(i))) for i in (2, 3)] == [2, 3]


def committed_film():
    model = random_weights(lambda key: dit.Transformer(CONFIG, key=key), 0)
    text = jax.jit(dit.text_keys_values)(model, np.ones((1, 1, 3, CONFIG.text_dim), np.float32))
    return model, text, jax.device_put(np.ones((1, 3, 4, 4, CONFIG.in_dim), np.float32))


def test_a_commit_aliases_its_buffers_and_a_step_does_not_copy_the_pool():
    memory = MemoryConfig(window_chunks=1, memory_frames=3)
    model, text, latents = committed_film()
    cache = empty(1500)
    commit = jax.jit(
        lambda cache, i: commit_chunk(model, cache, latents, text, i, memory=memory),
        donate_argnums=0,
    )
    analysis = commit.lower(cache, jnp.int32(0)).compile().memory_analysis()
    assert analysis.alias_size_in_bytes >= cache.bytes
    assert analysis.temp_size_in_bytes < cache.bytes
    step = jax.jit(
        lambda cache, i: chunk_velocity(model, cache, latents, 500.0, text, i, memory=memory)
    )
    pool = cache.bytes
    assert step.lower(cache, jnp.int32(0)).compile().memory_analysis().temp_size_in_bytes < pool


def test_one_compilation_and_flat_memory_over_two_thousand_chunks():
    memory = MemoryConfig(window_chunks=1, memory_frames=3)
    model, text, latents = committed_film()
    cache = empty(memory.smallest_pool(3))
    commit = jax.jit(
        lambda cache, i: commit_chunk(model, cache, latents, text, i, memory=memory),
        donate_argnums=0,
    )
    live = []
    for i in range(2000):
        cache = commit(cache, np.int32(i))
        if i in (100, 1999):
            gc.collect()
            live.append(sum(x.nbytes for x in jax.live_arrays()))
    assert commit._cache_size() == 1
    assert live[0] == live[1]
    assert sorted(cache.chunk.tolist()) == [0, 1998, 1999]
    assert bool(jnp.isfinite(cache.k).all())


def test_pools_that_cannot_work_are_refused():
    memory = MemoryConfig()
    assert memory.smallest_pool(3) == 18 and frames_wanted(memory, 3, 20) == 60
    assert MemoryConfig("none").smallest_pool(3) == 12  # nothing is retrieved, so no sink is kept
    check_pool(18, 20, memory, 3)
    check_pool(12, 4, memory, 3)  # the whole film fits: nothing is ever evicted
    for asked, words in [(15, "too small"), (16, "whole chunks"), (0, "whole chunks")]:
        with pytest.raises(UsageError, match=words):
            check_pool(asked, 20, memory, 3)
    with pytest.raises(UsageError, match="at least 18"):
        frames_wanted(memory, 3, None)
    with pytest.raises(UsageError, match="route_clean=False"):
        check_pool(30, 20, MemoryConfig(route_clean=False), 3)
    with pytest.raises(UsageError, match="whole chunks"):
        empty(10)
