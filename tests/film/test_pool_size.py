"""A pool given in bytes: as many chunks as fit; refused if too small or too large for memory."""

import pytest
from tiny_models import tiny_model

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film.pool import GB, check_room, device_memory, in_steps
from causalcine_jax.planning.memory_plan import MemoryRequest, memory_plan
from causalcine_jax.story import Shot, Story

STORY = Story((Shot("Mia waves.", chunks=4),))


def test_a_film_keeps_as_many_chunks_as_fit_its_gigabytes():
    model = tiny_model()
    chunk = Director(model, STORY, pool=PoolConfig(12)).pool_bytes // 4
    director = Director(model, STORY, pool=PoolConfig(gb=5.9 * chunk / GB))
    assert (director.settings.pool.frames, director.pool_bytes) == (15, 5 * chunk)
    with pytest.raises(
        UsageError,
        match=f"a pool of {2 * chunk:,} bytes is too small for this field: "
        f".* 9 frames .* {3 * chunk:,} bytes",
    ):
        Director(model, STORY, pool=PoolConfig(gb=2 * chunk / GB))
    with pytest.raises(UsageError, match="pool_frames=12 and pool_gb=1 both"):
        PoolConfig(12, 1)
    with pytest.raises(
        UsageError, match=r"takes 9,999,999,9..,... bytes, 1e\+04 GB, and memory has room for"
    ):
        Director(model, STORY, pool=PoolConfig(gb=10_000))
    with pytest.raises(UsageError, match="nothing may be evicted"):
        Director(
            model,
            STORY,
            memory=MemoryConfig(route_clean=False, window_chunks=1, memory_frames=2),
            pool=PoolConfig(gb=3 * chunk / GB),
        )


def test_a_device_that_tells_counts_what_is_left(monkeypatch):
    class Device:
        platform = "gpu"
        memory_stats = staticmethod(lambda: {"bytes_limit": 1000, "bytes_in_use": 600})

    monkeypatch.setattr("jax.local_devices", lambda: [Device])
    assert device_memory() == 400
    check_room(400)
    with pytest.raises(UsageError, match=r"takes 401 bytes, .* room for 400"):
        check_room(401)


def test_a_plan_says_how_many_frames_a_size_holds():
    plan = memory_plan(MemoryRequest("wan-14b", pool_gb=80))
    (pool,) = (line.bytes for line in plan.lines if line.name == "pool of history")
    assert (
        plan.request.pool_frames % 3 == 0 and 80 * GB - pool < 3 * pool / plan.request.pool_frames
    )
    with pytest.raises(UsageError, match="too small for this field: it needs at least 18 frames"):
        memory_plan(MemoryRequest("wan-14b", pool_gb=20))
    with pytest.raises(
        UsageError, match="pool_frames=60 and pool_gb=80 both set the pool's size: give one of them"
    ):
        memory_plan(MemoryRequest("wan-14b", pool_gb=80, pool_frames=60))


def test_films_of_other_lengths_have_the_same_pool_where_little_memory_is_lost_by_it():
    assert [in_steps(frames, 3, 2**20) for frames in (3, 60, 72, 75)] == [72, 72, 72, 144]
    assert [in_steps(frames, 3, 2**26) for frames in (9, 12, 15)] == [
        12,
        12,
        24,
    ]  # a quarter of what may be lost: steps of four chunks
    assert in_steps(57, 3, 2**30) == 57
    model = tiny_model()
    sizes = {
        Director(model, Story((Shot("Mia waves.", chunks=chunks),))).pool_bytes
        for chunks in (1, 5, 20)
    }
    assert len(sizes) == 1
    assert (
        Director(model, STORY, pool=PoolConfig(12)).settings.pool.frames == 12
    )  # what is asked for is had
    whole = MemoryConfig(route_clean=False, window_chunks=1, memory_frames=2)
    assert (
        Director(model, STORY, memory=whole).settings.pool.frames == 12
    )  # its chunks would attend to the empty slots
