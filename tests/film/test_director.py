"""The director: each chunk's prompt, shots added while it streams, and a film of a tiny model."""

import dataclasses
import gc
import threading
from threading import Event
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import SIZE, WORDS, tiny_model

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film import film_rollout, host_memory, kept_film, rollout, state
from causalcine_jax.film.director import Director
from causalcine_jax.film.film_rollout import FilmRollout
from causalcine_jax.film.model_folder import Model
from causalcine_jax.film.pool import frames_wanted
from causalcine_jax.film.rollout_functions import RolloutFunctions
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.state import ChunkOutput, RolloutState
from causalcine_jax.film.whole_film import WHOLE_FILM
from causalcine_jax.film_folder import filming
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.render.mp4 import FilmWriter
from causalcine_jax.story import Shot, Story


class Paper:
    """Rollout functions that write down what they are asked for; the frames are blank."""

    def __init__(self):
        self.calls = []
        self.functions = RolloutFunctions(self.pool_size, self.start, self.embed, self.roll)

    @staticmethod
    def pool_size(model, settings, film_chunks):
        asked = settings.pool.frames
        return frames_wanted(settings.memory, model.chunk_frames, film_chunks, asked)

    @staticmethod
    def start(model, settings):
        return RolloutState(None, None, 0, jax.random.key(settings.seed))

    def embed(self, model, prompt, settings, negative):
        self.calls.append(("embed", prompt))
        return prompt

    def roll(self, model, state, prompt, settings, *, latents):
        self.calls.append((prompt, state.chunk))
        frames = np.zeros((9 if state.chunk == 0 else 12, 16, 32, 3), np.uint8)
        made = ChunkOutput(frames, jnp.zeros((1, 3, 2, 4, 4)), np.full((1, 5), -1), {})
        return dataclasses.replace(state, chunk=state.chunk + 1), made


def paper_director(story, paper=None, **options):
    transformer = Mock(spec=Transformer, config=SimpleNamespace(text_len=24))
    sampler = SamplerConfig(steps=2, guidance=1.0)
    model = Model(transformer, Mock(spec=VAE), None, WORDS, SIZE, sampler, MemoryConfig())
    return Director(model, story, functions=(paper or Paper()).functions, **options)


def test_each_prompt_is_embedded_once_and_holds_for_its_chunks():
    story = Story((Shot("Mia waves.", chunks=2), Shot("Otto sleeps.", chunks=1)), "A story.")
    director = paper_director(story, paper := Paper())
    chunks = list(director)
    assert paper.calls == [
        ("embed", "A story. Mia waves."), ("A story. Mia waves.", 0), ("A story. Mia waves.", 1),
        ("embed", "A story. Otto sleeps."), ("A story. Otto sleeps.", 2),
    ]  # fmt: skip
    assert [(c.index, c.shot.id, len(c.frames), c.is_cut) for c in chunks] == [
        (0, "s1", 9, False),
        (1, "s1", 12, False),
        (2, "s2", 12, True),
    ]


def test_a_chunk_is_encoded_while_the_next_is_made(tmp_path, monkeypatch):
    asked = [Event() for _ in range(3)]

    class Telling(Paper):
        def roll(self, model, state, *others, **more):
            asked[state.chunk].set()
            return super().roll(model, state, *others, **more)

    director = paper_director(Story((Shot("Mia waves.", chunks=3),)), Telling())

    class Film(FilmWriter):
        def append(self, frames):
            next_chunk = (0, 9, 21).index(self.frames) + 1
            assert next_chunk == 3 or asked[next_chunk].wait(10), (
                "the next chunk is not made before this one is written"
            )
            super().append(frames)

    monkeypatch.setattr(filming, "FilmWriter", Film)
    footage = filming.shoot(director, tmp_path / "film.mp4", 1, progress=False)
    assert (
        footage.frames_per_chunk == [9, 12, 12]
        and footage.first_chunk_seconds > 0
        and len(footage.retrieved) == 3
    )


def test_a_film_that_cannot_be_written_ends_with_its_error(tmp_path, monkeypatch, capsys):
    director = paper_director(Story((Shot("Mia waves.", chunks=9),)))

    class Film(FilmWriter):
        def append(self, frames):
            if self.frames:
                raise DataError("no space left")
            super().append(frames)

    monkeypatch.setattr(filming, "FilmWriter", Film)
    with pytest.raises(DataError, match="no space left"):
        filming.shoot(director, tmp_path / "film.mp4", 1, progress=False)
    assert director.next_chunk == 3 and [p.name for p in tmp_path.iterdir()] == [
        "film.unfinished.mp4"
    ]
    assert f"kept: {tmp_path / 'film.unfinished.mp4'}, 9 of 105 frames" in capsys.readouterr().err


def test_a_new_shot_takes_hold_after_the_queued_ones():
    director = paper_director(Story((Shot("Mia waves.", chunks=2),)))
    assert next(director).index == 0
    added = director.add_shot("Otto sleeps.", seconds=1.5)
    assert (added.first_chunk, added.chunks, added.id) == (2, 2, "s2")
    assert [(c.index, c.shot.caption) for c in director] == [
        (1, "Mia waves."),
        (2, "Otto sleeps."),
        (3, "Otto sleeps."),
    ]


def test_an_added_shot_may_have_noise_of_its_own(model, film):
    director = Director(model, "A story.", seed=1, pool=PoolConfig(18))
    director.add_shot("Mia waves.", chunks=2, seed=9)
    chunks = list(director)
    seeded = dataclasses.replace(STORY, shots=(Shot("Mia waves.", chunks=2, seed=9),))
    assert same(frames_of(chunks), frames_of(Director(model, seeded)))
    assert not same(frames_of(chunks), frames_of(film[:2]))


def test_the_stream_ends_and_goes_on_after_another_shot():
    director = paper_director("A story.", pool=PoolConfig(18))
    assert list(director) == []
    director.add_shot("Mia waves.", chunks=1)
    assert [c.index for c in director] == [0]
    director.add_shot("Mia jumps.", chunks=2)
    assert [c.index for c in director] == [1, 2]
    assert [s.caption for s in director.story.shots] == ["Mia waves.", "Mia jumps."]


def test_the_model_gives_what_the_story_leaves_open():
    story = Story((Shot("Mia waves.", chunks=9),), negative="night", seed=5)
    assert paper_director(story).settings == FilmSettings(
        SamplerConfig(steps=2, guidance=1.0), MemoryConfig(), PoolConfig(27), 16, 32, 5, "night"
    )
    asked = paper_director(story, seed=6, memory=MemoryConfig("sink"), pool=PoolConfig(24)).settings
    assert (asked.seed, asked.memory.policy, asked.pool.frames) == (6, "sink", 24)


def test_a_short_film_still_gets_a_pool_that_may_evict():
    assert (
        paper_director(Story((Shot("Mia waves.", chunks=1),))).settings.pool.frames
        == MemoryConfig().smallest_pool(3)
        == 18
    )


def test_without_camr_the_pool_keeps_only_what_can_be_seen():
    story = Story((Shot("Mia waves.", chunks=9),))
    pool = lambda *memory, **options: (
        paper_director(story, memory=MemoryConfig(*memory, **options)).settings.pool.frames
    )
    assert (pool("camr"), pool("sink"), pool("none", memory_frames=0)) == (27, 18, 12)
    assert pool("none", route_clean=False) == 27  # clean chunks see the whole film


def test_prompts_that_the_model_cannot_read():
    story = Story(
        (Shot("Mia meets a dragon, walking.", chunks=1), Shot("Otto " * 30, chunks=1)),
        "A robot story.",
    )
    with pytest.raises(UsageError) as error:
        paper_director(story)
    message = str(error.value)
    assert (
        "the model does not know 'robot' in shot 's1', 'meets' in shot 's1' (did you mean 'meet'?),"
        " 'dragon' in shot 's1'" in message
    )
    assert "'walking' in shot 's1' (did you mean 'walk'?); causalcine words lists" in message
    assert "shot 's2': the prompt has 35 tokens, the model reads at most 24" in message


def test_a_refused_shot_changes_nothing():
    director = paper_director(
        Story((Shot("Mia waves.", chunks=1),)),
        memory=MemoryConfig(route_clean=False),
        pool=PoolConfig(18),
    )
    for caption, options, fault in (
        ("A dragon.", {"chunks": 1}, "does not know 'dragon'"),
        ("Otto.", {}, "shot 2: has no duration"),
        ("Otto.", {"chunks": 1, "id": "s1"}, "two shots have the id 's1'"),
        ("Otto.", {"chunks": 6}, "nothing may be evicted"),
    ):
        with pytest.raises(UsageError, match=fault):
            director.add_shot(caption, **options)
    assert [c.index for c in director] == [0]


@pytest.mark.parametrize(
    ("frames", "fault"), [(17, "not a positive multiple of 3"), (15, "needs at least 18")]
)
def test_pools_that_are_too_small(frames, fault):
    with pytest.raises(UsageError, match=fault):
        paper_director(Story((Shot("Mia waves.", chunks=9),)), pool=PoolConfig(frames))


@pytest.fixture(scope="module")
def model():
    return tiny_model()


STORY = Story(
    (Shot("Mia waves.", chunks=2), Shot("Otto sleeps.", chunks=2), Shot("Mia waves.", chunks=2)),
    "A story.",
    seed=1,
)


@pytest.fixture(scope="module")
def film(model):
    return list(Director(model, STORY))


def test_a_real_film_has_its_frames(film):
    assert [c.frames.shape for c in film] == [(9, 16, 32, 3)] + [(12, 16, 32, 3)] * 5
    assert all(c.frames.dtype == np.uint8 for c in film)


def test_memory_retrieves_only_what_is_older_than_the_window(film):
    for chunk in film:
        assert chunk.retrieved.shape == (2, 2)
        retrieved = chunk.retrieved[chunk.retrieved >= 0]
        assert (retrieved < 3 * (chunk.index - 1)).all()
    assert (
        (film[0].retrieved == -1).all()
        and (film[1].retrieved == -1).all()
        and (film[2].retrieved >= 0).all()
    )


def test_the_same_seed_makes_the_same_film_and_another_another(model, film):
    again = np.concatenate([c.frames for c in Director(model, STORY)])
    first = np.concatenate([c.frames for c in film])
    assert np.array_equal(again, first)
    other = np.concatenate([c.frames for c in Director(model, STORY, seed=2)])
    assert np.abs(other.astype(int) - first).mean() > 1


def test_shots_added_while_streaming_make_the_same_film_as_a_story(model, film):
    director = Director(model, "A story.", seed=1, pool=PoolConfig(18))
    director.add_shot("Mia waves.", chunks=2)
    chunks = [next(director)]
    director.add_shot("Otto sleeps.", chunks=2)
    director.add_shot("Mia waves.", chunks=2)
    chunks += list(director)
    assert all(np.array_equal(a.frames, b.frames) for a, b in zip(chunks, film, strict=True))


def test_a_film_compiles_each_move_once_also_when_its_pool_evicts(model):
    moves = (rollout.denoise, rollout.commit)
    before = [move._cache_size() for move in moves]
    story = Story((Shot("Mia waves.", chunks=2), Shot("Otto sleeps.", chunks=3)))
    director = Director(
        model, story, sampler=SamplerConfig("euler", steps=1, guidance=1.0), pool=PoolConfig(9)
    )
    assert director.settings.histories == 1  # without guidance one history is enough
    assert [c.index for c in director] == [0, 1, 2, 3, 4]
    assert [move._cache_size() - count for move, count in zip(moves, before, strict=True)] == [1, 1]


def frames_of(chunks):
    return [c.frames for c in chunks]


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"eviction": "least_retrieved"},
        {"policy": "sink", "at_cut": "recache"},
        {"at_cut": "flush"},
    ],
    ids=lambda rule: "-".join(map(str, rule.values())),
)
@pytest.mark.parametrize("pool", [PoolConfig(18), PoolConfig(9), PoolConfig(12, on="host")])
def test_a_film_taken_back_goes_on_as_if_it_had_never_gone_further(model, pool, rule):
    """Bit by bit: marks slots empty, or commits latents again if the pool has changed since."""
    memory = dataclasses.replace(model.memory, **rule)
    new = lambda: Director(model, STORY, pool=pool, memory=memory)
    straight, gone = new(), new()
    film = list(straight)
    list(gone)
    again = gone.retake("s2", seed=STORY.seed)
    assert (again.first_chunk, gone.next_chunk) == (2, 2)
    assert gone.settings == straight.settings
    chunks = list(gone)
    assert [c.index for c in chunks] == [2, 3, 4, 5]
    assert same(frames_of(chunks), frames_of(film[2:]))
    assert all(
        np.array_equal(a.retrieved, b.retrieved) for a, b in zip(chunks, film[2:], strict=True)
    )


def test_a_pool_replayed_after_eviction_is_the_films_own(model):
    straight, gone = (Director(model, STORY, pool=PoolConfig(9)) for _ in range(2))
    for director, chunks in ((straight, 4), (gone, 6)):
        for _ in range(chunks):
            next(director)
    gone.retake("s3", seed=1)
    kept, again = jax.device_get((straight.state.cache, gone.state.cache))
    assert kept.chunk.tolist() == again.chunk.tolist() and -1 not in kept.chunk
    jax.tree.map(np.testing.assert_array_equal, kept, again)
    decoders = jax.device_get((straight.state.vae_cache, gone.state.vae_cache))
    jax.tree.map(np.testing.assert_array_equal, *decoders)


def test_a_retake_has_other_noise_or_another_caption_and_the_record_makes_it_again(model, film):
    director = Director(model, STORY)
    list(director)
    director.retake("s2")
    other_noise = list(director)
    assert director.story.shots[1].seed == STORY.seed + 1
    assert not same(frames_of(other_noise), frames_of(film[2:]))
    director.retake("s2")
    assert director.story.shots[1].seed == STORY.seed + 2
    director.retake("s2", caption="Mia jumps.")
    assert director.story.shots[1].seed == STORY.seed + 2  # the caption alone changed
    retaken = list(director)
    assert retaken[0].shot.prompt == "A story. Mia jumps."
    again = list(Director(model, Story.from_dict(director.story.to_dict())))
    assert same(frames_of(again[2:]), frames_of(retaken))
    assert same(frames_of(again[:2]), frames_of(film[:2]))


def test_a_refused_retake_changes_nothing(model, film):
    director = Director(model, STORY)
    made = [next(director) for _ in range(3)]
    with pytest.raises(UsageError, match="does not know 'dragon'"):
        director.retake("s1", caption="A dragon.")
    with pytest.raises(UsageError, match="no shot 's9', "):
        director.retake("s9")
    with pytest.raises(UsageError, match="shot 2: seed must be a whole number"):
        director.retake("s2", seed=-1)
    assert same(frames_of(made + list(director)), frames_of(film))


def test_a_retake_of_a_shot_that_has_not_begun_only_changes_its_words(model, film):
    director = Director(model, STORY)
    made = [next(director)]
    director.retake("s3", caption="Mia jumps.")
    made += list(director)
    assert same(frames_of(made[:4]), frames_of(film[:4]))
    assert not same(frames_of(made[4:]), frames_of(film[4:]))


@pytest.mark.parametrize("pool, again", [(PoolConfig(18), 0), (PoolConfig(9), 4)])
def test_a_stepwise_branch_makes_evicted_chunks_again_one_at_a_time(model, pool, again):
    trunk = Director(model, STORY, pool=pool)
    whole = list(trunk)
    branch = trunk.branch("s3", stepwise=True)
    assert branch.next_chunk == 4 - again
    assert same(frames_of(branch), frames_of(whole[4 - again : 4]))
    branch.add_shot(STORY.shots[2].caption, chunks=len(whole) - 4, seed=STORY.shots[2].seed)
    assert same(frames_of(branch), frames_of(whole[4:]))


@pytest.mark.parametrize("pool", [PoolConfig(18), PoolConfig(9)])
def test_two_branches_go_their_own_ways(model, film, pool):
    trunk = Director(model, STORY, pool=pool)
    whole = list(trunk)
    branch = trunk.branch("s3")
    assert [s.id for s in branch.resolved.shots] == ["s1", "s2"] and list(branch) == []
    branch.add_shot("Otto jumps.", chunks=2)
    other = list(branch)
    trunk.retake("s3", seed=STORY.seed)
    assert same(frames_of(trunk), frames_of(whole[4:]))  # the trunk is as it was
    assert [c.index for c in other] == [4, 5]
    straight = Story((*STORY.shots[:2], Shot("Otto jumps.", chunks=2)), "A story.", seed=1)
    assert same(frames_of(other), frames_of(list(Director(model, straight, pool=pool))[4:]))


def test_a_film_is_extended_by_more_of_its_last_shot(model, film):
    short = dataclasses.replace(
        STORY, shots=(*STORY.shots[:2], dataclasses.replace(STORY.shots[2], chunks=1))
    )
    director = Director(model, short, pool=PoolConfig(18))
    made = list(director)
    longer = director.extend(chunks=1)
    assert (longer.first_chunk, longer.chunks) == (4, 2)
    assert same(frames_of(made + list(director)), frames_of(film))
    with pytest.raises(UsageError, match="chunks must be a whole number"):
        director.extend(chunks=0)
    with pytest.raises(UsageError, match="nothing to extend"):
        Director(model, "A story.", pool=PoolConfig(18)).extend(chunks=1)


def test_memory_stays_flat_however_often_a_film_is_taken_back(model):
    director = Director(model, STORY, pool=PoolConfig(9))
    list(director)
    held = []
    for take in range(4):
        director.retake("s2", seed=take)
        list(director)
        gc.collect()
        held.append(sum(array.nbytes for array in jax.live_arrays()))
    assert held[-1] == held[1]


@pytest.mark.parametrize("pool", [PoolConfig(18), PoolConfig(9), PoolConfig(12, on="host")])
@pytest.mark.parametrize(
    "stopped",
    [
        (rollout, "denoise"),
        (state, "decode_next"),
        (kept_film, "gather_to_host"),
        (film_rollout, "Chunk"),
    ],
)
def test_a_chunk_that_was_interrupted_is_made_again(model, monkeypatch, pool, stopped):
    """Ctrl-C, or no memory: the pool may have been donated to a move that did not end."""
    director, whole = Director(model, STORY, pool=pool), list(Director(model, STORY, pool=pool))
    made = [next(director) for _ in range(3)]

    def stop(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(*stopped, stop)
        with pytest.raises(KeyboardInterrupt):
            next(director)
    assert director.next_chunk == 3
    branch = director.branch("s2")
    assert branch.next_chunk == 2
    made += list(director)
    assert same(frames_of(made), frames_of(whole))
    branch.add_shot("Otto sleeps.", chunks=2)
    assert same(frames_of(branch), frames_of(whole[2:4]))


def test_a_loop_over_the_chunks_lets_a_retake_of_another_thread_in(model):
    director = Director(model, STORY, pool=PoolConfig(9))
    next(director)
    seen, taken = [], []
    retake = threading.Thread(target=lambda: taken.append(director.retake("s1", seed=5)))
    retake.start()
    for chunk in director:
        seen.append(chunk)
        if not taken and chunk.index == 4:
            break
    retake.join(30)
    assert taken and director.story.shots[0].seed == 5
    seen += list(director)
    again = list(Director(model, director.story, pool=PoolConfig(9)))
    assert same(frames_of(seen[-6:]), frames_of(again))


@pytest.mark.parametrize("stopped", ["truncate", "catch_up"])
def test_a_retake_that_was_stopped_keeps_no_chunk_of_another_take(monkeypatch, stopped):
    """Ctrl-C: the film has either the old story, or the new one without the old take."""
    director = paper_director(Story((Shot("Mia waves.", chunks=2), Shot("Otto.", chunks=2))))
    old = director.story
    list(director)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(FilmRollout, stopped, stop)
        with pytest.raises(KeyboardInterrupt):
            director.retake("s2", seed=9)
    assert (director.story == old, director.next_chunk) in ((True, 4), (False, 2))


def test_shots_of_many_threads_all_come(model):
    director = Director(model, "A story.", pool=PoolConfig(9))
    adders = [
        threading.Thread(target=lambda: director.add_shot("Mia waves.", chunks=1)) for _ in range(8)
    ]
    for adder in adders:
        adder.start()
    for adder in adders:
        adder.join()
    assert [shot.id for shot in director.resolved.shots] == [f"s{n}" for n in range(1, 9)]


def test_a_film_that_is_made_at_once_has_one_shot(model):
    director = Director(model, Story((Shot("Mia waves.", chunks=1),)), functions=WHOLE_FILM)
    assert len(list(director)) == 1
    for change in (
        lambda: director.add_shot("Otto sleeps.", chunks=1),
        lambda: director.extend(chunks=1),
    ):
        with pytest.raises(UsageError, match="made at once has one shot"):
            change()
    first = list(Director(model, Story((Shot("Mia waves.", chunks=1),)), functions=WHOLE_FILM))
    director.retake("s1", seed=0)
    assert same(frames_of(director), frames_of(first))


def test_a_branch_checks_that_host_memory_has_room_for_its_pool(model, monkeypatch):
    director = Director(model, STORY, pool=PoolConfig(12, on="host"))
    next(director)
    monkeypatch.setattr(host_memory, "memory_size", lambda: director.pool_bytes // 4)
    with pytest.raises(UsageError, match="bytes of host memory"):
        director.branch("s1")
    monkeypatch.undo()
    assert [chunk.index for chunk in director] == [1, 2, 3, 4, 5]


def test_a_decoders_cache_that_is_too_large_is_not_copied(model, film, monkeypatch):
    monkeypatch.setattr(kept_film, "MARK_BYTES", 10)
    director = Director(model, STORY)
    list(director)
    director.retake("s3", seed=STORY.seed)
    assert same(frames_of(director), frames_of(film[4:]))


def test_a_film_that_goes_on_keeps_no_more_arrays_on_the_device():
    director = Director(tiny_model(), "A story.", pool=PoolConfig(9))
    director.add_shot("Mia waves.", chunks=6)
    counts = []
    for _ in range(6):
        next(director)
        gc.collect()
        counts.append(len(jax.live_arrays()))
    assert counts[2] == counts[5] and len(director._rollout.kept_chunks()) == 6
