"""Runs on films of several sizes: batches of one size each, all compiled before the first step."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
from tiny_training import tiny_config, tiny_store
from toy_stage import toy_batches, toy_config, toy_stage

from causalcine_jax.data.loader import Loader
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.errors import UsageError
from causalcine_jax.training import step_memory
from causalcine_jax.training.config import HeldOutConfig
from causalcine_jax.training.loop import train
from causalcine_jax.training.stages.build import make_stage
from causalcine_jax.training.stages.ode import ODEConfig, ODEInit
from causalcine_jax.training.stages.self_forcing import SelfForcingConfig
from causalcine_jax.training.stages.trajectory_store import TrajectorySettings, trajectory_spec


class TakingTurns:
    """Batches of two sizes, one after the other."""

    def __init__(self, one, two):
        self._each, self._taken = (one, two), 0

    def __iter__(self):
        return self

    def __next__(self):
        self._taken += 1
        return next(self._each[(self._taken + 1) % 2])

    def get_state(self):
        return {"taken": self._taken, "each": [each.get_state() for each in self._each]}

    def set_state(self, state):
        self._taken = state["taken"]
        for each, its in zip(self._each, state["each"], strict=True):
            each.set_state(its)


def test_every_size_is_compiled_before_the_first_step(tmp_path, monkeypatch):
    checked, begun = [], []
    real = step_memory.check_fits

    def check(program, *rest):
        checked.append((program.in_avals[0][2]["x"].shape, len(begun)))
        real(program, *rest)

    class Counted(TakingTurns):
        def __next__(self):
            begun.append(self._taken)
            return super().__next__()

    monkeypatch.setattr(step_memory, "check_fits", check)
    unseen = tuple(itertools.islice(toy_batches(8, seed=9), 1))
    stage = dataclasses.replace(
        toy_stage(),
        batches=Counted(toy_batches(4), toy_batches(8)),
        of_each_size=lambda: [next(toy_batches(size)) for size in (4, 8)],
        held_out=(*itertools.islice(toy_batches(4, seed=9), 2), *unseen),
    )
    config = toy_config(tmp_path, held_out=HeldOutConfig(every=4, films=16, store="unseen"))
    assert int(train(config, stage).step) == 12
    # A step's program and the held-out one; the first batch was also looked at before.
    assert checked == [((size, 8), 2) for size in (4, 8, 4, 8)]


@pytest.mark.slow
def test_a_model_learns_from_films_of_two_lengths(tmp_path):
    paths = [
        str(tiny_store(tmp_path / name, seed=seed, frames=frames).path)
        for name, seed, frames in (("long", 0, 9), ("short", 1, 6))
    ]
    held_out = HeldOutConfig(every=4, films=8, store=",".join(paths))
    config = tiny_config(tmp_path / "run", ",".join(paths), steps=4, held_out=held_out)
    stage = make_stage(config)
    assert [batch["latents"].shape[1] for batch in stage.held_out] == [9, 6]
    assert "16 films of 9 latent frames of 4x4, 16 films of 6 latent frames" in stage.notes[0]
    train(config, stage)
    records = [json.loads(row) for row in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert np.isfinite(records[-1]["held_out_loss"])
    parts = dataclasses.replace(config, data=dataclasses.replace(config.data, chunks=3))
    with pytest.raises(UsageError, match=r"its films have 2 chunks, data.chunks is 3"):
        make_stage(parts)


def test_a_batch_of_short_films_is_that_of_their_store_alone(tmp_path):
    """So loss and gradient are those of the short films: nothing is added to them."""
    long, short = (tiny_store(tmp_path / str(n), seed=n, frames=n) for n in (9, 6))
    alone, mixed = Loader(short, 4, seed=1), Loader(MixedStore([long, short]), 4, seed=0)
    shorts = (batch for batch in mixed if batch["latents"].shape[1] == 6)
    for _ in range(4):
        one, two = next(alone), next(shorts)
        assert one.keys() == two.keys()
        for name in {*one} - {"index"}:
            np.testing.assert_array_equal(one[name], two[name])


def test_trajectories_of_several_sizes_are_refused(tmp_path):
    films = MixedStore([tiny_store(tmp_path / str(n), seed=n, frames=n) for n in (9, 6)])
    task = ODEInit((1,), SelfForcingConfig().sampler, ODEConfig().sampler(5.0))
    with pytest.raises(UsageError, match=r"ode.store: .* have films of 2 sizes"):
        trajectory_spec(films, task, TrajectorySettings(4, 0, {}))
