"""Several latent stores as one."""

import dataclasses

import numpy as np
import pytest
from latent_films import SPEC, damage, write_store

from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.loader import Loader, OwnPart
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.errors import UsageError


@pytest.fixture
def stores(tmp_path):
    return [
        write_store(tmp_path / "few", SPEC),
        write_store(tmp_path / "many", dataclasses.replace(SPEC, films=4, shots=5)),
    ]


def test_films_of_the_second_store_follow_those_of_the_first(stores):
    mixed = MixedStore(stores)
    assert len(mixed) == 11 and mixed.spec.films == 11 and mixed.spec.shots == 5
    for index, (store, film) in {0: (0, 0), 6: (0, 6), 7: (1, 0), 10: (1, 3)}.items():
        record, wanted = mixed[index], stores[store][film]
        np.testing.assert_array_equal(record["latents"], wanted["latents"])
        shots = len(wanted["token_ids"])
        np.testing.assert_array_equal(record["token_ids"][:shots], wanted["token_ids"])
        assert (
            record["token_ids"].shape == (5, SPEC.text_len)
            and not record["token_ids"][shots:].any()
        )
        assert record["index"] == index
    with pytest.raises(IndexError):
        mixed[11]


def test_a_loader_draws_from_all_and_skips_damage(stores):
    damage(stores[1], 2, 0)
    loader = Loader(
        MixedStore([LatentStore.open(store.path) for store in stores]), 1, max_bad_fraction=0.2
    )
    seen = sorted(int(next(loader)["index"][0]) for _ in range(11))
    assert seen == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 10] and loader.bad_records == (9,)


def test_films_of_one_size_stand_together(stores, tmp_path):
    """A batch has films of one size; each size comes about as often as it has films."""
    short = [
        write_store(tmp_path / f"short{n}", dataclasses.replace(SPEC, films=n, latent_frames=3))
        for n in (4, 3)
    ]
    tall = write_store(tmp_path / "tall", dataclasses.replace(SPEC, films=6, height=3, width=2))
    mixed = MixedStore([stores[0], short[0], tall, stores[1], short[1]])
    assert mixed.alike == [range(11), range(11, 18), range(18, 24)]
    assert [spec.shapes()["latents"][:3] for spec in mixed.sizes] == [
        (6, 2, 3), (3, 2, 3), (6, 3, 2),
    ]  # fmt: skip
    np.testing.assert_array_equal(mixed[7]["latents"], stores[1][0]["latents"])
    np.testing.assert_array_equal(mixed[15]["latents"], short[1][0]["latents"])
    loader = Loader(mixed, 2)
    seen = [next(loader) for _ in range(24)]
    of_size = {(6, 2, 3): range(11), (3, 2, 3): range(11, 18), (6, 3, 2): range(18, 24)}
    for batch in seen:
        assert {*batch["index"]} <= {*of_size[batch["latents"].shape[1:4]]}
    assert [batch["latents"].shape for batch in loader.of_each_size()] == [
        (2, *size, 4) for size in of_size
    ]
    # 24 batches of two films: every film about twice, as grain rounds shares to a hundredth.
    counts = np.bincount(np.concatenate([batch["index"] for batch in seen]), minlength=24)
    assert counts.min() >= 1 and counts.max() <= 3
    of_each = [int(counts[[*films]].sum()) for films in mixed.alike]
    assert np.abs(np.subtract(of_each, [22, 14, 12])).max() <= 2


def test_processes_get_batches_of_the_same_size_and_resume(stores, tmp_path):
    short = write_store(tmp_path / "short", dataclasses.replace(SPEC, films=5, latent_frames=3))
    mixed = MixedStore([*stores, short])
    alone = Loader(mixed, 4)
    parts = [Loader(mixed, 2, part=OwnPart(n, 2)) for n in range(2)]
    for step in range(20):
        if step == 7:
            parts[0] = Loader(mixed, 2, part=OwnPart(0, 2))
            parts[0].set_state(parts[1].get_state())
        wanted, got = next(alone), [next(part) for part in parts]
        for name, value in wanted.items():
            np.testing.assert_array_equal(value, np.concatenate([batch[name] for batch in got]))
    with pytest.raises(UsageError, match=r"films was \[11, 5\], is 11"):
        Loader(MixedStore(stores), 4).set_state(alone.get_state())


def test_a_damaged_film_gives_way_to_one_of_its_size(stores, tmp_path):
    short = write_store(tmp_path / "short", dataclasses.replace(SPEC, films=3, latent_frames=3))
    damage(short, 2, 0)
    opened = [LatentStore.open(store.path) for store in (stores[0], short, stores[1])]
    loader = Loader(MixedStore(opened), 1, max_bad_fraction=0.1)
    seen = sorted(int(next(loader)["index"][0]) for _ in range(14))
    assert seen == [*range(11), 11, 11, 12] and loader.bad_records == (13,)


def test_every_difference_is_named(stores, tmp_path):
    other = write_store(tmp_path / "other", dataclasses.replace(SPEC, vae="w", text_len=6))
    with pytest.raises(UsageError, match=r"(?s)text_len 6.*has 5.*vae 'w'.*has 'v'"):
        MixedStore([*stores, other])
