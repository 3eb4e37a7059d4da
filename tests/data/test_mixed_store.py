"""Several latent stores as one."""

import dataclasses

import numpy as np
import pytest
from latent_films import SPEC, damage, write_store

from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.loader import Loader
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


def test_every_difference_is_named(stores, tmp_path):
    other = write_store(tmp_path / "other", dataclasses.replace(SPEC, vae="w", text_len=6))
    with pytest.raises(UsageError, match=r"(?s)text_len 6.*has 5.*vae 'w'.*has 'v'"):
        MixedStore([*stores, other])
