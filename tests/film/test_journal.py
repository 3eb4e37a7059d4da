"""A film's journal: it resumes bit by bit after a crash, and refuses what is not its own."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny_folder, tiny_model

from causalcine_jax.config import PoolConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film.journal import Journal
from causalcine_jax.film.journal_files import chunk_file, read_chunks
from causalcine_jax.film.kept_film import KeptChunk
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.film.whole_film import WHOLE_FILM
from causalcine_jax.story import Shot, Story

STORY = Story(
    (Shot("Mia waves.", chunks=2), Shot("Otto sleeps.", chunks=3, seed=7)), "A story.", seed=1
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return load_model(folder)


@pytest.fixture(scope="module")
def film(model):
    return list(Director(model, STORY, pool=PoolConfig(9)))


def begun(model, kept, chunks, story=STORY, **options):
    """A film of which so many chunks were made before its process was killed."""
    director = Director(model, story, pool=PoolConfig(9), **options)
    director.keep_in(kept)
    for _ in range(chunks):
        next(director)
    return director


def same(chunks, film):
    return all(
        np.array_equal(a.frames, b.frames) and np.array_equal(a.retrieved, b.retrieved)
        for a, b in zip(chunks, film, strict=True)
    )


def names(folder):
    return sorted(file.name for file in (folder / "latents").iterdir())


@pytest.mark.parametrize("chunks", [0, 1, 4])
def test_a_killed_film_goes_on_to_the_bit(model, film, tmp_path, chunks):
    begun(model, tmp_path / "kept", chunks).close()
    director = Director.resume(tmp_path / "kept")
    assert (director.next_chunk, director.settings.pool) == (chunks, PoolConfig(9))
    assert same(director, film[chunks:])
    director.close()
    assert Director.resume(tmp_path / "kept", model).next_chunk == 5


def test_a_resumed_film_can_be_seen_from_its_beginning(model, film, tmp_path):
    begun(model, tmp_path, 4).close()
    director = Director.resume(tmp_path, model, from_beginning=True)
    assert director.next_chunk == 0 and names(tmp_path)[-1] == "000003.npz"
    chunks = list(director)
    assert same(chunks, film)
    assert ["denoise" in chunk.seconds for chunk in chunks] == [False] * 4 + [True]


def test_a_damaged_chunk_and_those_after_it_are_made_again(model, film, tmp_path):
    begun(model, tmp_path, 4).close()
    wrong_shape = {"latents": np.zeros((1, 3, 2, 2, 4), np.float32), "retrieved": np.zeros((2, 2))}
    for damage in (
        lambda file: file.write_bytes(b"torn"),
        lambda file: file.write_bytes(file.read_bytes()[:-30]),
        lambda file: np.savez(file, **wrong_shape),
        lambda file: file.unlink(),
    ):
        damage(tmp_path / "latents" / "000002.npz")
        director = Director.resume(tmp_path, model)
        assert names(tmp_path) == ["000000.npz", "000001.npz"]  # no stale chunk is left behind
        assert director.next_chunk == 2 and same(director, film[2:])
        director.close()


SHAPE, LAYERS = (1, 3, 2, 2, 4), 2
LATENTS, NONE = np.ones(SHAPE, np.float32), np.full((LAYERS, 2), -1, np.int32)


@pytest.mark.parametrize(
    "damage",
    [
        {"latents": LATENTS[:, :2]},
        {"latents": LATENTS.astype(np.int8)},
        {"latents": np.where(np.arange(4) > 2, np.float32(np.nan), LATENTS)},
        {"retrieved": NONE.astype(float)},
        {"retrieved": NONE[:1]},
        {"retrieved": NONE[0]},
        {"more": NONE},
    ],
)
def test_a_chunk_that_was_not_written_so_counts_as_damaged(damage, tmp_path):
    sound = {"latents": LATENTS, "retrieved": NONE}
    (tmp_path / "latents").mkdir()
    for number, arrays in enumerate((sound, sound | damage, sound)):
        np.savez(chunk_file(tmp_path, number), **arrays)
    (kept,) = read_chunks(tmp_path, SHAPE, LAYERS)
    assert np.array_equal(kept.latents, LATENTS) and np.array_equal(kept.retrieved, NONE)


def test_retakes_and_new_shots_are_kept_too(model, tmp_path):
    director = begun(model, tmp_path, 4)
    (tmp_path / "latents" / "notes.npz").write_text("not ours")
    director.retake("s2", seed=9)
    assert names(tmp_path) == ["000000.npz", "000001.npz", "notes.npz"]
    director.add_shot("Mia waves.", chunks=1)
    made = [next(director) for _ in range(4)]
    director.close()
    again = Director.resume(tmp_path, model)
    assert again.story == director.story and again.next_chunk == 6
    again.retake("s2")
    again.retake("s2", seed=9)
    assert same(again, made)


def test_a_film_without_shots_and_texts_with_space_around_them_come_back(model, tmp_path):
    director = begun(model, tmp_path, 0, Story((), " A story. ", negative=" night "))
    director.close()
    again = Director.resume(tmp_path, model)
    assert again.story == director.story and again.story.global_caption == "A story."
    again.add_shot(" Mia waves. ", chunks=1)
    assert again.resolved.shots[0].prompt == "A story. Mia waves."


def test_one_folder_keeps_one_film(model, tmp_path):
    trunk = begun(model, tmp_path, 3)
    kept = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    for film in (trunk.branch("s2"), Director(model, STORY, pool=PoolConfig(9))):
        with pytest.raises(UsageError, match="is being written by process"):
            film.keep_in(tmp_path)
    with pytest.raises(UsageError, match="is being written by process"):
        Director.resume(tmp_path, model)
    branch = trunk.branch("s2")
    trunk.keep_in(tmp_path)  # its own: nothing changes
    trunk.close()
    with pytest.raises(UsageError, match=r"holds another film \(journal.json\)"):
        branch.keep_in(tmp_path)
    after = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert after == {file: data for file, data in kept.items() if file.name != ".lock"}
    branch.keep_in(tmp_path / "branch")
    assert names(tmp_path / "branch") == ["000000.npz", "000001.npz"]
    whole = Director(model, Story((Shot("Mia waves.", chunks=1),)), functions=WHOLE_FILM)
    with pytest.raises(UsageError, match="cannot be kept chunk by chunk"):
        whole.keep_in(tmp_path / "whole")


def test_a_branch_shares_the_files_of_the_chunks_before_it(model, film, tmp_path):
    trunk = begun(model, tmp_path / "trunk", 4)
    branch = trunk.branch("s2")
    branch.keep_in(tmp_path / "branch")
    of = lambda name, chunk: tmp_path / name / "latents" / f"{chunk:06}.npz"
    assert names(tmp_path / "branch") == ["000000.npz", "000001.npz"]
    assert all(of("trunk", chunk).samefile(of("branch", chunk)) for chunk in range(2))
    trunk.retake("s1", caption="Mia walks.")  # its files are others now, the branch's are not
    next(trunk)
    assert not of("trunk", 0).samefile(of("branch", 0))
    branch.close()
    again = Director.resume(tmp_path / "branch", model, from_beginning=True)
    assert same(list(again), film[:2])


def test_a_branch_of_a_film_that_changed_since_writes_its_own_files(model, film, tmp_path):
    trunk = begun(model, tmp_path / "trunk", 4)
    branch = trunk.branch("s2")
    trunk.retake("s1", caption="Mia walks.")
    next(trunk)
    branch.keep_in(tmp_path / "branch")
    branch.close()
    again = Director.resume(tmp_path / "branch", model, from_beginning=True)
    assert same(list(again), film[:2])


@pytest.mark.parametrize("ends", [True, False])
def test_a_branch_is_kept_where_files_cannot_be_shared(model, film, tmp_path, monkeypatch, ends):
    def refuses(*_):
        raise OSError("no links here")

    trunk = begun(model, tmp_path / "trunk", 4)
    branch = trunk.branch("s2")
    if ends:
        trunk.close()  # its files are another process's from now on
    else:
        monkeypatch.setattr(os, "link", refuses)
    branch.keep_in(tmp_path / "branch")
    files = [tmp_path / name / "latents" / "000001.npz" for name in ("trunk", "branch")]
    assert not files[0].samefile(files[1])
    branch.close()
    again = Director.resume(tmp_path / "branch", model, from_beginning=True)
    assert same(list(again), film[:2])


def test_a_failed_write_loses_nothing(model, film, tmp_path):
    """A full disk, for example: the error comes out, and the film goes on when there is room."""
    director = begun(model, tmp_path, 1)
    shutil.move(tmp_path / "latents", tmp_path / "away")
    (tmp_path / "latents").write_text("in the way")
    for _ in range(2):
        with pytest.raises(DataError, match="cannot write"):
            next(director)
    (tmp_path / "latents").unlink()
    shutil.move(tmp_path / "away", tmp_path / "latents")
    assert same(director, film[1:])
    assert len(names(tmp_path)) == 5

    (tmp_path / "journal.json").unlink()
    (tmp_path / "journal.json").mkdir()
    for change in (
        lambda: director.add_shot("Mia waves.", chunks=1),
        lambda: director.retake("s2", seed=3),
    ):
        with pytest.raises(DataError, match="cannot write"):
            change()
    assert director.story.shots == STORY.shots and director.next_chunk == 5
    (tmp_path / "journal.json").rmdir()
    director.add_shot("Mia waves.", chunks=1)
    director.close()
    again = Director.resume(tmp_path, model)
    assert again.story == director.story and again.next_chunk == 5


def test_a_start_belongs_to_its_film(model, tmp_path):
    start = jnp.ones((1, 3, 4, 8, 16), jnp.bfloat16)
    np.save(tmp_path / "start.npy", np.zeros(3))  # left by something else
    begun(model, tmp_path, 1).close()
    assert Director.resume(tmp_path, model).next_chunk == 1

    other = tmp_path / "other"
    straight = list(Director(model, STORY, pool=PoolConfig(9), start=start))
    begun(model, other, 0, start=start).close()
    director = Director.resume(other, model)
    list(director)
    director.retake("s1")  # its second chunk is made from noise
    director.retake("s1", seed=STORY.seed)
    assert same(director, straight)
    director.close()
    np.save(other / "start.npy", np.zeros((1, 3, 4, 8, 16), np.float32))
    with pytest.raises(DataError, match="start of the film, is missing or damaged"):
        Director.resume(other, model)


def test_a_start_of_another_size_is_refused(model):
    with pytest.raises(UsageError, match=r"needs \(1, frames, 4, 8, 16\)"):
        Director(model, STORY, start=jnp.ones((1, 3, 2, 4, 16)))


def test_a_shot_that_is_all_start_has_no_other_noise(model):
    story = Story((Shot("Mia waves.", chunks=1), *STORY.shots))
    director = Director(model, story, pool=PoolConfig(9), start=jnp.ones((1, 3, 4, 8, 16)))
    next(director)
    with pytest.raises(UsageError, match="the picture or clip that the film starts from"):
        director.retake("s1", seed=4)
    assert director.retake("s1", caption="Mia jumps.").caption == "Mia jumps."
    assert next(director).shot.caption == "Mia jumps."


def test_what_cannot_go_on_is_refused(folder, model, tmp_path):
    with pytest.raises(DataError, match=r"no film was begun in .*: it has no journal.json"):
        Director.resume(tmp_path)
    begun(model, tmp_path, 1).close()
    told = json.loads((tmp_path / "journal.json").read_text())
    weights = told["weights"]
    for change, fault in (
        ({"weights": weights | {"transformer": "0" * 12}}, "begun with another transformer: load"),
        ({"weights": weights | {"tiny decoder": "0" * 12}}, "begun with another tiny decoder"),
        ({"schema": "causalcine/story@1"}, "is no journal of a film"),
        ({"pool": {"frames": "many"}}, "pool: frames must be a whole number or nothing"),
        ({"model": None}, "names no model folder"),
        ({"chunk_frames": "3"}, "chunk_frames must be a whole number"),
        ({"story": 1}, "must be a mapping"),
    ):
        (tmp_path / "journal.json").write_text(json.dumps(told | change))
        with pytest.raises(UsageError, match=fault):
            Director.resume(tmp_path)
    for name in ("story", "sampler", "weights", "start"):
        (tmp_path / "journal.json").write_text(
            json.dumps({key: value for key, value in told.items() if key != name})
        )
        with pytest.raises(UsageError, match=f"{name} is missing"):
            Director.resume(tmp_path)
    (tmp_path / "journal.json").write_text(json.dumps(told | {"model": str(tmp_path / "gone")}))
    with pytest.raises(DataError, match="gone"):
        Director.resume(tmp_path)
    assert Director.resume(tmp_path, model).next_chunk == 1


def test_weights_that_were_changed_after_loading_are_noticed(model, tmp_path):
    """As by an adapter, in one layer only."""
    begun(dataclasses.replace(model, folder=None), tmp_path, 1).close()
    leaves, structure = jax.tree.flatten(model.transformer)
    stacked = next(n for n, leaf in enumerate(leaves) if leaf.ndim == 3)
    leaves[stacked] = leaves[stacked].at[-1].add(1e-3)
    merged = dataclasses.replace(model, transformer=structure.unflatten(leaves))
    with pytest.raises(UsageError, match="begun with another transformer"):
        Director.resume(tmp_path, merged)
    assert Director.resume(tmp_path, tiny_model()).next_chunk == 1


def kept_chunks(take, count=5):
    return tuple(
        KeptChunk(np.full((1, 3, 4, 8, 16), take, np.float32), np.zeros((2, 2), np.int32))
        for _ in range(count)
    )


def takes(folder):
    """Which take each chunk on disk is of."""
    files = sorted((folder / "latents").glob("*.npz"))
    return {file.stem: int(np.load(file)["latents"].ravel()[0]) for file in files}


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_retake_that_was_stopped_while_chunks_are_removed(model, tmp_path, monkeypatch, goes_on):
    """Repeated, it removes the rest; if the film goes on instead, the removed come back."""
    settings = Director(model, STORY, pool=PoolConfig(9)).settings
    journal = Journal.new(tmp_path, model, None, pool_asked=True)
    journal.write(STORY, settings, kept_chunks(0))
    unlink = Path.unlink

    def stop(file, **options):
        if file.stem == "000003":
            raise KeyboardInterrupt
        unlink(file, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stop)
        with pytest.raises(KeyboardInterrupt):
            journal.write(STORY, settings, kept_chunks(0, 2))
    assert list(takes(tmp_path)) == ["000000", "000001", "000003", "000004"]
    journal.write(STORY, settings, kept_chunks(0, 6 if goes_on else 2))
    assert len(takes(tmp_path)) == (6 if goes_on else 2)


def test_a_story_that_was_stopped_while_it_is_written_is_written_again(
    model, tmp_path, monkeypatch
):
    """Else the chunks of one take would be kept under the story of another."""
    settings = Director(model, STORY, pool=PoolConfig(9)).settings
    journal = Journal.new(tmp_path, model, None, pool_asked=True)
    journal.write(STORY, settings, kept_chunks(0, 2))
    replace = os.replace

    def stop(*names):
        replace(*names)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", stop)
        with pytest.raises(KeyboardInterrupt):
            journal.write(dataclasses.replace(STORY, seed=9), settings, kept_chunks(0, 2))
    journal.write(STORY, settings, kept_chunks(0, 3))
    assert json.loads((tmp_path / "journal.json").read_text())["story"]["seed"] == STORY.seed


def test_a_chunk_that_cannot_be_read_now_is_not_taken_for_damaged(model, tmp_path):
    """Else it and all chunks after it would be removed and made again."""
    begun(model, tmp_path, 3).close()
    (tmp_path / "latents" / "000001.npz").rename(tmp_path / "away")
    (tmp_path / "latents" / "000001.npz").mkdir()  # any OSError but a missing file
    with pytest.raises(DataError, match=r"cannot read .*000001\.npz"):
        Director.resume(tmp_path, model)
    assert names(tmp_path) == ["000000.npz", "000001.npz", "000002.npz"]
