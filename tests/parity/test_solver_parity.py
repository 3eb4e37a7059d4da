"""Our solvers against Diffusers' schedulers; tests/diffusion/test_solvers.py uses goldens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from causalcine_jax.diffusion.solvers import SamplerConfig, sample

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from make_solver_goldens import CASES, GOLDENS_FILE, integrate, start, velocity


@pytest.mark.parametrize(
    ("solver", "steps", "shift"), [*CASES, ("unipc", 20, 12.0), ("euler", 7, 3.0)]
)
def test_sample_equals_diffusers(solver, steps, shift):
    times, want = integrate(solver, steps, shift)
    config = SamplerConfig(solver, steps=steps, shift=shift, guidance=1.0)
    np.testing.assert_allclose(config.times, times, rtol=1e-6)
    got = sample(lambda x, t: velocity(x, t, jnp), start(), config, jax.random.key(0))
    assert np.linalg.norm(got - want) <= 1e-5 * np.linalg.norm(want)


def test_goldens_are_those_of_the_installed_diffusers():
    goldens = np.load(GOLDENS_FILE)
    for solver, steps, shift in CASES:
        times, x0 = integrate(solver, steps, shift)
        np.testing.assert_allclose(goldens[f"{solver}-{steps}-{shift:g}.times"], times, rtol=1e-6)
        np.testing.assert_allclose(
            goldens[f"{solver}-{steps}-{shift:g}.x0"], x0, rtol=1e-5, atol=1e-6
        )
