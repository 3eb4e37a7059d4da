"""A run that goes on must have the networks that it does not train as they were."""

import dataclasses
import json

import jax
import pytest
from tiny_models import random_weights
from toy_stage import OPTIM, toy_config, toy_stage

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.nn import Linear
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.training.fixed_weights import FILE, fixed_samples
from causalcine_jax.training.loop import train
from causalcine_jax.training.stages.autoencoder import AutoencoderConfig


def taught(teacher: int):
    fixed = {"teacher": Linear(8, 8, key=jax.random.key(teacher))}
    return dataclasses.replace(toy_stage(), fixed=fixed)


def test_a_run_goes_on_only_with_the_teacher_that_it_began_with(tmp_path):
    config = toy_config(tmp_path, steps=4, teacher="base/model")
    train(config, taught(1))
    longer = dataclasses.replace(config, steps=6)
    with pytest.raises(
        UsageError, match=r"another model: the weights of teacher .*\(teacher base/model\)"
    ):
        train(longer, taught(2))
    assert int(train(longer, taught(1)).step) == 6
    (tmp_path / FILE).write_text("{")
    with pytest.raises(DataError, match=f"{FILE} cannot be read"):
        train(longer, taught(1))


def test_a_run_of_another_dtype_or_from_before_samples_were_kept_goes_on(tmp_path):
    config = toy_config(tmp_path, steps=3)
    train(config, taught(1))
    rounded = dataclasses.replace(config, steps=4, dtype="bfloat16")
    assert int(train(rounded, taught(2), force=True).step) == 4
    (tmp_path / FILE).unlink()
    assert int(train(dataclasses.replace(rounded, steps=5), taught(3)).step) == 5
    assert json.loads((tmp_path / FILE).read_text()) == fixed_samples(rounded, taught(3))


def test_the_fixed_parts_of_a_vae_count():
    sizes = VAEConfig(4, 16, (1, 1, 1, 1), 1, mean=(0.0,) * 16, std=(1.0,) * 16)
    vae = random_weights(lambda key: VAE(sizes, key=key), 0)
    stage = dataclasses.replace(toy_stage(), trained={"vae": vae})
    decoder = AutoencoderConfig(train="decoder")
    optim = dataclasses.replace(OPTIM, weight_decay=0.0)
    config = toy_config("out", stage="autoencoder", autoencoder=decoder, optim=optim)
    assert [*fixed_samples(config, stage)["networks"]] == ["vae.conv1", "vae.encoder"]
    whole = dataclasses.replace(config, autoencoder=AutoencoderConfig())
    assert not fixed_samples(whole, stage)["networks"]
