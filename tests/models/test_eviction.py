"""Which chunk a full pool drops, by hand: the oldest unused one, never one still retrieved."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import SMALLEST_SIZES as CONFIG
from tiny_models import random_weights, tiny_model

from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.rollout import commit_chunk
from causalcine_jax.models import dit
from causalcine_jax.models.cache.eviction import RATE, counted, slot_for
from causalcine_jax.models.cache.kv_cache import KVCache, write
from causalcine_jax.models.receptive_field import ReceptiveField, receptive_field

MEMORY = MemoryConfig(
    window_chunks=1, memory_frames=1, eviction="least_retrieved"
)  # the sink is one chunk


def test_what_memory_keeps_retrieving_outlives_the_oldest():
    """A pool of 5 one-frame chunks: the sink 0, the window, and three.

    Queries always prefer chunk 2, otherwise the newest available.
    """
    width = (CONFIG.num_heads, CONFIG.head_dim)
    key_of = lambda i: np.full(
        (CONFIG.num_layers, 2, 1, 1, *width), 9.0 if i == 2 else 0.01 * i, np.float32
    )

    def film(memory):
        @jax.jit
        def commit(cache, index, key):
            choose = lambda keys: receptive_field(
                jnp.ones((1, *width)), keys, cache.film_index(), index, memory, 1
            )
            field = jax.tree.map(
                lambda a: a[:, None], jax.vmap(jax.vmap(choose))(cache.descriptors)
            )  # [l, s, b, r]
            cache, newcomer = counted(cache, field, index, memory)
            return write(cache, slot_for(cache, index, memory), index, key, key, newcomer)

        cache, held, usage = KVCache.empty(CONFIG, 2, 5, 1, chunk_frames=1), [], []
        for i in range(8):
            cache = commit(cache, np.int32(i), key_of(i))
            held.append(sorted(cache.chunk.tolist()))
            usage.append(dict(zip(cache.chunk.tolist(), cache.usage.tolist(), strict=True)))
        return held, usage

    held, usage = film(MEMORY)
    assert held[4] == [0, 1, 2, 3, 4]  # full
    # Chunk 2 sees 0, 3 sees 1: the newest outside the window. From chunk 4 on, memory retrieves
    # only chunk 2.
    assert usage[2] == pytest.approx({-1: 0, 0: RATE, 1: 0, 2: RATE})
    assert usage[3][1] == pytest.approx(RATE) and usage[3][0] == pytest.approx(0.9 * RATE)
    assert usage[3][3] == pytest.approx(
        0.95 * RATE
    )  # a newcomer begins with the mean of what memory could have had
    assert usage[4][2] == pytest.approx(0.9 * RATE + RATE) and usage[4][1] == pytest.approx(
        0.9 * RATE
    )
    assert held[5] == [0, 2, 3, 4, 5]  # 0.081 of 1 is less than 0.0855 of 3
    assert 1 not in held[7] and 2 in held[7]
    assert usage[7][2] == max(usage[7].values())
    oldest, _ = film(dataclasses.replace(MEMORY, eviction="oldest"))
    assert oldest[5:] == [[0, 2, 3, 4, 5], [0, 3, 4, 5, 6], [0, 4, 5, 6, 7]]


def test_the_least_used_goes_and_of_equals_the_oldest_but_never_sink_or_window():
    cache = KVCache.empty(CONFIG, 1, 6, 1, chunk_frames=1)
    holding = lambda chunks, usage: dataclasses.replace(
        cache, chunk=jnp.asarray(chunks, jnp.int32), usage=jnp.asarray(usage, jnp.float32)
    )
    slot = lambda pool, index: int(
        slot_for(pool, jnp.int32(index), dataclasses.replace(MEMORY, window_chunks=2))
    )
    assert (
        slot(holding([0, 5, 6, 7, 8, 9], [0.0, 0.4, 0.2, 0.2, 0.1, 0.0]), 10) == 4
    )  # 0 is the sink, 9 in the next window
    assert (
        slot(holding([0, 7, 6, 5, 8, 9], [0.0, 0.2, 0.2, 0.3, 0.9, 0.0]), 9) == 5
    )  # committed again
    assert slot(holding([0, 7, 6, 5, 8, 9], [0.0, 0.2, 0.2, 0.3, 0.9, 0.5]), 10) == 2
    assert slot(holding([0, 7, -1, 5, 8, 9], [0.0, 0.1, 0.9, 0.1, 0.1, 0.0]), 10) == 2  # empty


def test_usage_is_a_mean_over_layers_films_and_frames():
    pool = KVCache.empty(CONFIG, 2, 12, 1, chunk_frames=3)
    pool = dataclasses.replace(
        pool,
        chunk=jnp.asarray([4, 0, 1, 5], jnp.int32),
        usage=jnp.asarray([0.5, 0.5, 0.0, 0.25], jnp.float32),
    )
    slots = np.zeros(
        (2, 1, 2, 4), np.int32
    )  # of 2 layers and 2 films; slots: chunk 4 is frames 0..2, chunk 0 3..5, chunk 1 6..8
    slots[0, 0, 0], slots[0, 0, 1], slots[1, 0, 0] = (0, 1, 3, 4), (2, 3, 6, 0), (5, 6, 7, 8)
    frame = np.where(np.arange(4) < np.array([[[4, 3]], [[4, 0]]])[..., None], 1, -1)
    field = ReceptiveField(
        jnp.asarray(slots),
        jnp.asarray(slots),
        jnp.asarray(frame),
        jnp.asarray([[[4, 3]], [[4, 0]]], jnp.int32),
    )
    after, newcomer = counted(
        pool, field, jnp.int32(6), MemoryConfig(window_chunks=2, memory_frames=3)
    )
    # Chunks 4 and 5 are the window. Chunk 0 was retrieved as 2 + 1 + 1 of 4 x 3 frames, chunk 1 as
    # 1 + 3.
    assert after.usage.tolist() == pytest.approx([0.5, 0.45 + 0.1 * 4 / 12, 0.1 * 4 / 12, 0.25])
    assert float(newcomer) == pytest.approx((0.45 + 0.2 * 4 / 12) / 2)


def test_evictions_make_the_same_pool_until_it_is_full_in_place():
    model = random_weights(lambda key: dit.Transformer(CONFIG, key=key), 0)
    text = jax.jit(dit.text_keys_values)(model, np.ones((2, 1, 3, CONFIG.text_dim), np.float32))
    latents = np.random.default_rng(1).standard_normal((6, 2, 1, 4, 4, CONFIG.in_dim), np.float32)
    pools = {}
    for eviction in ("oldest", "least_retrieved"):
        memory = dataclasses.replace(MEMORY, eviction=eviction)
        commit = jax.jit(
            lambda cache, x, i, memory=memory: commit_chunk(
                model, cache, x, text, i, memory=memory
            ),
            donate_argnums=0,
        )
        cache, pools[eviction] = KVCache.empty(CONFIG, 2, 4, 4, chunk_frames=1), []
        commit = commit.lower(
            cache, latents[0], np.int32(0)
        ).compile()  # once: it takes no other shapes
        assert commit.memory_analysis().alias_size_in_bytes >= cache.bytes
        for i in range(6):
            cache = commit(cache, latents[i], np.int32(i))
            pools[eviction].append(jax.tree.map(np.array, cache))
    for old, new in zip(pools["oldest"][:4], pools["least_retrieved"][:4], strict=True):
        assert (
            (old.k == new.k).all()
            and (old.v == new.v).all()
            and (old.chunk == new.chunk).all()
            and not old.usage.any()
        )
    assert pools["least_retrieved"][-1].usage.any() and set(pools["least_retrieved"][-1].chunk) >= {
        0,
        5,
    }


def test_an_unknown_eviction_is_refused():
    with pytest.raises(
        UsageError, match="unknown eviction 'newest', known: least_retrieved, oldest"
    ):
        MemoryConfig(eviction="newest")
    assert tiny_model().memory.eviction == "oldest"
