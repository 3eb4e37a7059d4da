"""Reworded films: the same shots under other names; and the loss's weight of a return."""

import dataclasses
import itertools
import re

import numpy as np
import pytest
from latent_films import SPEC, write_store

from causalcine_jax.data.film_parts import FilmParts
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.loader import Loader
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.data.retelling import Retelling
from causalcine_jax.data.store_layout import StoreSpec
from causalcine_jax.errors import UsageError
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.storyworld import NAMES, VOCABULARY, WorldConfig, retold, returns, sample_story

WORLD = WorldConfig.montage()
TOKENIZER = word_tokenizer(VOCABULARY)


def spec(**changes) -> StoreSpec:
    source = {"storyworld": dataclasses.asdict(WORLD), "seed": 3}
    sizes = {
        "latent_frames": WORLD.latent_frames,
        "shots": WORLD.max_shots,
        "text_len": 64,
        "films": 5,
    }
    return dataclasses.replace(SPEC, source=source, **sizes, **changes)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> LatentStore:
    return write_store(tmp_path_factory.mktemp("retelling") / "films", spec())


def test_only_words_change():
    story = sample_story(3, 1, WORLD)
    other = retold(story, np.random.default_rng(0))
    assert other.prompts() != story.prompts()
    plain = lambda told: dataclasses.replace(
        told,
        told=True,
        global_caption="",
        cast=tuple(dataclasses.replace(c, name="") for c in told.cast),
        shots=tuple(dataclasses.replace(shot, caption="") for shot in told.shots),
    )
    assert plain(other) == plain(story)
    names = {character.name for character in other.cast}
    assert len(names) == len(story.cast)
    for shot in other.shots:
        named = set(re.findall(r"\w+", shot.caption)) & set(NAMES)
        assert named == {other.cast[who].name for who in shot.cast}


def test_every_visit_of_a_film_is_told_anew_and_a_return_weighs_more(store):
    retelling = Retelling(store.spec, TOKENIZER, return_weight=2.5)
    # Two epochs of five films.
    batches = list(itertools.islice(Loader(store, 1, visits=[retelling]), 10))
    visits = {}
    for batch in batches:
        visits.setdefault(int(batch["index"][0]), []).append(batch)
    assert all(len(found) == 2 for found in visits.values())
    for index, (one, two) in visits.items():
        assert not np.array_equal(one["token_ids"], two["token_ids"])
        np.testing.assert_array_equal(one["latents"], two["latents"])
        expected = np.ones(WORLD.chunks)
        expected[[back.chunk for back in returns(sample_story(3, index, WORLD))]] = 2.5
        np.testing.assert_array_equal(one["chunk_weight"][0], expected)
        assert one["chunk_weight"].max() == 2.5 or not returns(sample_story(3, index, WORLD))


def test_resuming_tells_the_same(store):
    retelling = Retelling(store.spec, TOKENIZER)
    loader = Loader(store, 2, visits=[retelling])
    next(loader)
    state = loader.get_state()
    expected = next(loader)["token_ids"]
    resumed = Loader(store, 2, visits=[retelling])
    resumed.set_state(state)
    np.testing.assert_array_equal(next(resumed)["token_ids"], expected)


def test_a_batch_of_parts_has_rows_and_weights_for_its_chunks_alone(store):
    visits = [FilmParts(2, store.spec.chunk_frames), Retelling(store.spec, TOKENIZER)]
    batch = next(Loader(store, 3, visits=visits))
    assert batch["latents"].shape[:2] == (3, 6)
    assert batch["shot_of_chunk"].shape == batch["chunk_weight"].shape == (3, 2)
    assert batch["token_ids"].shape == (3, 2, 64)
    assert batch["token_ids"][:, 0].any(axis=1).all()


def test_a_film_of_several_stores_is_told_by_its_own_story(tmp_path):
    base = WorldConfig.base()
    other = dataclasses.replace(
        spec(),
        films=4,
        shots=base.max_shots,
        source={"storyworld": dataclasses.asdict(base), "seed": 9},
    )
    mixed = MixedStore(
        [write_store(tmp_path / "montage", spec()), write_store(tmp_path / "base", other)]
    )
    retelling = Retelling(mixed.spec, TOKENIZER)
    assert retelling.story(4) == sample_story(3, 4, WORLD)
    assert retelling.story(6) == sample_story(9, 1, base)
    with pytest.raises(IndexError):
        retelling.story(9)


def test_films_that_nobody_can_tell_in_other_words_are_refused():
    with pytest.raises(UsageError, match="StoryWorld"):
        Retelling(dataclasses.replace(SPEC, source={"folder": "clips"}), TOKENIZER)
