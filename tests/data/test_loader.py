"""The loader: order, epochs, processes, exact resuming, damaged records."""

import itertools
import json
import logging

import numpy as np
import pytest
from latent_films import SPEC, damage, record, write_store
from orbax.checkpoint import v1 as ocp

from causalcine_jax.data import loader
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.loader import Loader, OwnPart
from causalcine_jax.errors import DataError, UsageError


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("loader") / "films")


def indices(loader, batches: int) -> list[int]:
    return [int(i) for batch in itertools.islice(loader, batches) for i in batch["index"]]


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name])


def test_a_batch_is_what_training_expects(store):
    batch = next(Loader(store, 2))
    shapes = {name: (value.dtype.name, value.shape) for name, value in batch.items()}
    assert shapes == {
        "latents": ("float32", (2, 6, 2, 3, 4)),
        "token_ids": ("int32", (2, SPEC.shots, SPEC.text_len)),
        "shot_of_chunk": ("int32", (2, 2)),
        "index": ("int64", (2,)),
    }
    for row, film in enumerate(batch["index"]):
        np.testing.assert_array_equal(
            batch["latents"][row], record(int(film)).latents.astype(np.float16)
        )


def test_every_epoch_has_every_film_in_a_new_order(store):
    order = indices(Loader(store, 1), 4 * 7)
    epochs = [tuple(order[start : start + 7]) for start in range(0, 28, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 4
    assert order == indices(Loader(store, 1), 28)
    assert order != indices(Loader(store, 1, seed=1), 28)


def test_processes_share_one_order(store):
    alone = indices(Loader(store, 4), 14)
    parts = [Loader(store, 2, part=OwnPart(i, 2)) for i in range(2)]
    together = [indices(part, 14) for part in parts]
    for batch in range(14):
        shared = [i for part in together for i in part[2 * batch : 2 * batch + 2]]
        assert shared == alone[4 * batch : 4 * batch + 4]
    assert parts[0].get_state() == parts[1].get_state()
    one = Loader(store, 4)
    one.set_state(parts[0].get_state())
    assert [int(i) for i in next(one)["index"]] == [
        int(i) for part in parts for i in next(part)["index"]
    ]


def test_processes_that_share_films_notice_that_one_skipped_a_record(store, monkeypatch):
    """Of four processes the first two share films, and so do the others."""
    films = [int(i) for i in next(Loader(store, 2))["index"]]
    gathered = [films, films, [5, 6], [5, 6]]
    monkeypatch.setattr(loader, "films_of_all", lambda own: np.array(gathered))
    sharing, alone = Loader(store, 2, part=OwnPart(sharing=2)), Loader(store, 2)
    for _ in range(loader.BEHIND + 2):
        assert_same(next(sharing), next(alone))
    gathered[3] = [5, 0]
    for _ in range(loader.BEHIND):
        next(sharing)
    with pytest.raises(
        DataError, match=r"process 2 has read films \[5, 6\] and process 3 films \[5, 0\]"
    ):
        next(sharing)


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("cut", [0, 1, 3, 8])  # an epoch is 2 1/3 batches
def test_resuming_gives_the_batches_of_the_uninterrupted_run(store, cut, threads):
    with Loader(store, 3, threads=threads) as loader:
        for _ in range(cut):
            next(loader)
        state = json.loads(json.dumps(loader.get_state()))
        expected = list(itertools.islice(loader, 6))
    with Loader(store, 3, threads=threads) as resumed:
        next(resumed)
        resumed.set_state(state)
        for batch in expected:
            assert_same(next(resumed), batch)
        resumed.set_state(state)  # back again, in the same loader
        assert_same(next(resumed), expected[0])


def test_orbax_saves_it_beside_the_state(store, tmp_path):
    loader = Loader(store, 2)
    next(loader)
    with ocp.training.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_checkpointables(1, {"state": {"w": np.arange(3.0)}, "data": loader})
    expected = [next(loader) for _ in range(5)]
    resumed = Loader(store, 2)
    with ocp.training.Checkpointer(tmp_path) as checkpointer:
        restored = checkpointer.load_checkpointables(
            1, {"state": {"w": np.zeros(3)}, "data": resumed}
        )
    assert restored["data"] is resumed
    for batch in expected:
        assert_same(next(resumed), batch)


def test_a_position_of_another_order_is_refused(store):
    state = Loader(store, 2).get_state()
    with pytest.raises(UsageError, match=r"batch_size was 2, is 3; seed was 0, is 5"):
        Loader(store, 3, seed=5).set_state(state)


@pytest.mark.parametrize("threads", [0, 2])
def test_damaged_records_give_way_to_the_next(tmp_path, caplog, threads):
    store = write_store(tmp_path / "films")
    whole = indices(Loader(store, 2), 14)
    for film in (2, 6):
        damage(store, film, chunk=1)
    caplog.set_level(logging.WARNING)
    with Loader(LatentStore.open(store.path), 2, threads=threads, max_bad_fraction=0.3) as loader:
        got = indices(loader, 14)
        assert got == [{2: 3, 6: 0}.get(i, i) for i in whole]
        assert loader.bad_records == (2, 6)
    warnings = [r.getMessage() for r in caplog.records if "skipped record" in r.getMessage()]
    assert len(warnings) == 2 and any("skipped record 6" in w for w in warnings)


@pytest.mark.parametrize("threads", [0, 2])
def test_too_many_damaged_records_are_a_clear_failure(tmp_path, threads):
    store = write_store(tmp_path / "films")
    for film in (1, 2, 3):
        damage(store, film, chunk=0)
    with (
        Loader(LatentStore.open(store.path), 2, threads=threads, max_bad_fraction=0.3) as loader,
        pytest.raises(
            DataError, match=r"3 of 7 records cannot be read \(1, 2, 3\), max_bad_fraction allows 2"
        ),
    ):
        indices(loader, 14)


def test_bad_arguments_are_named_at_once(store):
    with pytest.raises(
        UsageError,
        match=r"batch_size must be at least 1.*part.index must be in 0..1.*max_bad_fraction",
    ):
        Loader(store, 0, part=OwnPart(2, 2), max_bad_fraction=1.0)


def test_a_closed_loader_stops(store):
    loader = Loader(store, 2, threads=2)
    next(loader)
    loader.close()
    loader.close()
    with pytest.raises(ValueError, match="closed"):
        next(loader)
