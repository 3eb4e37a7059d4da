"""The GAN's head and its losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.models.discriminator import Discriminator
from causalcine_jax.training.stages.gan import (
    GANConfig,
    approximate_r1,
    discriminator_term,
    generator_term,
)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return tuple(jnp.asarray(rng.standard_normal((2, 3, 5, 16)), jnp.float32) for _ in range(2))


@pytest.fixture(scope="module")
def head():
    return jax.jit(lambda key: Discriminator(16, 2, key=key))(jax.random.key(0))


def test_one_logit_per_film_near_chance_at_first(head, features):
    logits = jax.jit(head.__call__)(features)
    assert logits.shape == (2,) and logits.dtype == jnp.float32
    assert float(discriminator_term(logits, logits)) == pytest.approx(2 * np.log(2), abs=0.05)


def test_every_part_is_read_and_the_order_of_chunks_counts(head, features):
    """Drift is a difference between early and late chunks. The order of a chunk's tokens is not."""
    logit = jax.jit(lambda *features: head(features))
    base, backwards = logit(*features), logit(*(f[:, ::-1] for f in features))
    assert np.all(np.abs(backwards - base) > 1e-5)
    later = jax.jit(lambda first, *features: head(features, first))(4, *features)
    assert np.all(np.abs(later - base) > 1e-5)
    np.testing.assert_allclose(logit(*(f[:, :, ::-1] for f in features)), base, atol=1e-6)
    assert logit(*(jnp.tile(f, (1, 2, 1, 1)) for f in features)).shape == base.shape
    first, second = features
    for other in (
        (first.at[0, 2].add(jnp.arange(16.0)), second),
        (first, second.at[0, 0].add(jnp.arange(16.0))),
    ):
        changed = logit(*other)
        assert abs(float(changed[0] - base[0])) > 1e-5 and float(changed[1]) == float(base[1])


def test_losses_by_hand():
    real, generated = jnp.array([0.0, 2.0]), jnp.array([1.0, -1.0])
    assert float(discriminator_term(real, generated)) == pytest.approx(
        np.mean(np.log1p(np.exp([0.0, -2.0]))) + np.mean(np.log1p(np.exp([1.0, -1.0])))
    )
    assert float(generator_term(generated)) == pytest.approx(np.mean(np.log1p(np.exp([-1.0, 1.0]))))
    assert float(approximate_r1(real, jnp.array([0.5, 2.5]))) == pytest.approx(0.25)
    # Each side's gradient pulls the way it should.
    assert np.all(jax.grad(generator_term)(generated) < 0)
    assert np.all(jax.grad(discriminator_term, 0)(real, generated) < 0) and np.all(
        jax.grad(discriminator_term, 1)(real, generated) > 0
    )


def test_taps_follow_the_depth():
    """The blocks that Self-Forcing taps in Wan2.1's 30, and their like in 40."""
    assert GANConfig().layers(30) == (13, 21, 29)
    assert GANConfig().layers(40) == (17, 28, 39)
    assert GANConfig().layers(2) == (0, 1)
    assert GANConfig(taps=(0.01, 1.0)).layers(8) == (0, 7)


def test_faults_are_all_named():
    faults = list(
        GANConfig(
            generator_weight=-1, r1_sigma=0, context="noisy", taps=(0.5, 1.5), t_max=1200.0
        ).faults()
    )
    assert [fault.split()[0] for fault in faults] == [
        "gan.generator_weight",
        "gan.t_max",
        "gan.t_max",
        "gan.r1_sigma",
        "unknown",
        "gan.taps",
    ]
    assert (
        not list(GANConfig().faults()) and GANConfig().on and not GANConfig(generator_weight=0).on
    )
