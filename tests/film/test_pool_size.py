"""A pool given in bytes: as many chunks as fit; refused if too small or too large for memory."""

import warnings

import pytest
from tiny_models import tiny_model

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film.pool import (
    GB,
    LATER_FRAMES,
    PoolOutgrown,
    check_room,
    closed_pool_size,
    device_memory,
    eviction_note,
    frames_wanted,
    rounded_up_to_step,
)
from causalcine_jax.film.rollout_functions import RolloutFunctions
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
    with pytest.raises(UsageError, match=r"room for 400: make fewer films at once \(batch\), keep"):
        check_room(401, batched=True)
    with pytest.raises(UsageError, match=r"keep less of it \(pool_frames, pool_gb\), use"):
        check_room(401)


@pytest.mark.parametrize(
    "memory", [MemoryConfig(memory_frames=0), MemoryConfig(memory_frames=3, sink_frames=3)]
)
def test_memory_that_reaches_no_older_frame_needs_the_smallest_pool(memory):
    assert frames_wanted(memory, 3, film_chunks=100) == memory.smallest_pool(3)
    assert eviction_note(9, memory, fps=16) is None


def test_a_plan_says_how_many_frames_a_size_holds():
    plan = memory_plan(MemoryRequest("wan-14b", pool_gb=80))
    (pool,) = (line.bytes for line in plan.lines if line.name == "pool of history")
    assert (
        plan.request.pool_frames % 3 == 0 and 80 * GB - pool < 3 * pool / plan.request.pool_frames
    )
    with pytest.raises(UsageError, match="too small for this field: it needs at least 18 frames"):
        memory_plan(MemoryRequest("wan-14b", pool_gb=20))
    for size in (-1.0, 0.0, 1e300):
        with pytest.raises(
            UsageError, match="pool_gb must be more than 0 and at most 1000000000, not"
        ):
            memory_plan(MemoryRequest("wan-14b", pool_gb=size))
    with pytest.raises(
        UsageError, match="pool_frames=60 and pool_gb=80 both set the pool's size: give one of them"
    ):
        memory_plan(MemoryRequest("wan-14b", pool_gb=80, pool_frames=60))


def test_films_of_other_lengths_have_the_same_pool_where_little_memory_is_lost_by_it():
    assert [rounded_up_to_step(frames, 3, 2**20) for frames in (3, 60, 72, 75)] == [72, 72, 72, 144]
    assert [rounded_up_to_step(frames, 3, 2**26) for frames in (9, 12, 15)] == [
        12,
        12,
        24,
    ]  # a quarter of what may be lost: steps of four chunks
    assert rounded_up_to_step(57, 3, 2**30) == 57
    model = tiny_model()
    closed = RolloutFunctions(closed_pool_size)
    sizes = {
        Director(model, Story((Shot("Mia waves.", chunks=chunks),)), functions=closed).pool_bytes
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


@pytest.mark.parametrize("story", ["A story.", Story((Shot("Mia waves.", chunks=1),))])
def test_a_film_begun_with_little_has_room_for_a_minute_more(story, monkeypatch):
    model = tiny_model()
    director = Director(model, story)
    frames = director.settings.pool.frames
    assert LATER_FRAMES + 3 <= frames < LATER_FRAMES + 100
    assert f"{frames} latent frames, {frames // 4} s of film" in eviction_note(
        frames, model.memory, fps=16
    )
    # A third of the memory that is left, and never less than the field needs.
    of_frame = director.pool_bytes / frames
    for room, expected in ((1, model.memory.smallest_pool(3)), (90 * of_frame, 30)):
        monkeypatch.setattr("causalcine_jax.film.pool.device_memory", lambda room=room: room)
        monkeypatch.setattr("causalcine_jax.film.pool.check_room", lambda size, **_: None)
        assert Director(model, story).settings.pool.frames == expected
    sink = MemoryConfig("sink", 1, 3)
    assert Director(model, story, memory=sink).settings.pool.frames == sink.smallest_pool(3)
    assert eviction_note(9, sink, fps=16) is None


def test_a_film_that_outgrows_a_pool_nobody_asked_for_is_told_of_once(monkeypatch):
    monkeypatch.setattr("causalcine_jax.film.pool.LATER_SHARE", 0)
    model = tiny_model()
    director = Director(model, Story((Shot("Mia waves.", chunks=4),)))
    said = r"outgrows its pool: the pool keeps 12 latent frames, 3 s .* by pool_frames or pool_gb"
    with pytest.warns(PoolOutgrown, match=said) as told:
        director.add_shot("Otto sleeps.", chunks=1)
        director.extend(chunks=1)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Director(model, STORY, pool=PoolConfig(12)).add_shot("Otto sleeps.", chunks=8)
        sink = MemoryConfig("sink", 1, 3)  # what its pool evicts is never seen again
        Director(model, STORY, memory=sink).add_shot("Otto sleeps.", chunks=8)


def test_a_resumed_film_tells_of_its_pool_as_one_that_was_not_interrupted(monkeypatch, tmp_path):
    monkeypatch.setattr("causalcine_jax.film.pool.LATER_SHARE", 0)
    model, story = tiny_model(), Story((Shot("Mia waves.", chunks=4),))
    for name, pool in (("unasked", PoolConfig()), ("asked", PoolConfig(12))):
        director = Director(model, story, pool=pool)
        director.keep_in(tmp_path / name)
        next(director)
        director.close()
    said = r"outgrows its pool: the pool keeps 12 latent frames, 3 s "
    director = Director.resume(tmp_path / "unasked", model)
    with pytest.warns(PoolOutgrown, match=said) as told:
        director.add_shot("Otto sleeps.", chunks=1)
        director.extend(chunks=1)
    assert len(told) == 1
    director.close()
    with pytest.warns(PoolOutgrown, match=said) as told:  # another process has not said it yet
        Director.resume(tmp_path / "unasked", model).extend(chunks=1)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Director.resume(tmp_path / "asked", model).extend(chunks=1)


@pytest.mark.parametrize("policy", ["camr", "sink"])
def test_a_closed_film_has_no_pool_for_more_frames_than_it_has(policy):
    closed, model = RolloutFunctions(closed_pool_size), tiny_model()
    greedy = MemoryConfig(policy, 1, 100_000)
    film = Director(model, STORY, memory=greedy, functions=closed)
    assert 12 <= film.settings.pool.frames <= 72
