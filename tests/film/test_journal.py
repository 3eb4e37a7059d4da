"""A film's journal: it resumes bit by bit after a crash, and refuses another model's film."""

import dataclasses
import json

import numpy as np
import pytest
from tiny_models import tiny_folder

from causalcine_jax.config import PoolConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.story import Shot, Story

STORY = Story(
    (Shot("Mia waves.", chunks=2), Shot("Otto sleeps.", chunks=3, seed=7)), "A story.", seed=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def film(folder):
    return [chunk.frames for chunk in Director(folder, STORY, pool=PoolConfig(9))]


def begun(folder, kept, chunks):
    """A film of which so many chunks were made before its process was killed."""
    director = Director(folder, STORY, pool=PoolConfig(9))
    director.keep_in(kept)
    for _ in range(chunks):
        next(director)
    return director


def same(chunks, frames):
    return all(np.array_equal(a.frames, b) for a, b in zip(chunks, frames, strict=True))


@pytest.mark.parametrize("chunks", [0, 1, 4])
def test_a_killed_film_goes_on_to_the_bit(folder, film, tmp_path, chunks):
    begun(folder, tmp_path / "kept", chunks)
    director = Director.resume(tmp_path / "kept")
    assert (director.next_chunk, director.settings.pool) == (chunks, PoolConfig(9))
    assert same(director, film[chunks:])
    assert Director.resume(tmp_path / "kept").next_chunk == 5


def test_a_damaged_chunk_and_those_after_it_are_made_again(folder, film, tmp_path):
    begun(folder, tmp_path, 4)
    (tmp_path / "latents" / "000002.npy").write_bytes(b"torn")
    director = Director.resume(tmp_path)
    assert director.next_chunk == 2 and same(director, film[2:])


def test_retakes_and_new_shots_are_kept_too(folder, film, tmp_path):
    director = begun(folder, tmp_path, 4)
    director.retake("s2", seed=9)
    assert sorted(file.name for file in (tmp_path / "latents").iterdir()) == [
        "000000.npy",
        "000001.npy",
    ]
    director.add_shot("Mia waves.", chunks=1)
    made = [next(director).frames for _ in range(4)]
    again = Director.resume(tmp_path)
    assert again.story == director.story and again.next_chunk == 6
    again.retake("s2")
    again.retake("s2", seed=9)
    assert same(again, made)


def test_what_cannot_go_on_is_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"no film was begun in .*: it has no journal.json"):
        Director.resume(tmp_path)
    begun(folder, tmp_path, 1)
    told = json.loads((tmp_path / "journal.json").read_text())
    for change, fault in (
        ({"weights": "0" * 12}, "was begun with other weights"),
        ({"schema": "causalcine/story@1"}, "is no journal of a film"),
        ({"pool": {"frames": "many"}}, "pool: frames must be a whole number or nothing"),
        ({"model": None}, "names no model folder"),
    ):
        (tmp_path / "journal.json").write_text(json.dumps(told | change))
        with pytest.raises(UsageError, match=fault):
            Director.resume(tmp_path)
    (tmp_path / "journal.json").write_text(json.dumps(told | {"model": str(tmp_path / "gone")}))
    with pytest.raises(DataError, match="gone"):
        Director.resume(tmp_path)
    other = dataclasses.replace(load_model(folder), folder=None)
    assert Director.resume(tmp_path, other).next_chunk == 1  # its weights cannot be compared
