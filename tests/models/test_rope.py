"""Rotary positions against float64 arithmetic and their defining property."""

import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.models.rope import axis_dims, rotate, rotation


def test_axis_dims_of_wan_and_of_any_head():
    assert axis_dims(128) == (44, 42, 42)
    assert all(sum(axis_dims(d)) == d and min(axis_dims(d)) >= 0 for d in range(2, 130, 2))


@pytest.mark.parametrize("position", [0, 1, 16, 511, 512, 6000, 100_000])
def test_angles_have_float64_accuracy(position):
    cos, sin = rotation(jnp.asarray([position]), (2, 3), 32)
    dim_t, dim_h, dim_w = axis_dims(32)
    frequency = lambda d: 10000.0 ** -(np.arange(0, d, 2) / d)
    for token in range(6):
        angle = np.concatenate(
            [
                -position * frequency(dim_t),
                token // 3 * frequency(dim_h),
                token % 3 * frequency(dim_w),
            ]
        )
        np.testing.assert_allclose(cos[0, token], np.cos(angle), atol=3e-7)
        np.testing.assert_allclose(sin[0, token], np.sin(angle), atol=3e-7)


def test_scores_depend_on_distance_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 4, 2, 32)), jnp.float32) for _ in range(2))
    at = lambda x, position: rotate(x, *rotation(jnp.asarray([position]), (2, 2), 32))
    near = jnp.einsum("rphd,rqhd->hpq", at(q, 2), at(k, 9))
    far = jnp.einsum("rphd,rqhd->hpq", at(q, 5002), at(k, 5009))
    np.testing.assert_allclose(near, far, atol=2e-5)
