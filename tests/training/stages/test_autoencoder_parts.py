"""Stage autoencoder: a VAE from scratch, one of which a part learns, the critic of its pictures."""

import dataclasses
import json

import jax
import numpy as np
import optax
import pytest
from tiny_training import tiny_config

from causalcine_jax.convert import load_vae, save_model
from causalcine_jax.data.encode import vae_hash
from causalcine_jax.errors import UsageError
from causalcine_jax.models.vae.critic import PatchCritic
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.training import loop
from causalcine_jax.training.config import AutoencoderConfig, CheckpointConfig, OptimConfig
from causalcine_jax.training.loop import train
from causalcine_jax.training.stages import build
from causalcine_jax.training.stages.autoencoder import autoencoder_loss, picture_critic_loss
from causalcine_jax.training.stages.build import make_stage

SIZES = VAEConfig(4, 16, (1, 1, 1), 1, (True, True), mean=(0.0,) * 16, std=(1.0,) * 16)
PARTS = ("encoder", "conv1", "conv2", "decoder")


@pytest.fixture(scope="module")
def vae():
    return jax.jit(lambda: VAE(SIZES, key=jax.random.key(1)))()


@pytest.fixture(scope="module")
def model(vae, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae") / "model"
    save_model(folder, vae=vae)
    return folder


@pytest.fixture(scope="module")
def video():
    return jax.random.uniform(jax.random.key(0), (2, 5, 16, 24, 3), minval=-1)


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch):
    monkeypatch.setattr(build, "STATISTICS_BATCHES", 2)


def config_of(out, init="", **autoencoder):
    return tiny_config(
        out,
        stage="autoencoder",
        init=str(init),
        steps=4,
        batch=2,
        vae=SIZES,
        optim=OptimConfig(lr=3e-3, warmup=2, ema_decay=0.9, weight_decay=0.0),
        critic_optim=OptimConfig(lr=1e-3, warmup=0),
        autoencoder=AutoencoderConfig(**{"crop": (16, 24)} | autoencoder),
        checkpoint=CheckpointConfig(every=4, export_dtype="float32"),
    )


def trained(config):
    train(config)
    return load_vae(f"{config.out}/model")


def records(out) -> list[dict]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def changed(one: VAE, other: VAE) -> set[str]:
    same = lambda part: all(
        np.array_equal(a, b)
        for a, b in zip(*(jax.tree.leaves(getattr(vae, part)) for vae in (one, other)), strict=True)
    )
    return {part for part in PARTS if not same(part)}


def test_a_vae_from_scratch_learns_in_all_parts_and_has_measured_latents(tmp_path, monkeypatch):
    starts, first_state = [], loop.first_state

    def noted(*given):
        state, shardings = first_state(*given)
        starts.append(jax.tree.map(np.array, state.params["vae"]))
        return state, shardings

    monkeypatch.setattr(loop, "first_state", noted)
    vae, (before,) = trained(config_of(tmp_path, crop=(0, 0))), starts  # of whole frames
    assert changed(before, vae) == {*PARTS}
    assert 0.0 not in vae.cfg.mean and min(vae.cfg.std) > 0 and vae.cfg.std != (1.0,) * 16
    assert {"loss", "l1", "edge", "kl", "psnr"} <= set(records(tmp_path)[-1])


@pytest.mark.parametrize(
    ("part", "learns"), [("encoder", {"encoder", "conv1"}), ("decoder", {"conv2", "decoder"})]
)
def test_only_the_part_that_is_named_learns_and_is_exported(
    vae, model, video, part, learns, tmp_path
):
    gradient_of = jax.jit(jax.grad(autoencoder_loss, has_aux=True), static_argnums=3)
    gradient, _ = gradient_of(vae, video, jax.random.key(3), AutoencoderConfig(train=part))
    assert changed(jax.tree.map(np.zeros_like, gradient), gradient) == learns
    stepped = lambda leaf, g: np.asarray(leaf) - np.float32(0.1) * np.asarray(g)
    make_stage(config_of(tmp_path / "out", model, train=part)).export(
        {"vae": jax.device_put(jax.tree.map(stepped, vae, gradient))}, tmp_path / "model", {}
    )
    exported = load_vae(tmp_path / "model")
    assert changed(load_vae(model), exported) == learns
    # With a fixed encoder, stores of its latents are still those of this VAE.
    assert (vae_hash(exported) == vae_hash(load_vae(model))) == (part == "decoder")


def test_parts_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match=r"autoencoder\.train"):
        tiny_config(stage="autoencoder", autoencoder=AutoencoderConfig(train="decoders"))
    with pytest.raises(UsageError, match=r"needs optim\.weight_decay=0"):
        tiny_config(
            stage="autoencoder",
            optim=OptimConfig(weight_decay=0.1, warmup=1),
            autoencoder=AutoencoderConfig(train="decoder"),
        )
    with pytest.raises(UsageError, match=r"autoencoder\.noise .* needs init"):
        make_stage(
            tiny_config(
                stage="autoencoder",
                optim=OptimConfig(weight_decay=0.0, warmup=1),
                autoencoder=AutoencoderConfig(crop=(16, 24), noise=0.5),
            )
        )
    with pytest.raises(UsageError, match="crop of multiples of 8, not"):
        tiny_config(
            stage="autoencoder",
            optim=OptimConfig(weight_decay=0.0, warmup=1),
            autoencoder=AutoencoderConfig(crop=(16, 20), adversarial=0.1),
        )


def test_a_critic_and_noise_train_the_decoder_alone(model, tmp_path):
    config = config_of(tmp_path / "out", model, train="decoder", noise=0.5, adversarial=0.1)
    state = train(config)
    assert changed(load_vae(model), state.params["vae"]) == {"conv2", "decoder"}
    vae = load_vae(tmp_path / "out" / "model")
    assert changed(load_vae(model), vae) == {"conv2", "decoder"}
    # With a fixed encoder, stores of its latents are still those of this VAE.
    assert vae_hash(vae) == vae_hash(load_vae(model))
    record = records(tmp_path / "out")[-1]
    assert {"adversarial", "critic_loss", "critic_lr", "logit_true", "r1"} <= record.keys()
    # Untrained, it is at chance: log 2 for either kind of clip.
    assert record["critic_loss"] == pytest.approx(2 * np.log(2), rel=0.1)
    assert sorted(path.name for path in (tmp_path / "out" / "model").iterdir()) == [
        "metadata.json",
        "vae",
    ]


def test_a_critic_learns_to_tell_clips_from_decoded_ones(vae, video):
    config, optimizer = AutoencoderConfig(adversarial=0.1), optax.adam(1e-2)

    @jax.jit
    def learn(critic):
        def step(carry, _):
            critic, state = carry
            loss = lambda critic: picture_critic_loss(critic, vae, video, jax.random.key(3), config)
            gradient, parts = jax.grad(loss, has_aux=True)(critic)
            updates, state = optimizer.update(gradient, state)
            return (optax.apply_updates(critic, updates), state), parts

        (critic, _), parts = jax.lax.scan(step, (critic, optimizer.init(critic)), length=30)
        return critic, parts

    critic, parts = learn(jax.jit(lambda: PatchCritic(8, key=jax.random.key(2)))())
    assert parts["logit_true"][-1] > parts["logit_decoded"][-1] + 1
    # The VAE's loss has the critic's term, and its gradient reaches the decoder.
    loss = jax.jit(jax.grad(autoencoder_loss, has_aux=True), static_argnums=3)
    with_critic, parts = loss(vae, video, jax.random.key(3), config, critic)
    without, _ = loss(vae, video, jax.random.key(3), config, jax.tree.map(np.zeros_like, critic))
    assert parts["loss"] == pytest.approx(
        parts["l1"] + 0.5 * parts["edge"] + 1e-3 * parts["kl"] + 0.1 * parts["adversarial"]
    )
    assert not np.allclose(
        jax.tree.leaves(with_critic.decoder)[0], jax.tree.leaves(without.decoder)[0]
    )


def test_noise_is_in_units_of_each_channels_std(vae, video):
    loss = jax.jit(autoencoder_loss, static_argnums=3)
    of = lambda vae, noise: float(
        loss(vae, video[:1, :1], jax.random.key(3), AutoencoderConfig(noise=noise))[1]["l1"]
    )
    still = dataclasses.replace(SIZES, std=(1e-9,) * 16)
    quiet = jax.tree.unflatten(
        jax.tree.structure(jax.eval_shape(lambda: VAE(still, key=jax.random.key(0)))),
        jax.tree.leaves(vae),
    )
    assert of(quiet, 2.0) == pytest.approx(of(vae, 0.0), abs=1e-6) != of(vae, 2.0)
