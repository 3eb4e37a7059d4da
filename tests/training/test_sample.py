"""Which story a run's sample films show, and that a bad one is refused before training."""

import dataclasses
from unittest.mock import Mock

import pytest
from tiny_models import WORDS
from tiny_training import tiny_config, tiny_store

from causalcine_jax.errors import UsageError
from causalcine_jax.story import Shot, Story, write_story
from causalcine_jax.storyworld import WorldConfig, sample_story
from causalcine_jax.training import sample as sampled
from causalcine_jax.training.config import SampleConfig

STORY = Story((Shot("Mia waves.", chunks=2),), "Fox.")


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("sample") / "store", films=2).spec


@pytest.fixture
def filmed(monkeypatch):
    generate = Mock()
    monkeypatch.setattr(sampled, "generate", generate)
    return lambda: generate.call_args.args[0].story


def of(spec, source):
    return dataclasses.replace(spec, source=source)


def test_films_of_storyworld_are_sampled_by_one_of_its_stories(spec, filmed, tmp_path):
    world = dataclasses.asdict(WorldConfig.montage())
    mixed = {"mixed": [{"storyworld": world, "seed": 0}, {"videos": "x"}]}
    sample, notes = sampled.sampling(
        tiny_config(sample=SampleConfig(), seed=4), of(spec, mixed), WORDS
    )
    assert sample is not None and not notes
    sample(tmp_path / "model", tmp_path / "out", 7)
    told = sample_story(sampled.SAMPLE_SEED, 4, WorldConfig.montage())
    assert filmed() == sampled.as_story(told, 4)


def test_other_films_are_sampled_by_the_story_that_is_named(spec, filmed, tmp_path):
    videos = of(spec, {"videos": "x", "fps": 16})
    nothing, notes = sampled.sampling(tiny_config(sample=SampleConfig()), videos, WORDS)
    assert nothing is None and notes == (sampled.NO_STORY,)
    write_story(STORY, tmp_path / "story.yaml")
    config = tiny_config(sample=SampleConfig(story=str(tmp_path / "story.yaml")))
    sample, notes = sampled.sampling(config, videos, WORDS)
    assert sample is not None and not notes
    sample(tmp_path / "model", tmp_path / "out", 7)
    assert filmed() == STORY


def test_a_story_that_the_model_cannot_read_is_refused(spec, tmp_path):
    strange = dataclasses.replace(STORY, shots=(Shot("A zeppelin.", chunks=2),))
    write_story(strange, tmp_path / "story.yaml")
    config = tiny_config(sample=SampleConfig(story=str(tmp_path / "story.yaml")))
    with pytest.raises(UsageError, match="does not know 'zeppelin'"):
        sampled.sampling(config, spec, WORDS)


def test_a_run_without_samples_reads_no_story(spec):
    config = tiny_config(sample=SampleConfig(at_end=False, story="missing.yaml"))
    assert sampled.sampling(config, spec, WORDS) == (None, ())


def test_several_processes_make_no_film(spec, monkeypatch):
    """The first alone exports, and a film is agreed on by all: it would wait for ever."""
    monkeypatch.setattr(sampled, "several", lambda: True)
    sample, (note,) = sampled.sampling(tiny_config(sample=SampleConfig()), spec, WORDS)
    assert sample is None and "several processes make no film" in note
