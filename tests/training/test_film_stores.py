"""Which latent stores a run takes: its own must be what its config asks for."""

import dataclasses
import json

import pytest
from tiny_models import WORDS
from tiny_training import tiny_config, tiny_store

from causalcine_jax.errors import UsageError
from causalcine_jax.storyworld import WORLDS
from causalcine_jax.training.config import DataConfig, HeldOutConfig
from causalcine_jax.training.film_data import held_out_batches
from causalcine_jax.training.film_stores import open_store


def store_of(path, world="base", seed=0, films=4):
    """A store as `causalcine encode` would have made it, but for its small films."""
    made = tiny_store(path, films=films)
    source = {"storyworld": dataclasses.asdict(WORLDS[world]()), "seed": seed}
    spec = dataclasses.replace(made.spec, source=source)
    (path / "store.json").write_text(json.dumps(dataclasses.asdict(spec)))
    return path


def opened(config):
    return open_store(config, None, config.transformer)


@pytest.mark.parametrize(
    ("there", "fault"),
    [
        ({"world": "montage"}, "its films are of world montage, data.world is base"),
        ({"seed": 7}, "their seed is 7, the config asks for 0"),
        ({"films": 3}, "it has 3 films, data.films is 4"),
    ],
)
def test_an_own_store_of_other_films_is_refused(there, fault, tmp_path):
    out = tmp_path / "out"
    made = store_of(out / "latents", **there)
    config = tiny_config(out, data=DataConfig(films=4))
    with pytest.raises(UsageError, match=rf"{made}: {fault}\. Correct the config; or delete"):
        opened(config)
    elsewhere = dataclasses.replace(config, out=str(tmp_path / "other"))
    named = dataclasses.replace(config.data, store=str(made))
    assert len(opened(dataclasses.replace(elsewhere, data=named))) == there.get("films", 4)


def test_an_own_store_of_these_films_or_of_videos_is_taken(tmp_path):
    store_of(tmp_path / "latents")
    config = tiny_config(tmp_path, data=DataConfig(films=4))
    assert len(opened(config)) == 4
    tiny_store(tmp_path / "videos", films=3)
    videos = dataclasses.replace(config.data, store=str(tmp_path / "videos"))
    assert len(opened(dataclasses.replace(config, data=videos))) == 3


def batches(config):
    return held_out_batches(config, None, WORDS, config.transformer)


def test_an_own_held_out_store_of_other_films_is_refused(tmp_path):
    path = store_of(tmp_path / "unseen", seed=1_000)
    held_out = HeldOutConfig(every=1, films=4, store=str(path))
    config = tiny_config(tmp_path, held_out=held_out)
    assert len(batches(config)) == 1
    other = dataclasses.replace(config, data=DataConfig(seed=1))
    with pytest.raises(UsageError, match="their seed is 1000, the config asks for 1001"):
        batches(other)


def test_runs_of_other_seeds_measure_the_same_held_out_films(tmp_path):
    path = tiny_store(tmp_path / "unseen", films=16).path
    held_out = HeldOutConfig(every=1, films=4, store=str(path))
    first, second = (
        batches(tiny_config(tmp_path / "out", seed=seed, held_out=held_out)) for seed in (0, 3)
    )
    assert [*first[0]["index"]] == [*second[0]["index"]]
