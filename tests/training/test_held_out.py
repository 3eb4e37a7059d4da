"""The loss on films that are not trained on, in the records of a run."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_training import tiny_config, tiny_store
from toy_stage import toy_batches, toy_config, toy_stage

from causalcine_jax.errors import UsageError
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.training.config import DataConfig, HeldOutConfig
from causalcine_jax.training.held_out import HeldOut
from causalcine_jax.training.loop import train
from causalcine_jax.training.stages.autoencoder import AutoencoderConfig
from causalcine_jax.training.stages.build import make_stage

UNSEEN = tuple(itertools.islice(toy_batches(4, seed=9), 3))


def run(out, every: int) -> tuple[list[dict], object]:
    config = toy_config(out, held_out=HeldOutConfig(every=every, films=12, store="unseen"))
    state = train(config, dataclasses.replace(toy_stage(), held_out=UNSEEN))
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()], state


def test_weights_and_their_average_are_measured_on_the_same_batches(tmp_path):
    records, state = run(tmp_path / "a", every=5)
    told = {record["step"]: record for record in records if "held_out_loss" in record}
    assert sorted(told) == [5, 10, 12]  # and at the end
    for name, nets in (("held_out", state.params), ("held_out_ema", state.ema)):
        errors = [
            np.mean(np.square(np.asarray(nets["net"](jnp.asarray(batch["x"]))) - 2 * batch["x"]))
            for batch in UNSEEN
        ]
        assert told[12][f"{name}_loss"] == pytest.approx(np.mean(errors), rel=1e-4)
        assert told[12][f"{name}_first"] == pytest.approx(
            np.mean([batch["x"][0, 0] for batch in UNSEEN]), rel=1e-6
        )
    assert told[12]["held_out_ema_loss"] != told[12]["held_out_loss"]


def test_films_are_measured_a_micro_batch_at_a_time(tmp_path):
    optim = dataclasses.replace(toy_config(tmp_path).optim, accumulation=2)
    held_out = HeldOutConfig(every=5, films=12, store="unseen")
    stage = dataclasses.replace(toy_stage(), held_out=UNSEEN)
    stage = dataclasses.replace(
        stage, updates=tuple(dataclasses.replace(each, optim=optim) for each in stage.updates)
    )
    whole, parts = (
        HeldOut(each, toy_config(tmp_path, held_out=held_out), make_mesh(), print)
        for each in (dataclasses.replace(toy_stage(), held_out=UNSEEN), stage)
    )
    _, state = run(tmp_path, every=0)
    parts.compile(state, {})
    seen = [each.in_avals[0][2]["x"].shape for each in parts._metrics._programs.values()]
    assert seen == [(2, *UNSEEN[0]["x"].shape[1:])]
    losses = [each(state, {})["held_out_loss"] for each in (parts, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_measuring_changes_nothing(tmp_path):
    with_it, _ = run(tmp_path / "a", every=4)
    without, _ = run(tmp_path / "b", every=0)
    losses = lambda records: [record["loss"] for record in records if "loss" in record]
    assert losses(with_it) == losses(without) and not any(
        "held_out_loss" in record for record in without
    )


def test_films_are_measured_by_noise_level_with_both_networks(tmp_path):
    seen, unseen = (
        str(tiny_store(tmp_path / name, films=8, seed=seed).path)
        for name, seed in (("seen", 0), ("unseen", 1))
    )
    config = tiny_config(
        tmp_path / "run", seen, held_out=HeldOutConfig(every=1, films=8, store=unseen)
    )
    stage = make_stage(config)
    assert set(stage.trained) == {"transformer", "text_encoder"} and len(stage.held_out) == 2
    measure = HeldOut(stage, config, make_mesh(), print)
    nets = {name: jax.jit(make)(jax.random.key(0)) for name, make in stage.trained.items()}
    state = SimpleNamespace(params=nets, ema=nets)
    told = measure(state, {})
    assert {"held_out_mse", "held_out_ema_mse", "held_out_mse_t750_1000"} <= set(told)
    assert told["held_out_loss"] == pytest.approx(told["held_out_ema_loss"])


def test_films_that_cannot_be_measured_are_refused(tmp_path):
    store, unseen = (
        tiny_store(tmp_path / name, seed=seed).path for name, seed in (("seen", 0), ("unseen", 1))
    )
    few = HeldOutConfig(every=2, films=32, store=str(unseen))
    with pytest.raises(UsageError, match="32 are asked for"):
        make_stage(tiny_config(tmp_path / "run", store, held_out=few))
    spec = unseen / "store.json"
    spec.write_text(spec.read_text().replace('"tokenizer": ""', '"tokenizer": "another"'))
    enough = dataclasses.replace(few, films=8)
    with pytest.raises(UsageError, match=f"{unseen}.*another tokenizer"):
        make_stage(tiny_config(tmp_path / "run", store, held_out=enough))


def test_an_autoencoder_is_measured_on_clips_of_other_stories():
    vae = VAEConfig(4, 16, (1, 1, 1, 1), 1, mean=(0.0,) * 16, std=(1.0,) * 16)
    config = tiny_config(
        stage="autoencoder",
        vae=vae,
        autoencoder=AutoencoderConfig(crop=(8, 16)),
        data=DataConfig(clip_frames=1),
        held_out=HeldOutConfig(every=1, films=8),
    )
    stage = make_stage(config)
    assert len(stage.held_out) == 2 and not np.array_equal(stage.held_out[0], next(stage.batches))


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"held_out": HeldOutConfig(every=1)}, "needs held_out.store"),
        (
            {"held_out": HeldOutConfig(every=1, films=6, store="x")},
            "6 is not a multiple of batch 4",
        ),
        (
            {"held_out": HeldOutConfig(every=1, store="x"), "stage": "dmd", "teacher": "t"},
            "evaluate the model",
        ),
    ],
)
def test_what_cannot_be_measured_is_said(changes, words):
    with pytest.raises(UsageError, match=words):
        tiny_config(**changes)
