"""A VAE of which one part learns."""

import jax
import numpy as np
import pytest
from tiny_training import tiny_config

from causalcine_jax.convert import load_vae, save_model
from causalcine_jax.data.encode import vae_hash
from causalcine_jax.errors import UsageError
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.training.config import AutoencoderConfig, CheckpointConfig, OptimConfig
from causalcine_jax.training.loop import train
from causalcine_jax.training.stages import build

SIZES = VAEConfig(4, 16, (1, 1), 1, (True,), mean=(0.0,) * 16, std=(1.0,) * 16)
PARTS = ("encoder", "conv1", "conv2", "decoder")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "model"
    save_model(folder, vae=jax.jit(lambda: VAE(SIZES, key=jax.random.key(1)))())
    return folder


def trained(model, out, monkeypatch, **autoencoder):
    monkeypatch.setattr(build, "STATISTICS_BATCHES", 2)
    train(
        tiny_config(
            out,
            stage="autoencoder",
            init=str(model),
            steps=4,
            batch=2,
            vae=SIZES,
            optim=OptimConfig(lr=3e-3, warmup=2, ema_decay=0.9, weight_decay=0.0),
            autoencoder=AutoencoderConfig(crop=(16, 24), **autoencoder),
            checkpoint=CheckpointConfig(every=4, export_dtype="float32"),
        )
    )
    return load_vae(out / "model")


def changed(one: VAE, other: VAE) -> set[str]:
    same = lambda part: all(
        np.array_equal(a, b)
        for a, b in zip(*(jax.tree.leaves(getattr(vae, part)) for vae in (one, other)), strict=True)
    )
    return {part for part in PARTS if not same(part)}


@pytest.mark.parametrize(
    ("part", "learns"),
    [("all", {*PARTS}), ("encoder", {"encoder", "conv1"}), ("decoder", {"conv2", "decoder"})],
)
def test_only_the_part_that_is_named_learns(model, tmp_path, monkeypatch, part, learns):
    vae = trained(model, tmp_path / "out", monkeypatch, train=part)
    assert changed(load_vae(model), vae) == learns
    # With a fixed encoder, stores of its latents are still those of this VAE.
    assert (vae_hash(vae) == vae_hash(load_vae(model))) == (part == "decoder")


def test_parts_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"autoencoder\.train"):
        tiny_config(stage="autoencoder", autoencoder=AutoencoderConfig(train="decoders"))
    with pytest.raises(UsageError, match=r"needs optim\.weight_decay=0"):
        tiny_config(
            stage="autoencoder",
            optim=OptimConfig(weight_decay=0.1, warmup=1),
            autoencoder=AutoencoderConfig(train="decoder"),
        )
