"""A pool in host memory: the same film bit by bit for all evictions and dtypes; plans; refusals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import POOL_SIZES as CONFIG
from tiny_models import random_weights, tiny_model

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.film import host_memory, rollout
from causalcine_jax.film.director import Director
from causalcine_jax.film.host_memory import LIMIT, allocate_in_host_memory, check_host_room
from causalcine_jax.film.record_schema import FilmRecord
from causalcine_jax.film.rollout import chunk_pass, commit_chunk, embed_prompt, segment
from causalcine_jax.film_folder.choices import Choices, decide
from causalcine_jax.film_folder.record import Recipe
from causalcine_jax.models.cache.kv_cache import HOST, KVCache
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import pool_forced
from causalcine_jax.planning.memory_plan import MemoryRequest, memory_plan
from causalcine_jax.planning.memory_table import table
from causalcine_jax.story import Shot, Story

MEMORY = MemoryConfig(window_chunks=1, memory_frames=3, eviction="least_retrieved")
TOKENS, FILMS, CHUNKS = 8, 2, 8


def test_a_pass_and_the_pool_after_it_are_those_of_a_pool_on_the_device():
    model = random_weights(lambda key: Transformer(CONFIG, key=key), 0)
    text = jax.jit(embed_prompt)(model, jnp.ones((FILMS, 3, CONFIG.text_dim)))
    x = jax.random.normal(jax.random.key(1), (CHUNKS + 1, FILMS, 3, 4, 8, CONFIG.in_dim))
    commit = jax.jit(
        lambda pool, x, i: commit_chunk(model, pool, x, text, i, memory=MEMORY), donate_argnums=0
    )
    field = jax.jit(
        lambda pool, x, i: (
            chunk_pass(model, pool, segment(x, 500.0, i), text, MEMORY, keep_field=True).field
        )
    )
    empty = lambda copies: KVCache.empty(CONFIG, FILMS, 12, TOKENS, kv_dtype="int8", copies=copies)
    on_device, on_host = empty(None), allocate_in_host_memory(lambda: empty((1, 3)))
    for i in range(CHUNKS):  # twice as many as the pools hold
        on_device, on_host = (commit(pool, x[i], jnp.int32(i)) for pool in (on_device, on_host))
    assert commit._cache_size() == 2
    assert [a.values.sharding.memory_kind for a in (on_host.k, on_host.v)] == [HOST, HOST]
    wants = jax.device_get(
        field(on_host, x[CHUNKS], jnp.int32(CHUNKS)).frame[:, 0]
    )  # [l, b, r], valid throughout
    held = jax.device_get(on_host)
    jax.tree.map(
        np.testing.assert_array_equal,
        dataclasses.replace(held, copies=None),
        jax.device_get(on_device),
    )
    assert_all_is_where_it_says(held)
    copies = np.any(wants[..., None] == held.copies.frame[:, :, None], axis=-1)
    assert (
        copies[..., :3].all() and 0 < copies[..., 3:].sum() < copies[..., 3:].size
    )  # the window; of memory some, and some was brought over
    with pytest.raises(UsageError, match="read by one chunk at a time"):
        several = lambda pool: pool_forced(
            model,
            pool,
            jnp.zeros((FILMS, 6, 4, 8, 4)),
            5.0,
            jnp.ones((FILMS, 1, 3, 6)),
            jnp.zeros((FILMS, 5), jnp.int32),
        )
        jax.eval_shape(several, on_host)


def test_a_chunk_that_sees_itself_alone_needs_nothing_brought_over():
    model = jax.eval_shape(lambda: Transformer(CONFIG, key=jax.random.key(0)))
    memory, copies = MemoryConfig(window_chunks=0, memory_frames=0), (1, 0)
    text = jax.eval_shape(embed_prompt, model, jnp.ones((FILMS, 3, CONFIG.text_dim)))
    pool = jax.eval_shape(lambda: KVCache.empty(CONFIG, FILMS, 6, TOKENS, copies=copies))
    chunk = jnp.zeros((FILMS, 3, 4, 8, CONFIG.in_dim))
    commit = lambda model, pool, text: commit_chunk(
        model, pool, chunk, text, jnp.int32(1), memory=memory
    )
    after = jax.eval_shape(commit, model, pool, text)
    assert after.copies.k.shape == pool.copies.k.shape


def assert_all_is_where_it_says(pool):
    """The device's copies of pool frames equal those on the host, for every layer and film."""
    held = pool.film_index().tolist()
    for layer, film, place in np.argwhere(pool.copies.frame >= 0):
        if (frame := int(pool.copies.frame[layer, film, place])) not in held:
            continue  # evicted since, so no field will hold it
        frame = held.index(frame)
        for stored, copies in ((pool.k, pool.copies.k), (pool.v, pool.copies.v)):
            np.testing.assert_array_equal(
                copies[layer, film, place], stored.values[layer, film, frame]
            )


def test_a_guided_film_that_outgrows_its_pool_is_the_same_film():
    story, model = Story((Shot("Mia waves.", chunks=5),)), tiny_model()
    films = {
        place: Director(model, story, pool=PoolConfig(9, on=place)) for place in ("device", "host")
    }
    made, moves = {"device": list(films["device"])}, (rollout.denoise, rollout.commit)
    before = [move._cache_size() for move in moves]
    made["host"] = list(films["host"])
    assert [move._cache_size() - count for move, count in zip(moves, before, strict=True)] == [1, 1]
    for ours, theirs in zip(made["host"], made["device"], strict=True):
        # On the device a CPU's field grows with its film, and that program rounds otherwise.
        np.testing.assert_allclose(np.int32(ours.frames), np.int32(theirs.frames), atol=1)
        np.testing.assert_array_equal(ours.retrieved, theirs.retrieved)
    assert films["device"].pool_host_bytes == 0
    frame = (
        films["host"].pool_host_bytes // 9 + 2 * 2 * 4
    )  # k, v and, for two layers and histories, its index in the film
    assert films["host"].pool_bytes == films["device"].pool_bytes + (2 * 3 + 2) * frame


def test_choices_and_plans_know_where_a_pool_is():
    story, model = Story((Shot("Mia waves.", chunks=4),)), tiny_model()
    assert decide(Recipe(story, FilmRecord(pool_on="host")), model, Choices()).pool.on == "host"
    assert (
        decide(Recipe(story, FilmRecord(pool_on="host")), model, Choices(pool_on="device")).pool.on
        == "device"
    )
    assert decide(Recipe(story), model, Choices()).pool.on == "device"
    with pytest.raises(UsageError, match="unknown pool_on 'hots', did you mean 'host'"):
        PoolConfig(on="hots")
    here, there = (
        memory_plan(
            MemoryRequest("wan-14b", pool_frames=2400, devices=8, kv_dtype="int8", pool_on=on)
        )
        for on in ("device", "host")
    )
    frame, scales = 2 * 40 * 1560 * 5120, 2 * 40 * 40 * 4
    assert (
        there.total(host=True) == 2 * 2400 * frame
        and there.total(host=True, device=True) == 2 * 2400 * frame // 8
    )
    assert (
        there.total() == here.total() - 2 * (2400 - 17) * frame + 2 * 17 * 40 * 4
        and here.total(host=True) == 0
    )
    assert here.kv_per_frame == there.kv_per_frame == frame + scales
    assert "pool in host memory" in table(there) and "pool in host memory" not in table(here)


def test_a_host_without_room_or_without_such_memory_is_refused(monkeypatch):
    sizes = lambda machine, process: [
        monkeypatch.setattr(host_memory, name, lambda size=size: size)
        for name, size in (("machine_size", machine), ("memory_size", process))
    ]
    sizes(10**13, 10**12)
    with pytest.raises(UsageError, match=r"this process may take 1,000,000,000,000"):
        check_host_room(10**12 + 1)
    sizes(10**12, 10**12)
    with pytest.raises(
        UsageError, match=r"takes 1,000,000,000,001 bytes of host memory, .* has 1,000,000,000,000"
    ):
        check_host_room(10**12 + 1)

    # Eight processes of sixteen are on this machine, where half the pool lies then.
    monkeypatch.setattr(host_memory, "several", lambda: True)
    monkeypatch.setattr(host_memory, "all_gather_text", lambda own: [own, "another"] * 8)
    monkeypatch.setattr(jax, "process_count", lambda: 16)
    monkeypatch.setattr(
        host_memory, "check_all", lambda fault: raise_faults("check", [fault] if fault else [])
    )
    check_host_room(2 * 10**12)
    with pytest.raises(
        UsageError,
        match=r"takes 1,000,000,000,008 bytes of host memory for 8 processes, "
        r".* has 1,000,000,000,000",
    ):
        check_host_room(2 * 10**12 + 16)
    monkeypatch.undo()
    sizes(10**12, 10**12)

    class Device:
        platform, device_kind, kinds = "gpu", "H200", ("pinned_host",)
        addressable_memories = classmethod(
            lambda cls: [type("Memory", (), {"kind": kind}) for kind in cls.kinds]
        )

    monkeypatch.setattr("jax.local_devices", lambda: [Device])
    monkeypatch.setenv(LIMIT, "64")
    with pytest.raises(UsageError, match=f"JAX is allowed 68,719,476,736: set {LIMIT}=95 before"):
        check_host_room(10**11)
    monkeypatch.delenv(LIMIT)
    host_memory.allow_all_host_memory()
    check_host_room(10**11)
    Device.kinds = ("device",)
    with pytest.raises(UsageError, match="H200 has no host memory for its programs to read"):
        check_host_room(1)
