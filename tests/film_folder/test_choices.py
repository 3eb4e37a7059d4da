"""A film's settings: flags override film.json, which overrides story and model; contradictions."""

from dataclasses import asdict, replace

import pytest
from tiny_models import tiny_model

from causalcine_jax.config import MemoryConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.families import family
from causalcine_jax.film.director import Director
from causalcine_jax.film.record_schema import FilmRecord
from causalcine_jax.film_folder.agreement import agreed
from causalcine_jax.film_folder.choices import Choices, decide
from causalcine_jax.film_folder.record import Recipe, prompt_recipe
from causalcine_jax.film_folder.report import opening_lines
from causalcine_jax.film_folder.unfinished import FilmRequest
from causalcine_jax.rollouts import ROLLOUTS
from causalcine_jax.story import Shot, Story

STORY = Story((Shot("Mia waves.", chunks=2),))


@pytest.fixture(scope="module")
def model():
    """Small networks that are used as Self-Forcing's are."""
    each = family("self-forcing")
    return tiny_model(sampler=each.sampler, memory=each.memory, chunk_frames=each.chunk_frames)


def test_unset_choices_default_to_the_models_values(model):
    setup = decide(Recipe(STORY), model, Choices())
    assert (setup.sampler, setup.memory, setup.model.chunk_frames, setup.whole_film) == (
        model.sampler,
        model.memory,
        3,
        False,
    )


def test_a_flag_comes_before_the_record_and_the_record_before_the_model(model):
    recorded = {
        "sampler": asdict(SamplerConfig("euler", 7)),
        "memory": asdict(MemoryConfig("sink")),
        "pool_frames": 24,
        "chunk_frames": 1,
    }
    recipe = Recipe(STORY, FilmRecord.from_dict(recorded))
    setup = decide(recipe, model, Choices())
    assert (setup.sampler, setup.memory.policy, setup.pool.frames, setup.model.chunk_frames) == (
        SamplerConfig("euler", 7),
        "sink",
        24,
        1,
    )
    asked = Choices(
        steps=9, guidance=2.0, window_chunks=2, positions="absolute", chunk_frames=2, size=(64, 48)
    )
    setup = decide(recipe, model, asked)
    assert setup.sampler == SamplerConfig("euler", 9, guidance=2.0)
    assert setup.memory == MemoryConfig("sink", window_chunks=2, positions="absolute")
    assert (setup.model.chunk_frames, setup.pool.frames) == (
        2,
        None,
    )  # a pool of another grid's chunks is not kept
    assert (setup.story.video.width, setup.story.video.height) == (64, 48)


def test_a_pools_size_in_bytes_replaces_the_recorded_frames(model):
    recorded = {
        "memory": asdict(MemoryConfig("camr", eviction="least_retrieved")),
        "pool_frames": 24,
        "kv_dtype": "int8",
    }
    setup = decide(Recipe(STORY, FilmRecord.from_dict(recorded)), model, Choices(pool_gb=0.5))
    assert (setup.pool.frames, setup.pool.gb, setup.pool.kv_dtype, setup.memory.eviction) == (
        None,
        0.5,
        "int8",
        "least_retrieved",
    )
    setup = decide(
        Recipe(STORY, FilmRecord.from_dict(recorded)),
        model,
        Choices(kv_dtype="same", eviction="oldest"),
    )
    assert (setup.pool.frames, setup.pool.gb, setup.pool.kv_dtype, setup.memory.eviction) == (
        24,
        None,
        "same",
        "oldest",
    )
    assert (
        decide(Recipe(STORY, FilmRecord(pool_frames=24)), model, Choices()).pool.kv_dtype == "same"
    )  # of a film.json without the field


SINK = MemoryConfig("sink", window_chunks=3, memory_frames=5)


def pool_of(model, record, **choices):
    return decide(Recipe(STORY, record), model, Choices(**choices)).pool.frames


@pytest.mark.parametrize(
    ("changed", "keeps"),
    [
        ({}, True),
        ({"steps": 1, "positions": "absolute"}, True),
        ({"policy": "none"}, False),
        ({"policy": "camr"}, False),
        ({"window_chunks": 2}, False),
        ({"rollout_of": "memflow"}, False),
        ({"frames": 161}, False),
        ({"start": "a.png"}, True),  # the same start, which has moved
        ({"start": "a.png", "start_caption": "A fox."}, False),
    ],
)
def test_a_recorded_pool_that_nobody_chose_goes_with_what_decided_it(model, changed, keeps):
    record = FilmRecord(memory=SINK, pool_frames=18)  # as older film.json have it
    assert pool_of(model, record, **changed) == (18 if keeps else None)
    assert pool_of(model, replace(record, pool_asked=True), **changed) == 18
    assert not decide(Recipe(STORY, record), model, Choices(**changed)).pool_asked


def test_whether_a_pool_was_chosen_is_read_from_the_record_and_the_choices(model):
    asked = lambda record, **choices: (
        decide(Recipe(STORY, record), model, Choices(**choices)).pool_asked
    )
    record = FilmRecord(memory=SINK, pool_frames=18, pool_asked=True)
    assert asked(record) and asked(FilmRecord(), pool_frames=9) and asked(FilmRecord(), pool_gb=1.0)
    assert not asked(FilmRecord()) and not asked(record, chunk_frames=1)
    with pytest.raises(UsageError, match="pool_asked must be true or false"):
        FilmRecord.from_dict({"pool_asked": 1})


def test_lists_of_choices_have_a_hash_as_tuples_have():
    lists = Choices(lora=["a.safetensors"], step_list=[1000.0], size=[32, 16])
    tuples = Choices(lora=("a.safetensors",), step_list=(1000.0,), size=(32, 16))
    assert hash(lists) == hash(tuples) and lists == tuples


def test_a_step_list_is_replaced_by_what_contradicts_it(model):
    sampler = lambda **asked: decide(Recipe(STORY), model, Choices(**asked)).sampler
    assert sampler(steps=8) == SamplerConfig("few_step", 8, 5.0, 1.0)
    assert sampler(solver="unipc", steps=50, guidance=3.0) == SamplerConfig("unipc", 50, 5.0, 3.0)
    assert sampler(step_list=(1000.0, 500.0)) == SamplerConfig(
        "few_step", 2, 5.0, 1.0, (1000.0, 500.0)
    )
    with pytest.raises(UsageError, match="step_list has 2 times but steps is 3"):
        sampler(step_list=(1000.0, 500.0), steps=3)


def test_what_guidance_steers_away_from(model):
    said = lambda recipe, **asked: (
        (setup := decide(recipe, replace(model, negative="rain"), Choices(**asked))).story.negative
        or setup.model.negative
    )
    assert said(Recipe(STORY)) == "rain" and said(Recipe(replace(STORY, negative="snow"))) == "snow"
    assert said(Recipe(replace(STORY, negative="snow")), negative="fog") == "fog"
    assert (
        said(Recipe(STORY), negative="") == "" == said(Recipe(STORY, FilmRecord(pool_frames=24)))
    )  # a film.json's story says all


def test_a_base_model_is_sampled_as_itself_whatever_the_record_says(model):
    recipe = Recipe(STORY, FilmRecord(sampler=SamplerConfig("euler", 7)))
    assert decide(recipe, model, Choices(base=True)).sampler == model.sampler
    assert decide(recipe, model, Choices(base=True, guidance=2.0)).sampler == replace(
        model.sampler, guidance=2.0
    )


def test_camr_goes_on_top_of_a_familys_weights(model):
    asked = Choices(policy="camr", memory_frames=5, window_chunks=3, positions="block_relative")
    assert decide(Recipe(STORY), model, asked).memory == MemoryConfig()
    with pytest.raises(
        UsageError,
        match="camr retrieves nothing with the 0 memory frames of this model: "
        "say how many with --memory-frames",
    ):
        decide(Recipe(STORY), model, Choices(policy="camr"))


def test_a_rollout_of_another_model_is_taken_whole_and_changed_by_flags(model):
    recipe = Recipe(STORY, FilmRecord(memory=MemoryConfig("none", 1, 0)))
    asked = decide(recipe, model, Choices(rollout_of="memflow", window_chunks=3)).memory
    assert asked == replace(ROLLOUTS["memflow"].memory, window_chunks=3)
    with pytest.raises(UsageError, match="--memory-frames must be at least 3: the film's first 3"):
        decide(recipe, model, Choices(rollout_of="memflow", memory_frames=2))


def test_a_whole_film_is_one_chunk_of_one_shot(model):
    setup = decide(prompt_recipe("Mia waves."), model, Choices(whole_film=True))
    assert (
        setup.model.chunk_frames,
        setup.story.shots[0].chunks,
        setup.memory.policy,
        setup.whole_film,
    ) == (21, 1, "none", True)
    assert (
        decide(
            prompt_recipe("Mia waves."), model, Choices(whole_film=True, frames=13)
        ).model.chunk_frames
        == 4
    )
    again = Recipe(setup.story, FilmRecord(whole_film=True, chunk_frames=21))
    assert decide(again, model, Choices()).model.chunk_frames == 21


@pytest.mark.parametrize(
    ("story", "choices", "fault"),
    [
        (
            STORY,
            Choices(whole_film=True),
            "a whole film has no chunks: give the shot's length in seconds, or --frames",
        ),
        (
            STORY,
            Choices(whole_film=True, frames=80),
            r"frames must be 4 n \+ 1, not 80 \(nearest: 77 or 81\)",
        ),
        (
            replace(STORY, shots=(*STORY.shots, Shot("Otto.", 1.0))),
            Choices(whole_film=True),
            "under one prompt, and this story has 2 shots",
        ),
        (
            replace(STORY, shots=(*STORY.shots, Shot("Otto.", 1.0))),
            Choices(frames=9),
            "a film of one shot, and this story has 2",
        ),
        (
            STORY,
            Choices(size=(840, 490)),
            r"height must be a positive multiple of 16 pixels, not 490 \(nearest: 480 or 496\)",
        ),
    ],
)
def test_contradicting_choices_are_refused(model, story, choices, fault):
    with pytest.raises(UsageError, match=fault):
        decide(Recipe(story), model, choices)


def test_a_film_without_history_is_not_said_to_be_a_whole_film(model):
    director = Director(model, STORY, memory=MemoryConfig("none", 0, 0))
    _, history, *_ = opening_lines(director, Recipe(STORY), str, None)
    assert history.startswith("memory none: 0 frames beyond a window of 0 chunks; pool of ")


def test_choices_without_effect_in_a_whole_film_are_refused():
    assert Choices(whole_film=True, policy="camr", pool_frames=9, frames=0).faults() == [
        "frames must be at least 1, not 0",
        "a whole film has no memory and no chunks: leave out policy, pool_frames",
    ]


def test_choices_without_effect_in_the_whole_film_of_a_film_json_are_refused(tmp_path):
    again = Recipe(STORY, FilmRecord(whole_film=True, chunk_frames=21))
    asked = Choices(policy="camr", start=tmp_path / "a.png", start_caption="A fox.")
    with pytest.raises(UsageError, match=r"a whole film has no memory .*: leave out policy, start"):
        agreed(FilmRequest(again, tmp_path, asked))
    assert agreed(FilmRequest(again, tmp_path, Choices(steps=1)))[1] == tmp_path


def test_a_whole_film_of_a_film_json_that_had_a_start_is_refused(tmp_path):
    start = {"file": "a.png", "caption": "A fox.", "sha256": "0", "chunks": 1}
    again = FilmRequest(Recipe(STORY, FilmRecord(start=start)), tmp_path, Choices(whole_film=True))
    with pytest.raises(UsageError, match=r"from no start, .* film did \(a\.png\): leave out"):
        agreed(again)


def test_settings_that_the_model_was_not_trained_for_give_notes(model):
    def notes(**choices):
        return decide(Recipe(STORY), model, Choices(**choices)).notes

    assert notes() == notes(policy="none", memory_frames=0) == notes(chunk_frames=3) == ()
    assert "retrieves nothing, so --memory-frames 5 has" in notes(policy="none", memory_frames=5)[0]
    assert "makes chunks of 3 latent frames, and chunks of 2" in notes(chunk_frames=2)[0]
    assert "in chunks, which have 2 latent frames here and 3" in notes(chunk_frames=2)[1]
    in_seconds = Recipe(Story((Shot("Mia waves.", seconds=2.0),)))
    assert len(decide(in_seconds, model, Choices(chunk_frames=2)).notes) == 1
    assert "chunk by chunk, and --whole-film" in notes(whole_film=True, frames=5)[0]
    plain = replace(model, sampler=SamplerConfig())
    assert decide(Recipe(STORY), plain, Choices(whole_film=True, frames=5)).notes == ()


def test_a_start_without_its_length_is_refused():
    start = {"file": "a.png", "caption": "Mia waves.", "sha256": "0"}
    with pytest.raises(UsageError, match="start: chunks must be"):
        FilmRecord.from_dict({"start": start})
    assert FilmRecord.from_dict({"start": {**start, "chunks": 1}}).start["chunks"] == 1


def test_flags_without_effect_are_noted(model):
    notes = lambda **asked: decide(Recipe(STORY), model, Choices(**asked)).notes
    assert notes(guidance=1.0, negative="night") == (
        "note: guidance is 1, so --negative has no effect: choose another --guidance",
    )
    assert not notes(guidance=2.0, negative="night") and not notes(guidance=1.0)
    for policy in ("none", "camr"):
        (note,) = notes(policy=policy, memory_frames=0, eviction="least_retrieved")
        assert "so --eviction least_retrieved has no effect" in note
    assert not notes(policy="camr", memory_frames=6, eviction="least_retrieved")
    (note,) = notes(policy="camr", memory_frames=100_000)
    assert "memory retrieves 100000 frames, more than the film's 6 latent ones" in note


@pytest.mark.parametrize("name", ["guidance", "memory_guidance", "shift"])
def test_absurd_numbers_of_the_sampler_are_refused(name):
    for absurd in (1e300, 1000.5):
        with pytest.raises(UsageError, match=f"{name} must be .* 1000.*, not"):
            SamplerConfig(**{name: absurd})
    SamplerConfig(**{name: 1000.0})
