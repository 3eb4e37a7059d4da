"""The flow-matching path.

Hand-computed points, inverse pairs, per-chunk times and the training distribution of t.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.diffusion import flow
from causalcine_jax.errors import UsageError


@pytest.fixture
def pair():
    return jax.random.normal(jax.random.key(0), (2, 2, 6, 2, 3, 4))


def test_the_path_runs_from_data_to_noise(pair):
    x0, noise = pair
    np.testing.assert_array_equal(flow.add_noise(x0, noise, 0), x0)
    np.testing.assert_array_equal(flow.add_noise(x0, noise, 1000), noise)
    np.testing.assert_allclose(
        flow.add_noise(x0, noise, 250.0), 0.75 * x0 + 0.25 * noise, rtol=1e-6
    )


@pytest.mark.parametrize(
    "t",
    [731.5, np.array([100.0, 900.0]), np.array([[10.0, 500.0], [999.0, 1.0]])],
    ids=["scalar", "film", "chunk"],
)
def test_velocity_leads_back_to_the_data(pair, t):
    x0, noise = pair
    xt = flow.add_noise(x0, noise, t)
    velocity = flow.velocity_target(x0, noise)
    np.testing.assert_allclose(flow.x0_from_velocity(xt, velocity, t), x0, atol=1e-6)


def test_velocity_is_the_derivative_of_the_path(pair):
    x0, noise = pair
    _, slope = jax.jvp(lambda t: flow.add_noise(x0, noise, t), (400.0,), (1000.0,))
    np.testing.assert_allclose(slope, flow.velocity_target(x0, noise), rtol=1e-5, atol=1e-6)


def test_each_chunk_has_its_own_time(pair):
    x0, noise = pair
    mixed = flow.add_noise(x0, noise, np.array([[0.0, 1000.0], [1000.0, 0.0]]))
    np.testing.assert_array_equal(mixed[0], np.concatenate([x0[0, :3], noise[0, 3:]]))
    np.testing.assert_array_equal(mixed[1], np.concatenate([noise[1, :3], x0[1, 3:]]))


def test_per_frame_spreads_times():
    np.testing.assert_array_equal(flow.per_frame(7.0, 3), [[7, 7, 7]])
    np.testing.assert_array_equal(flow.per_frame(jnp.array([1.0, 2.0]), 3), [[1, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(flow.per_frame(jnp.array([[1.0, 2.0]]), 6), [[1, 1, 1, 2, 2, 2]])
    with pytest.raises(ValueError, match="7 frames do not divide into the 2 chunks"):
        flow.per_frame(jnp.array([[1.0, 2.0]]), 7)
    with pytest.raises(ValueError, match=r"shape \(1, 1, 1\)"):
        flow.per_frame(jnp.ones((1, 1, 1)), 3)


def test_low_precision_velocities_do_not_lower_the_precision_of_the_data(pair):
    x0, noise = pair
    xt = flow.add_noise(x0, noise, 5.0)
    back = flow.x0_from_velocity(xt, flow.velocity_target(x0, noise).astype(jnp.bfloat16), 5.0)
    assert back.dtype == jnp.float32
    np.testing.assert_allclose(back, x0, atol=1e-4)


def test_shift_gives_the_published_step_list():
    warped = 1000 * flow.shifted(np.array([1000, 750, 500, 250]) / 1000, 5.0)
    np.testing.assert_allclose(warped, [1000, 937.5, 833.333333, 625])
    np.testing.assert_array_equal(flow.shifted(np.linspace(0, 1, 5), 1.0), np.linspace(0, 1, 5))


def test_training_times_follow_the_shifted_schedule():
    t = np.asarray(flow.sample_time(jax.random.key(0), (4, 5000), 5.0))
    assert t.shape == (4, 5000) and t.min() > 0 and t.max() <= 1000
    # Half of the uniform positions lie above 0.5, which shift 5 moves to 833.3. A quarter lie below
    # 0.25, which it moves to 625.
    assert abs((t > 5000 / 6).mean() - 0.5) < 0.02
    assert abs((t < 625).mean() - 0.25) < 0.02


@pytest.mark.parametrize("s", [1.0, 3.0, 5.0])
def test_bsmntw_matches_the_table_of_the_forks(s):
    t = 1000 * flow.shifted(np.linspace(1, 0, 1001)[:-1], s)
    bell = np.exp(-2 * ((t - 500) / 1000) ** 2)
    table = (bell - bell.min()) * 1000 / (bell - bell.min()).sum()
    weights = flow.loss_weight(jnp.asarray(t, jnp.float32), "bsmntw", s=s)
    np.testing.assert_allclose(weights, table, atol=2e-6)
    assert abs(float(weights.mean()) - 1) < 1e-5
    np.testing.assert_array_equal(flow.loss_weight(jnp.asarray([0.0, 1000.0]), "none"), [1, 1])


@pytest.mark.parametrize(("name", "power"), [("sigma", 1), ("x0", 2)])
def test_weights_by_powers_of_sigma_have_mean_one(name, power):
    t = 1000 * flow.shifted(np.linspace(1, 0, 1001)[:-1], 4.0)
    weights = flow.loss_weight(jnp.asarray(t, jnp.float32), name, s=4.0)
    np.testing.assert_allclose(weights / weights[0], (t / 1000) ** power, rtol=1e-5)
    assert abs(float(weights.mean()) - 1) < 1e-5


def test_unknown_loss_weight_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'bsmntw'"):
        flow.loss_weight(jnp.zeros(1), "bsmtw")
