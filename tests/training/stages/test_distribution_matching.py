"""The two losses of distribution matching on networks: who learns from what, and a few steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_networks import ROLLOUT_SIZES as CONFIG
from tiny_models import random_weights

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.models.attention import backends, segments
from causalcine_jax.models.discriminator import Discriminator
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import Module, Param
from causalcine_jax.training.stages import dmd as distribution_matching
from causalcine_jax.training.stages.dmd import (
    DistributionMatching,
    DMDConfig,
    critic_loss,
    generator_loss,
)
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.self_forcing import SelfForcingConfig, student_rollout

TASK = DistributionMatching(
    null_prompt=(1, 0, 0, 0, 0),
    passes=PassConfig(MemoryConfig("camr", window_chunks=1, memory_frames=1), chunk_frames=1),
    self_forcing=SelfForcingConfig(steps=2, grad_frames=2),
    gan=GANConfig(taps=(1.0,), r1_weight=1.0),
)
PURE_NOISE = DMDConfig(t_min=1000, t_max=1000)


class Words(Module):
    """A text encoder that compiles in no time: a vector for each word."""

    def __init__(self, key):
        self.table = Param(jax.random.normal(key, (40, CONFIG.text_dim)))

    def __call__(self, ids, mask):
        return self.table[...][ids] * mask[..., None]


@pytest.fixture(scope="module")
def nets():
    make = lambda key: Transformer(CONFIG, key=key)
    return {
        "student": random_weights(make, 0),
        "teacher": random_weights(make, 1),
        "fake_score": random_weights(make, 2),
        "text_encoder": random_weights(Words, 3),
        "head": random_weights(lambda key: Discriminator(CONFIG.dim, 1, key=key), 4),
    }


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    ids = rng.integers(2, 40, (2, 2, 5))
    ids[:, :, 4] = 1
    latents = rng.standard_normal((2, 3, 4, 4, 4)).astype(np.float32)
    films = {
        "latents": latents,
        "token_ids": ids,
        "shot_of_chunk": np.array([[0, 0, 1], [0, 1, 1]], np.int32),
    }
    return jax.tree.map(jnp.asarray, films)


@pytest.fixture(scope="module")
def rolled_out(nets, batch):
    """Four rollouts of the student: their leaves, stacked, and how they make one."""
    shots, frame = batch["shot_of_chunk"], batch["latents"].shape[2:]

    @jax.jit
    def roll(nets, ids, key):
        text = nets["text_encoder"](ids, ids > 0)
        return student_rollout(
            nets["student"], text, shots, frame, key, TASK.self_forcing, TASK.passes
        )

    films = [roll(nets, batch["token_ids"], jax.random.key(seed)) for seed in range(4)]
    leaves = [jnp.stack(same) for same in zip(*map(jax.tree.leaves, films), strict=True)]
    return leaves, jax.tree.structure(films[0])


@pytest.fixture
def given_film(batch, rolled_out, monkeypatch):
    """Losses score one of four films: tests of what they do with it compile no rollout."""

    def given(student, text, shots, frame, key, config, passes):
        assert config.steps == TASK.self_forcing.steps and frame == batch["latents"].shape[2:]
        start = config.grad_start(key, shots.shape[1], passes.chunk_frames)
        which = jax.random.randint(key, (), 0, 4)
        leaves, structure = rolled_out
        film = jax.tree.unflatten(structure, [leaf[which] for leaf in leaves])
        return dataclasses.replace(film, start=start)

    monkeypatch.setattr(distribution_matching, "student_rollout", given)


@pytest.fixture
def forward_mode(monkeypatch):
    """XLA's attention: the CPU's own, which has this width on some processors, has no `jvp`."""
    monkeypatch.setitem(backends.BACKENDS, "cpu", backends.BACKENDS["cpu"][-1:])
    monkeypatch.setattr(segments, "fits", lambda *_: False)


def learners(loss, names, nets, batch):
    """For each metric, the networks whose weights change it.

    It is a derivative per network, along all its weights at once.
    """

    def metrics_of(nets):
        _, metrics = loss(nets, {}, batch, jax.random.key(0))
        return jnp.stack([metrics[name][0] for name in names])

    def slope(moved):
        direction = {
            net: jax.tree.map(lambda leaf, i=i: moved[i] * jnp.ones_like(leaf), nets[net])
            for i, net in enumerate(nets)
        }
        return jax.jvp(metrics_of, (nets,), (direction,))[1]

    slopes = jax.jit(jax.vmap(slope))(jnp.eye(len(nets)))
    return {
        name: {net for net, value in zip(nets, slopes[:, i], strict=True) if value != 0}
        for i, name in enumerate(names)
    }


@pytest.mark.usefixtures("forward_mode")
def test_generator_terms_depend_on_the_expected_networks(nets, batch):
    """Distribution matching reaches the student (and the text it reads) but no score.

    The adversarial term passes through fake score and head, which are fixed for the student.
    """
    assert learners(generator_loss(TASK), ["dmd", "adversarial"], nets, batch) == {
        "dmd": {"student", "text_encoder"},
        "adversarial": {"student", "text_encoder", "fake_score", "head"},
    }


@pytest.mark.slow
def test_a_film_that_is_committed_again_teaches_the_same(nets, batch):
    again = dataclasses.replace(
        TASK, self_forcing=dataclasses.replace(TASK.self_forcing, recommit=True)
    )
    flat = lambda tree: jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])
    rest = {name: net for name, net in nets.items() if name != "student"}

    def learned(task):
        loss = jax.jit(jax.value_and_grad(generator_loss(task), has_aux=True))
        (value, _), gradient = loss({"student": nets["student"]}, rest, batch, jax.random.key(0))
        return value, flat(gradient)

    (value, gradient), (wanted, wanted_gradient) = learned(again), learned(TASK)
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    assert (
        float(jnp.linalg.norm(gradient - wanted_gradient) / jnp.linalg.norm(wanted_gradient))
        <= 1e-5
    )


@pytest.mark.usefixtures("forward_mode")
def test_critic_terms_depend_on_the_expected_networks(nets, batch):
    found = learners(critic_loss(TASK), ["critic_mse", "discriminator", "r1"], nets, batch)
    assert found == {"critic_mse": {"fake_score"}, "discriminator": {"head"}, "r1": {"head"}}


@pytest.mark.usefixtures("forward_mode")
def test_the_heads_loss_reaches_the_trunk_when_it_is_asked_to(nets, batch):
    trunk = dataclasses.replace(TASK, gan=GANConfig(taps=(1.0,), trunk=True))
    assert learners(critic_loss(trunk), ["discriminator"], nets, batch) == {
        "discriminator": {"fake_score", "head"}
    }


@pytest.mark.usefixtures("given_film")
@pytest.mark.parametrize("context", ["clean_rollout", "noisy_causal"])
def test_a_student_that_the_scores_agree_on_is_left_alone(nets, batch, context):
    """One network as both scores, under the null prompt: guidance steers away from nothing.

    So the gradient vanishes.
    """
    task = dataclasses.replace(
        TASK, dmd=DMDConfig(score_context=context), gan=GANConfig(generator_weight=0)
    )
    gradient = jax.jit(
        lambda nets, batch: generator_loss(task)(nets, {}, batch, jax.random.key(1))[1][
            "dmd_gradient"
        ][0]
    )
    agreeing = {**nets, "teacher": nets["fake_score"]}
    null = {
        **batch,
        "token_ids": np.broadcast_to(np.array(task.null_prompt), batch["token_ids"].shape),
    }
    assert float(gradient(agreeing, null)) <= 1e-5
    # Memory guidance is the teacher's alone, so then they do not agree.
    by_memory = dataclasses.replace(
        task,
        dmd=DMDConfig(score_context=context, real_memory_guidance=1.0),
        self_forcing=SelfForcingConfig(steps=2, grad_frames=0),  # also the chunk that has memory
    )
    loss = jax.jit(lambda nets: generator_loss(by_memory)(nets, {}, null, jax.random.key(1)))
    assert float(loss(agreeing)[1]["dmd_gradient"][0]) > 1e-4
    guided, other = (float(gradient(n, batch)) for n in (agreeing, nets))
    assert guided > 1e-3 and other > 1e-3 and guided != other


def trained_critic(task, nets, batch, names, steps=40):
    """Metrics [steps] of the critic's loss while Adam trains the networks `names`."""
    loss, optimizer = critic_loss(task), optax.adam(1e-2)
    trained, fixed = (
        {name: net for name, net in nets.items() if (name in names) == wanted}
        for wanted in (True, False)
    )

    def step(carry, key):
        trained, state = carry
        grads, metrics = jax.grad(loss, has_aux=True)(trained, fixed, batch, key)
        updates, state = optimizer.update(grads, state)
        return (jax.tree.map(jnp.add, trained, updates), state), {
            name: value for name, (value, _) in metrics.items()
        }

    @jax.jit
    def metrics(trained):
        keys = jax.random.split(jax.random.key(2), steps)
        return jax.lax.scan(step, (trained, optimizer.init(trained)), keys)[1]

    return {name: np.asarray(values) for name, values in metrics(trained).items()}


@pytest.mark.usefixtures("given_film")
def test_the_critics_error_is_to_the_noise_less_the_film(nets, batch, monkeypatch):
    """A fake score that knows the noise has no error; one that is off by 0.5 has one of 0.25."""

    def knowing(net, films, text, shots, part, passes, **_):
        off = 0.5 * (shots[0, 1] - 1)  # 0 or -0.5, as the batch has it
        sigma = (films.t / 1000)[:, None, None, None, None]
        return part.of((films.noisy - films.clean) / sigma) + off

    monkeypatch.setattr(distribution_matching, "slice_velocity", knowing)
    task = dataclasses.replace(TASK, gan=GANConfig(generator_weight=0))

    def error(batch, task=task):
        loss = jax.jit(lambda batch: critic_loss(task)(nets, {}, batch, jax.random.key(3))[1])
        return float(loss(batch)["critic_mse"][0])

    assert error({**batch, "shot_of_chunk": batch["shot_of_chunk"][::-1]}) < 1e-8
    assert error(batch) == pytest.approx(0.25, rel=1e-4)
    half = dataclasses.replace(task, dmd=DMDConfig(t_min=500, t_max=500), time_weight="x0")
    weight = float(flow.loss_weight(jnp.float32(500), "x0", s=half.dmd.shift))
    assert error(batch, half) == pytest.approx(0.25 * weight, rel=1e-4)


@pytest.mark.usefixtures("given_film")
def test_the_head_may_see_films_at_times_of_its_own(nets, batch):
    def metrics(task):
        loss = jax.jit(lambda batch: critic_loss(task)(nets, {}, batch, jax.random.key(3))[1])
        return {name: float(value) for name, (value, _) in loss(batch).items()}

    shared = metrics(TASK)
    own = metrics(dataclasses.replace(TASK, gan=dataclasses.replace(TASK.gan, shift=1.0)))
    assert own["critic_mse"] == pytest.approx(shared["critic_mse"], rel=1e-5)
    assert abs(own["logit_real"] - shared["logit_real"]) > 1e-3
    low = dataclasses.replace(TASK, gan=dataclasses.replace(TASK.gan, shift=1.0, t_max=700.0))
    t, noise = jax.jit(
        lambda film: distribution_matching._noise_of_head(low, jax.random.key(0), film, None)
    )(jnp.zeros((64, 1)))
    assert noise.shape == (64, 1) and 650 < np.max(t) <= 700 and 300 < np.mean(t) < 400


@pytest.mark.usefixtures("given_film")
def test_in_pure_noise_the_head_stays_at_chance(nets, batch):
    """Real and generated films are the same at t = 1000, and noisy history tells nothing either.

    Meanwhile the fake score learns.
    """
    task = dataclasses.replace(TASK, dmd=PURE_NOISE)
    metrics = trained_critic(task, nets, batch, ("fake_score", "head"))
    np.testing.assert_allclose(metrics["logit_real"], metrics["logit_generated"], atol=1e-5)
    assert np.min(metrics["discriminator"]) >= 2 * np.log(2) - 1e-5
    assert np.mean(metrics["critic_mse"][-5:]) < 0.7 * np.mean(metrics["critic_mse"][:5])


@pytest.mark.usefixtures("given_film")
def test_a_head_with_clean_history_separates_films_of_pure_noise(nets, batch):
    """Why the GAN's context is noisy by default: clean history gives a film away.

    In front of pure noise, a head that sees clean history separates films by it.
    """
    task = dataclasses.replace(TASK, dmd=PURE_NOISE, gan=GANConfig(context="clean", taps=(1.0,)))
    metrics = trained_critic(task, nets, batch, ("head",))
    assert np.mean(metrics["discriminator"][-5:]) < 2 * np.log(2) - 0.3
