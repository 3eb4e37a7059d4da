"""Solvers against Diffusers' goldens and known distributions; guidance; one compilation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from repository import GOLDENS

from causalcine_jax.diffusion import flow
from causalcine_jax.diffusion.solvers import (
    SamplerConfig,
    apply_guidance,
    sample,
    sample_until,
    schedule,
)
from causalcine_jax.errors import UsageError

RECORDED = np.load(GOLDENS / "solvers.npz")
CASES = sorted({name.rsplit(".", 1)[0] for name in RECORDED})
PLAIN = functools.partial(SamplerConfig, guidance=1.0)
KEY = jax.random.key(0)


def golden_velocity(x, t):
    return x - 0.7 * jnp.sin(3 * x) + jnp.tanh(x * (t / 1000))


@pytest.mark.parametrize("case", CASES)
def test_samples_equal_those_of_diffusers(case):
    solver, steps, shift = case.split("-")
    config = PLAIN(solver, steps=int(steps), shift=float(shift))
    noise = np.random.default_rng(0).normal(size=(1, 2, 3, 4)).astype(np.float32)
    np.testing.assert_allclose(config.times, RECORDED[f"{case}.times"], rtol=1e-6)
    got, want = sample(golden_velocity, noise, config, KEY), RECORDED[f"{case}.x0"]
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def test_unipc_shows_the_network_truncated_times_and_keeps_exact_sigmas():
    table = schedule(PLAIN("unipc", steps=50, shift=5.0))
    assert table.times[0] == 999 and np.all(table.times == np.trunc(table.times))
    np.testing.assert_allclose(table.sigmas[0], 0.9998, atol=1e-6)
    assert np.any(1000 * table.sigmas[:-1] - table.times > 0.9)
    assert table.sigmas[-1] == 0


def normal_velocity(x, t, mean=0.4, deviation=0.5):
    """The exact velocity of data ~ N(mean, deviation^2), whose ODE has a closed solution."""
    sigma = t / 1000
    scale = (1 - sigma) * deviation**2 / ((1 - sigma) ** 2 * deviation**2 + sigma**2)
    x0_pred = mean + scale * (x - (1 - sigma) * mean)
    return (x - x0_pred) / sigma


def solver_error(solver, steps, mean=0.4, deviation=0.5):
    """Error against the ODE's solution, along which (x - mean_t) / deviation_t is constant."""
    noise = np.linspace(-2, 2, 9, dtype=np.float32)[None]
    config = PLAIN(solver, steps=steps)
    sigma = schedule(config).sigmas[0]
    scores = (noise - (1 - sigma) * mean) / np.hypot((1 - sigma) * deviation, sigma)
    return float(
        np.abs(sample(normal_velocity, noise, config, KEY) - (mean + deviation * scores)).max()
    )


def test_euler_is_of_first_order_and_unipc_far_more_exact():
    assert 3.2 < solver_error("euler", 20) / solver_error("euler", 80) < 4.5
    assert solver_error("unipc", 40) < solver_error("euler", 40) / 8
    assert solver_error("unipc", 80) < solver_error("euler", 80) / 8


@pytest.mark.parametrize("degree", [0, 1, 2])
def test_the_unipc_corrector_is_exact_for_predictions_of_second_degree(degree):
    """The step is exact while x0_pred is a polynomial in lambda = log((1 - sigma) / sigma).

    x_next = sigma_next / sigma x + sigma_next * (integral of e^lambda x0_pred).
    """
    table = schedule(PLAIN("unipc", steps=12))
    step = np.log1p(-table.sigmas[:-1]) - np.log(table.sigmas[:-1])
    for i in range(2, 12):
        x0_pred = (step - step[i - 1]) ** degree
        x = 0.8
        integral, _ = scipy.integrate.quad(
            lambda s, start: np.exp(s) * (s - start) ** degree,
            step[i - 1],
            step[i],
            args=(step[i - 1],),
        )
        exact = table.sigmas[i] / table.sigmas[i - 1] * x + table.sigmas[i] * integral
        got = table.correct[i] @ [0.0, x, x0_pred[i], x0_pred[i - 1], x0_pred[i - 2]]
        np.testing.assert_allclose(got, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["unipc", "euler", "few_step"])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_a_single_data_point_is_reached_in_any_number_of_steps(solver, steps):
    config = PLAIN(solver, steps=steps)
    sigma_of_t = dict(zip(config.times.tolist(), schedule(config).sigmas.tolist(), strict=False))

    def velocity(x, t):
        # Of the exact sigma: x0_pred must then be 0.3, whatever t was truncated to.
        sigma = jnp.interp(
            t, jnp.array(sorted(sigma_of_t)), jnp.array([sigma_of_t[k] for k in sorted(sigma_of_t)])
        )
        return (x - 0.3) / sigma

    np.testing.assert_allclose(
        sample(velocity, jax.random.normal(KEY, (2, 5)), config, KEY), 0.3, atol=1e-5
    )


def test_few_step_times_are_those_of_self_forcing():
    config = PLAIN("few_step", steps=4)
    np.testing.assert_allclose(config.times, [1000, 937.5, 833.3333, 625], rtol=1e-6)
    given = PLAIN("few_step", steps=4, step_list=(1000, 937, 833, 625))
    np.testing.assert_array_equal(given.times, [1000, 937, 833, 625])


def test_few_step_renoises_each_prediction_with_its_own_noise():
    """x0_pred is always 0.3 here, so each x shown is 0.3 on the path to fresh standard noise."""
    config = PLAIN("few_step", steps=4)

    def velocity(x, t):
        return (x - 0.3) * 1000 / t, x

    x0, shown = sample(
        velocity, jax.random.normal(KEY, (1, 20000)), config, jax.random.key(7), has_aux=True
    )
    np.testing.assert_allclose(x0, 0.3, atol=1e-6)
    sigma = (config.times / 1000)[:, None, None]
    noise = np.asarray((shown - (1 - sigma) * 0.3) / sigma)[:, 0]
    np.testing.assert_allclose(noise.mean(1), 0, atol=0.03)
    np.testing.assert_allclose(noise.std(1), 1, atol=0.03)
    assert np.abs(np.corrcoef(noise) - np.eye(4)).max() < 0.03


def test_few_step_depends_on_the_key_alone():
    config = PLAIN("few_step", steps=4)
    draw = jax.jit(lambda key: sample(normal_velocity, jnp.ones((1, 8)), config, key))
    assert np.array_equal(draw(KEY), draw(KEY)) and not np.allclose(
        draw(KEY), draw(jax.random.key(1))
    )


def test_guidance_is_a_batch_of_prompt_then_null():
    noise = jax.random.normal(KEY, (2, 3))

    def velocity(x, t):
        assert x.shape == (4, 3)
        offset = jnp.array([1.0, 1.0, 0.25, 0.25])[:, None]
        return jnp.broadcast_to(offset, x.shape), x

    config = SamplerConfig("euler", steps=5, guidance=3.0)
    x0, shown = sample(velocity, noise, config, KEY, has_aux=True)
    np.testing.assert_array_equal(shown[:, :2], shown[:, 2:])
    np.testing.assert_allclose(x0, noise - (0.25 + 3.0 * 0.75), atol=1e-5)
    np.testing.assert_array_equal(apply_guidance(jnp.array([2.0]), jnp.array([1.0]), 1.0), [2.0])


def test_one_trace_whatever_the_number_of_steps():
    traces = []

    @functools.partial(jax.jit, static_argnames="config")
    def run(noise, config):
        def velocity(x, t):
            traces.append(config.steps)
            assert t.shape == () and t.dtype == jnp.float32
            return x.astype(jnp.bfloat16)

        return sample(velocity, noise, config, KEY)

    for steps in (3, 50):
        for _ in range(2):
            out = run(jnp.ones((1, 4), jnp.bfloat16), PLAIN(steps=steps))
            assert out.dtype == jnp.float32 and np.isfinite(out).all()
    assert traces == [3, 50]


def test_sampling_can_be_differentiated():
    def loss(scale):
        return sample(
            lambda x, t: scale * normal_velocity(x, t),
            jnp.ones((1, 2)),
            PLAIN("euler", steps=4),
            KEY,
        ).sum()

    numeric = (loss(1.01) - loss(0.99)) / 0.02
    np.testing.assert_allclose(jax.grad(loss)(1.0), numeric, rtol=1e-2)


def test_illegal_settings_are_named_all_at_once():
    with pytest.raises(UsageError) as error:
        SamplerConfig(
            solver="unipcc", steps=0, shift=-1.0, guidance=float("nan"), step_list=(500.0, 900.0)
        )
    for part in (
        "did you mean 'unipc'",
        "steps must be",
        "shift must be",
        "guidance must be",
        "step_list belongs",
        "2 times",
        "must fall",
    ):
        assert part in str(error.value)
    with pytest.raises(
        UsageError, match=r"shift must be .* not '5'; step_list must be a list of times"
    ):
        SamplerConfig("few_step", steps=1, shift="5", step_list=["1000"])
    assert SamplerConfig("few_step", steps=2, step_list=[1000, 500]) == SamplerConfig(
        "few_step", steps=2, step_list=(1000, 500)
    )


def test_flow_and_solvers_agree_on_the_path():
    """One Euler step of the true velocity from the end of the path gives the data."""
    x0, noise = jax.random.normal(KEY, (2, 1, 3, 2, 2, 4))
    config = PLAIN("euler", steps=3)
    got = sample(lambda x, t: flow.velocity_target(x0, noise), noise, config, KEY)
    np.testing.assert_allclose(got, x0, atol=1e-5)


def test_a_sampler_stopped_early_is_the_sampler_so_far():
    config, noise = (
        PLAIN("few_step", steps=3),
        np.random.default_rng(0).normal(size=(1, 2, 4)).astype(np.float32),
    )
    stop = jax.jit(lambda last: sample_until(golden_velocity, noise, config, KEY, last))
    table, x = schedule(config), noise
    for last in range(3):
        started, x0_pred = stop(last)
        np.testing.assert_allclose(started, x, atol=1e-5)
        np.testing.assert_allclose(
            x0_pred, x - table.sigmas[last] * golden_velocity(x, table.times[last]), atol=1e-5
        )
        fresh = jax.random.normal(jax.random.fold_in(KEY, last), noise.shape)
        x = (1 - table.sigmas[last + 1]) * x0_pred + table.sigmas[last + 1] * fresh
    np.testing.assert_allclose(x0_pred, sample(golden_velocity, noise, config, KEY), atol=1e-6)
    for wrong in (PLAIN("euler", steps=3), SamplerConfig("few_step", steps=3)):
        with pytest.raises(UsageError, match="only few_step without guidance can stop early"):
            sample_until(golden_velocity, noise, wrong, KEY, 0)
