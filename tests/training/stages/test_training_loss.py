"""The loss of stage 1 and what it draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny_model

from causalcine_jax.config import MemoryConfig, PassConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.training.config import TimeConfig
from causalcine_jax.training.stages import teacher_forcing
from causalcine_jax.training.stages.teacher_forcing import (
    TeacherForcing,
    drop_captions,
    error_by_time,
    noise_times,
    own_predictions,
    teacher_forcing_loss,
)

NULL = (1,) + (0,) * 23


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    ids = np.zeros((2, 2, 24), np.int32)
    ids[:, :, :5], ids[:, :, 5] = rng.integers(3, 100, (2, 2, 5)), 1
    latents = rng.standard_normal((2, 6, 4, 4, 16)).astype(np.float32)
    return {"latents": latents, "token_ids": ids, "shot_of_chunk": np.array([[0, 1]] * 2, np.int32)}


@pytest.fixture(scope="module")
def nets():
    model = tiny_model()
    return {"transformer": model.transformer, "text_encoder": model.text_encoder}


@pytest.fixture(scope="module")
def loss():
    return jax.jit(
        teacher_forcing_loss(
            TeacherForcing(
                NULL, PassConfig(MemoryConfig("camr", 1, 2)), TimeConfig(), caption_dropout=0.0
            )
        )
    )


def test_a_velocity_of_zero_costs_the_power_of_the_target(loss, nets, batch):
    zeroed = jax.tree.map(lambda leaf: leaf, nets)
    zeroed["transformer"].head = jax.tree.map(jnp.zeros_like, nets["transformer"].head)
    value, metrics = loss(zeroed, {}, batch, jax.random.key(3))
    noise = jax.random.normal(jax.random.split(jax.random.key(3), 3)[1], batch["latents"].shape)
    assert float(value) == pytest.approx(
        float(jnp.mean(jnp.square(noise - batch["latents"]))), rel=1e-5
    )
    assert float(metrics["mse"][0]) == pytest.approx(float(value), rel=1e-5)


def test_the_loss_depends_on_the_captions(loss, nets, batch):
    other = {**batch, "token_ids": np.where(batch["token_ids"] > 1, 7, batch["token_ids"])}
    values = [float(loss(nets, {}, films, jax.random.key(0))[0]) for films in (batch, other, batch)]
    assert values[0] == values[2] != values[1]


@pytest.mark.parametrize("shared_by", ["film", "chunk"])
def test_several_draws_of_a_film_average_its_loss(nets, batch, shared_by):
    """The mean over several draws is that of as many losses of one, up to their noise."""
    passes = PassConfig(MemoryConfig("camr", 1, 2))

    def of(draws):
        time = TimeConfig(shared_by=shared_by, draws=draws)
        return jax.jit(teacher_forcing_loss(TeacherForcing(NULL, passes, time, 0.0)))

    runs = {draws: of(draws) for draws in (1, 4)}
    values = {
        draws: [float(run(nets, {}, batch, jax.random.key(seed))[0]) for seed in range(8 // draws)]
        for draws, run in runs.items()
    }
    assert np.mean(values[4]) == pytest.approx(np.mean(values[1]), rel=0.1)
    assert len(set(values[4])) == 2


def test_history_may_hold_the_networks_own_predictions(nets, batch):
    """All chunks but the first then see other history; the targets stay the film's."""
    passes = PassConfig(MemoryConfig("camr", 1, 2))

    def loss(share):
        time = TimeConfig(shared_by="chunk", own_history=share)
        run = jax.jit(teacher_forcing_loss(TeacherForcing(NULL, passes, time, 0.0)))
        return lambda films: float(run(nets, {}, films, jax.random.key(0))[0])

    film_only, own_only = loss(0.0), loss(1.0)

    @jax.jit
    def predicted(net, latents, shots):
        text = jnp.zeros((2, 2, 24, net.config.text_dim))
        return own_predictions(net, latents, text, shots, passes, key=jax.random.key(1))

    own = predicted(nets["transformer"], batch["latents"], batch["shot_of_chunk"])
    assert own.shape == batch["latents"].shape
    assert 0 < np.max(np.abs(own - batch["latents"])) < 10
    assert film_only(batch) != own_only(batch) == pytest.approx(film_only(batch), rel=0.2)
    one_chunk = {
        **batch,
        "latents": batch["latents"][:, :3],
        "shot_of_chunk": batch["shot_of_chunk"][:, :1],
    }
    assert film_only(one_chunk) == own_only(one_chunk)  # without history nothing changes


@pytest.fixture
def spied(nets, monkeypatch):
    """Runs the loss on 8 films of 4 chunks with a pass that reads nothing: (clean, histories)."""
    rng, histories = np.random.default_rng(0), []
    clean = jnp.asarray(rng.standard_normal((8, 12, 2, 2, 4)), jnp.float32)
    text = jnp.ones((8, 1, 3, 5))
    films = {
        "latents": clean,
        "text": text,
        "null_text": 0 * text[:, 0],
        "shot_of_chunk": jnp.zeros((8, 4), jnp.int32),
    }

    def teacher_forced(net, history, noisy, *others):
        histories.append(np.asarray(history))
        return noisy

    monkeypatch.setattr(teacher_forcing, "teacher_forced", teacher_forced)

    def run(share):
        time = TimeConfig(shared_by="chunk", own_history=share)
        task = TeacherForcing(NULL, PassConfig(MemoryConfig("camr", 1, 2)), time, 0.1)
        teacher_forcing_loss(task)(nets, {}, films, jax.random.key(0))
        return clean, histories

    return run


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_no_key_is_used_twice(spied, monkeypatch, share):
    """`fold_in(key, i)` is `split(key, n)[i]`, so the two must not be mixed."""
    used = []
    for name in ("split", "normal", "uniform", "bernoulli"):

        def spy(key, *args, made=getattr(jax.random, name), **options):
            used.append(tuple(np.asarray(jax.random.key_data(key)).tolist()))
            return made(key, *args, **options)

        monkeypatch.setattr(jax.random, name, spy)
    spied(share)
    assert len(used) >= 4 and len(used) == len(set(used))


def test_history_draws_leave_the_others_as_they_are():
    """Time, noise and captions have the same keys with and without own_history."""
    three, four = (jax.random.key_data(jax.random.split(jax.random.key(5), n)) for n in (3, 4))
    np.testing.assert_array_equal(three, four[:3])


def test_chunks_of_history_are_replaced_whole(spied):
    clean, (of_predictions, history) = spied(0.5)
    np.testing.assert_array_equal(of_predictions, clean)
    replaced = np.any(history != clean, axis=(2, 3, 4)).reshape(8, 4, 3)
    np.testing.assert_array_equal(replaced.any(2), replaced.all(2))
    assert 0.25 < replaced.mean() < 0.75


def test_no_gradient_goes_through_own_predictions(nets, monkeypatch):
    monkeypatch.setattr(
        teacher_forcing,
        "teacher_forced",
        lambda net, history, noisy, t, text, *others: (
            noisy * jnp.sum(net.head_modulation) + jnp.mean(text)
        ),
    )
    clean, text = jnp.ones((1, 6, 2, 2, 4)), jnp.ones((1, 1, 3, 5))
    shots, passes = jnp.zeros((1, 2), jnp.int32), PassConfig(MemoryConfig("camr", 1, 2))

    def total(net, text):
        key = jax.random.key(0)
        return jnp.sum(own_predictions(net, clean, text, shots, passes, key=key))

    net = nets["transformer"]
    assert total(net, text) != total(net, 2 * text)
    for gradient in jax.tree.leaves(jax.grad(total, (0, 1))(net, text)):
        np.testing.assert_array_equal(gradient, 0)


def test_dropping_takes_every_prompt_of_a_film():
    ids = jnp.full((4000, 3, 4), 9)
    dropped = np.asarray(drop_captions(ids, jnp.array([1, 0, 0, 0]), 0.1, jax.random.key(0)))
    films = np.all(dropped == [1, 0, 0, 0], axis=(1, 2))
    assert np.all(dropped[~films] == 9)
    assert films.mean() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("stratified", [True, False])
def test_times_follow_the_shifted_schedule(stratified):
    config = TimeConfig(shift=5.0, stratified=stratified)
    t = np.asarray(noise_times(jax.random.key(0), 20_000, 10, config))
    assert t.min() > 0 and t.max() <= 1000
    middle = 1000 * flow.shifted(0.5, 5.0)
    assert np.median(t) == pytest.approx(middle, rel=0.01)


def test_stratified_times_are_one_from_each_part():
    t = np.sort(np.asarray(noise_times(jax.random.key(1), 8, 10, TimeConfig(shift=1.0))))
    np.testing.assert_array_equal(np.ceil(t / 125), np.arange(1, 9))


def test_all_chunks_of_a_film_share_a_time_by_default():
    """Paper Eq. 5: all noisy segments of a film share one time."""
    assert noise_times(jax.random.key(0), 3, 5, TimeConfig()).shape == (3,)


def test_times_per_chunk():
    assert noise_times(jax.random.key(0), 3, 5, TimeConfig(shared_by="chunk")).shape == (3, 5)


def test_errors_are_told_apart_by_time():
    error, t = jnp.array([[1.0, 2.0], [3.0, 5.0]]), jnp.array([[100.0, 250.0], [251.0, 1000.0]])
    metrics = {
        name: (float(total), float(weight))
        for name, (total, weight) in error_by_time(error, t).items()
    }
    assert metrics == {
        "mse": (2.75, 1.0),
        "mse_t0_250": (3.0, 2.0),
        "mse_t250_500": (3.0, 1.0),
        "mse_t500_750": (0.0, 0.0),
        "mse_t750_1000": (5.0, 1.0),
    }
