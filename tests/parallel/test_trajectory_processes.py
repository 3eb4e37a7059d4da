"""Two processes write one store of trajectories, and it is the store that one process writes."""

import numpy as np
import pytest
from tiny_models import tiny_folder
from tiny_training import tiny_store
from two_processes import both_ended, two_processes

from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.training.flags import parse
from causalcine_jax.training.stages.build import make_stage

FILMS = 11  # a full shard and a short one


@pytest.mark.slow
@pytest.mark.parametrize("seq", [1, 2])
def test_a_store_by_two_processes_is_that_of_one(seq, tmp_path):
    """With seq=1 each writes a shard, and one waits for the other; with seq=2 they share films."""
    tiny_store(tmp_path / "films")
    tiny_folder(tmp_path / "teacher")

    def flags(name: str) -> list[str]:
        settings = {
            "stage": "ode_init",
            "teacher": tmp_path / "teacher",
            "out": tmp_path / name,
            "data.store": tmp_path / "films",
            "ode.store": tmp_path / name / "trajectories",
            "ode.films": FILMS,
            "ode.steps": 4,
            "self_forcing.steps": 2,
            "steps": 1,
            "batch": 2,
            "optim.schedule": "constant",
            "optim.warmup": 0,
        }
        changes = [f"--config.{key}={value}" for key, value in settings.items()]
        return ["--config=tests/support/tiny_training.py", *changes]

    pair = two_processes("launch/train.py", *flags("together"), f"--config.seq={seq}", devices=1)
    make_stage(parse(flags("alone"))[0])
    for code, _, errors in both_ended(pair):
        assert code == 0, errors
    together, alone = (
        LatentStore.open(tmp_path / name / "trajectories") for name in ("together", "alone")
    )
    assert together.spec == alone.spec and len(together) == FILMS
    for ours, wanted in zip(together, alone, strict=True):
        for name in wanted:  # but for the store's float16
            np.testing.assert_allclose(ours[name], wanted[name], rtol=2e-3, atol=4e-3)
