"""The gradient of distribution matching where it is known: Gaussians, and a mixture of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.diffusion import flow
from causalcine_jax.errors import UsageError
from causalcine_jax.training.stages.dmd import DistributionMatching
from causalcine_jax.training.stages.dmd_gradient import DMDConfig, dmd_gradient, loss_with_gradient
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.scoring import score_times
from causalcine_jax.training.stages.self_forcing import SelfForcingConfig


def gaussian_x0(xt, mean, std, sigma):
    """E[x0 | x_t] of data N(mean, std^2)."""
    variance = (1 - sigma) ** 2 * std**2 + sigma**2
    return mean + (1 - sigma) * std**2 / variance * (xt - (1 - sigma) * mean)


def test_dmd_gradient_is_the_closed_form_in_float64():
    """x = a + b z against N(m, s^2): the loss's gradient in a is dKL(a)/da over the normaliser.

    That holds chunk by chunk.
    """
    a, b, m, s = 0.7, 0.5, -0.4, 1.3
    sigma = 0.5
    # Two-point rules are exact for what is linear in z and in the noise, so four frames hold all
    # pairs. A second chunk has them at twice the spread.
    z = np.array([1, 1, -1, -1, 2, 2, -2, -2.0])[None, :, None, None, None]
    noise = np.array([1, -1, 1, -1, 1, -1, 1, -1.0])[None, :, None, None, None]

    with jax.enable_x64(True):

        def loss(a):
            x = a + b * jnp.asarray(z, jnp.float64)
            xt = flow.add_noise(
                jax.lax.stop_gradient(x), jnp.asarray(noise, jnp.float64), 1000 * sigma
            )
            gradient = dmd_gradient(
                jax.lax.stop_gradient(x),
                gaussian_x0(xt, m, s, sigma),
                gaussian_x0(xt, jax.lax.stop_gradient(a), b, sigma),
                chunk_frames=4,
            )
            return loss_with_gradient(x, gradient)

        ours = jax.grad(loss)(jnp.float64(a))
        assert ours.dtype == jnp.float64

    # KL of the noised marginals N((1 - sigma) a, .) and N((1 - sigma) m, v), as a function of a.
    # The scores' difference is (1 - sigma) / sigma^2 times that of their x0.
    v = (1 - sigma) ** 2 * s**2 + sigma**2
    slope = (1 - sigma) ** 2 * (a - m) / v
    in_x0 = slope * sigma**2 / (1 - sigma) ** 2
    x, xt = a + b * z, (1 - sigma) * (a + b * z) + sigma * noise
    norms = np.abs(x - gaussian_x0(xt, m, s, sigma)).reshape(2, 4).mean(1)
    assert norms[0] != pytest.approx(norms[1], rel=0.1)
    np.testing.assert_allclose(ours, np.mean(in_x0 / norms), rtol=1e-12)


@pytest.mark.parametrize("normalizer, groups", [("chunk", 2), ("film", 1)])
def test_every_chunk_or_film_is_normalised_by_itself(normalizer, groups):
    rng = np.random.default_rng(0)
    x, real, fake = (
        jnp.asarray(rng.standard_normal((2, 4, 3, 2, 5)), jnp.float32) for _ in range(3)
    )
    ours = dmd_gradient(x, real, fake, chunk_frames=2, normalizer=normalizer)
    norm = np.abs(x - real).reshape(2, groups, -1).mean(-1)
    expected = (fake - real).reshape(2, groups, -1) / norm[..., None]
    np.testing.assert_allclose(ours, expected.reshape(x.shape), rtol=1e-5)
    np.testing.assert_array_equal(
        dmd_gradient(x, real, fake, chunk_frames=2, normalizer="none"), fake - real
    )


def test_equal_scores_and_broken_ones():
    x = jnp.ones((1, 2, 1, 1, 1))
    assert not np.any(dmd_gradient(x, x, x, chunk_frames=1))
    assert np.isnan(
        float(loss_with_gradient(x, dmd_gradient(x, 0 * x, jnp.nan * x, chunk_frames=1)))
    )


def mixture_x0(xt, means, std, sigma):
    """E[x0 | x_t] of an even mixture of N(means[k], std^2 I); xt [n, 2], sigma [n, 1]."""
    variance = (1 - sigma) ** 2 * std**2 + sigma**2
    offsets = xt[:, None] - (1 - sigma)[:, None] * means
    responsibility = jax.nn.softmax(-0.5 * jnp.sum(offsets**2, -1) / variance, axis=-1)
    x0 = means + ((1 - sigma) * std**2 / variance)[:, None] * offsets
    return jnp.sum(responsibility[..., None] * x0, axis=1)


def log_density(x, means, std):
    offsets = x[:, None] - means
    each = -0.5 * jnp.sum(offsets**2, -1) / std**2 - 2 * jnp.log(std) - jnp.log(2 * jnp.pi)
    return jax.nn.logsumexp(each, axis=-1) - np.log(means.shape[0])


def test_dmd_updates_reduce_the_divergence_to_a_known_mixture():
    """A generator of three blobs learns places and width of a mixture of three, from scores."""
    real_means, real_std = jnp.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]]), 0.4
    start = {"means": jnp.array([[1.0, 0.3], [-0.2, 0.9], [-0.1, -1.0]]), "log_std": jnp.log(1.0)}
    films = 256

    def samples(params, key, count):
        key_blob, key_z = jax.random.split(key)
        blob = jax.random.randint(key_blob, (count,), 0, 3)
        return params["means"][blob] + jnp.exp(params["log_std"]) * jax.random.normal(
            key_z, (count, 2)
        )

    def loss(params, key):
        key_x, key_t, key_noise = jax.random.split(key, 3)
        x = samples(params, key_x, films)
        video = lambda points: points[
            :, None, None, None
        ]  # each point a film of one frame of one pixel
        frozen, now = jax.lax.stop_gradient(x), jax.lax.stop_gradient(params)
        t = score_times(key_t, films, 1.0, 20.0, 980.0)
        xt = flow.add_noise(video(frozen), jax.random.normal(key_noise, (films, 1, 1, 1, 2)), t)[
            :, 0, 0, 0
        ]
        sigma = t[:, None] / 1000
        real = mixture_x0(xt, real_means, real_std, sigma)
        fake = mixture_x0(xt, now["means"], jnp.exp(now["log_std"]), sigma)
        return loss_with_gradient(
            video(x), dmd_gradient(video(frozen), video(real), video(fake), chunk_frames=1)
        )

    @functools.partial(jax.jit, static_argnums=2)
    def descend(params, key, steps):
        def step(params, key):
            return jax.tree.map(lambda p, g: p - 0.2 * g, params, jax.grad(loss)(params, key)), None

        return jax.lax.scan(step, params, jax.random.split(key, steps))[0]

    @jax.jit
    def divergence(params):
        x = samples(params, jax.random.key(99), 20_000)
        return jnp.mean(
            log_density(x, params["means"], jnp.exp(params["log_std"]))
            - log_density(x, real_means, real_std)
        )

    divergences, params = [float(divergence(start))], start
    for stretch in range(3):
        params = descend(params, jax.random.key(stretch), 70)
        divergences.append(float(divergence(params)))
    assert divergences[0] > 3 and divergences[-1] < 0.01, divergences
    assert divergences == sorted(divergences, reverse=True)


def test_times_are_shifted_and_clamped():
    t = np.asarray(score_times(jax.random.key(0), 20_000, 5.0, 20.0, 980.0))
    assert t.min() >= 20 and t.max() == 980
    assert np.median(t) == pytest.approx(1000 * flow.shifted(0.5, 5.0), rel=0.01)


def test_a_batch_has_a_time_from_each_part_of_the_schedule():
    draw = jax.vmap(lambda key: score_times(key, 8, 5.0, 0.0, 1000.0))
    positions = np.asarray(draw(jax.random.split(jax.random.key(0), 50))) / 1000
    positions = positions / (5 - 4 * positions)  # the shift undone
    np.testing.assert_array_equal(
        np.sort(np.floor(8 * positions - 1e-5), axis=1), np.tile(np.arange(8), (50, 1))
    )
    assert np.std(np.argmin(positions, axis=1)) > 1.5  # in random order


def test_all_faults_of_the_task_in_one_error():
    with pytest.raises(UsageError) as error:
        DistributionMatching(
            null_prompt=(1, 0),
            self_forcing=SelfForcingConfig(grad_frames=4, exit="never"),
            dmd=DMDConfig(t_min=990, normalizer="chunks", real_guidance=-1),
            gan=GANConfig(taps=()),
        )
    for part in (
        "grad_frames 4 are not whole chunks of 3",
        "self_forcing.exit",
        "dmd.t_min",
        "did you mean 'chunk'",
        "real_guidance",
        "gan.taps",
    ):
        assert part in str(error.value)
