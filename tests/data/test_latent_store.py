"""The latent store: reads return what was written; damage, interruption, mismatch are noticed."""

import dataclasses
import json
import pickle

import numpy as np
import pytest
from latent_films import SPEC, damage, record, write_store

from causalcine_jax.data import latent_store
from causalcine_jax.data.latent_store import CorruptRecord, LatentStore
from causalcine_jax.data.latent_writer import LatentStoreWriter
from causalcine_jax.data.loader import Loader
from causalcine_jax.data.store_layout import partial_path
from causalcine_jax.errors import DataError, UsageError


def test_what_is_written_is_read(tmp_path):
    store = write_store(tmp_path / "films")
    assert len(store) == 7 and store.spec == SPEC
    for film in range(7):
        expected, got = record(film), store[film]
        assert {name: value.dtype.name for name, value in got.items()} == {
            "latents": "float32",
            "token_ids": "int32",
            "shot_of_chunk": "int32",
            "index": "int64",
        }
        np.testing.assert_array_equal(got["latents"], expected.latents.astype(np.float16))
        np.testing.assert_array_equal(
            got["token_ids"][: len(expected.token_ids)], expected.token_ids
        )
        assert not got["token_ids"][len(expected.token_ids) :].any()
        np.testing.assert_array_equal(got["shot_of_chunk"], expected.shot_of_chunk)
        assert got["index"] == film
        assert store.prompts(film) == expected.prompts
    with pytest.raises(IndexError, match="no record 7"):
        store[7]


def test_films_of_zeros_are_data(tmp_path):
    writer = LatentStoreWriter(tmp_path / "films", dataclasses.replace(SPEC, films=1))
    writer.write(range(1), [dataclasses.replace(record(0), latents=np.zeros((6, 2, 3, 4)))])
    assert not writer.finish()[0]["latents"].any()


def test_a_window_reads_and_checks_only_its_chunks(tmp_path):
    store = write_store(tmp_path / "films")
    whole = store[4]
    damage(store, film=4, chunk=0)
    store = LatentStore.open(store.path)
    window = store.window(4, 1, 1)
    np.testing.assert_array_equal(window["latents"], whole["latents"][3:6])
    np.testing.assert_array_equal(window["shot_of_chunk"], whole["shot_of_chunk"][1:])
    np.testing.assert_array_equal(window["token_ids"], whole["token_ids"])
    with pytest.raises(CorruptRecord, match="record 4 cannot be read"):
        store.window(4, 0, 1)
    with pytest.raises(CorruptRecord, match="record 4"):
        store[4]
    store[3], store[5]
    with pytest.raises(UsageError, match="2 chunks"):
        store.window(3, 1, 2)


def test_a_lost_shard_is_not_zeros(tmp_path):
    store = write_store(tmp_path / "films")
    next(
        file for file in (store.path / "latents" / "c" / "1").rglob("*") if file.is_file()
    ).unlink()
    store = LatentStore.open(store.path)
    store[2], store[6]
    with pytest.raises(CorruptRecord, match="record 3"):
        store[3]


def test_an_interrupted_store_goes_on_where_it_was(tmp_path):
    path = tmp_path / "films"
    writer = LatentStoreWriter(path, SPEC)
    assert writer.pending() == [range(0, 3), range(3, 6), range(6, 7)]
    writer.write(range(3, 6), [record(film) for film in range(3, 6)])
    with pytest.raises(
        DataError,
        match=r"films is not whole: 3 of 7 films are encoded; run causalcine encode again",
    ):
        LatentStore.open(path)
    with pytest.raises(DataError, match="3 of 7"):
        LatentStore.open(partial_path(path))

    writer = LatentStoreWriter(path, SPEC)
    assert writer.pending() == [range(0, 3), range(6, 7)]
    with pytest.raises(DataError, match="2 of 3 shards are still missing"):
        writer.finish()
    assert not path.exists()
    for films in writer.pending():
        writer.write(films, [record(film) for film in films])
    store = writer.finish()
    assert not partial_path(path).exists()
    np.testing.assert_array_equal(store[5]["latents"], record(5).latents.astype(np.float16))
    again = LatentStoreWriter(path, SPEC)
    assert again.pending() == [] and len(again.finish()) == 7


def test_a_store_made_otherwise_is_left_alone(tmp_path):
    path = tmp_path / "films"
    LatentStoreWriter(path, dataclasses.replace(SPEC, text_len=9))  # without a film, it is replaced
    writer = LatentStoreWriter(path, SPEC)
    writer.write(range(3), [record(film) for film in range(3)])
    with pytest.raises(UsageError, match=r"films is 7, asked 9; vae is 'v', asked 'w'"):
        LatentStoreWriter(path, dataclasses.replace(SPEC, films=9, vae="w"))


def test_films_of_another_shape_are_no_fault_of_the_disk(tmp_path):
    short = dataclasses.replace(record(0), latents=record(0).latents[:1])
    writer = LatentStoreWriter(tmp_path / "films", dataclasses.replace(SPEC, films=1))
    with pytest.raises(ValueError, match=r"latents of shape \(1, 2, 3, 4\), not \(6, 2, 3, 4\)"):
        writer.write(range(1), [short])


def test_latents_that_are_not_finite_are_refused(tmp_path):
    bad = record(1)
    bad.latents[0, 0, 0, 0] = np.nan
    writer = LatentStoreWriter(tmp_path / "films", SPEC)
    with pytest.raises(DataError, match=r"film 1: .* not finite"):
        writer.write(range(3), [record(0), bad, record(2)])
    assert writer.pending()[0] == range(3)


def test_opening_what_is_no_store(tmp_path):
    with pytest.raises(DataError, match=r"not a latent store.*causalcine encode"):
        LatentStore.open(tmp_path / "nothing")
    store = write_store(tmp_path / "films")
    spec_file = store.path / "store.json"
    spec_file.write_text(json.dumps(json.loads(spec_file.read_text()) | {"schema": 2}))
    with pytest.raises(DataError, match="schema 2, this version reads 1"):
        LatentStore.open(store.path)
    spec_file.write_text("{")
    with pytest.raises(DataError, match=r"name one of those in it: .*films"):
        LatentStore.open(store.path.parent)
    with pytest.raises(DataError, match="it is a file, and a store a folder"):
        LatentStore.open(spec_file)
    with pytest.raises(DataError, match=r"store.json cannot be read"):
        LatentStore.open(store.path)


def test_a_spec_names_all_its_faults():
    with pytest.raises(UsageError, match=r"films must be positive.*shots must be positive"):
        dataclasses.replace(SPEC, films=0, shots=0)
    with pytest.raises(UsageError, match="latent_frames 7 is not a multiple of chunk_frames 3"):
        dataclasses.replace(SPEC, latent_frames=7)


def test_a_store_travels_to_another_process(tmp_path):
    store = write_store(tmp_path / "films")
    np.testing.assert_array_equal(
        pickle.loads(pickle.dumps(store))[2]["latents"], store[2]["latents"]
    )


class Failing:
    """An array whose next reads fail with `errors`, one each."""

    def __init__(self, array, errors: list[str]):
        self._array, self._errors = array, errors

    def __getitem__(self, part):
        return self if self._errors else self._array[part]

    def read(self):
        return self

    def result(self):
        raise ValueError(self._errors.pop(0))


def failing(store: LatentStore, *errors: str) -> LatentStore:
    latents = Failing(store._arrays["latents"], list(errors))
    return LatentStore(store.path, store.spec, {**store._arrays, "latents": latents})


def test_storage_that_fails_for_a_moment_costs_no_record(tmp_path, monkeypatch):
    monkeypatch.setattr(latent_store, "WAITS", (0.0, 0.0))
    store = write_store(tmp_path / "films")
    moment = failing(store, "UNAVAILABLE: connection reset", "ABORTED: stale file handle")
    np.testing.assert_array_equal(moment[4]["latents"], store[4]["latents"])
    gone = ["UNAVAILABLE: connection reset"] * 3
    with pytest.raises(
        DataError, match=r"record 4 .*\(UNAVAILABLE: .*in 3 tries: the storage fails"
    ) as error:
        failing(store, *gone)[4]
    assert not isinstance(error.value, CorruptRecord)
    with (
        Loader(failing(store, *gone), 2) as loader,
        pytest.raises(DataError, match="the storage fails"),
    ):
        next(loader)
    assert loader.bad_records == ()
    with pytest.raises(CorruptRecord, match="record 4"):
        failing(store, "DATA_LOSS: CRC-32C checksum verification failed")[4]
