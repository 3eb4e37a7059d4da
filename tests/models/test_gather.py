"""Accelerators' gather: plain indexing, whose gradient is one product with float32 sums."""

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.models import gather as module
from causalcine_jax.models.gather import gather


def test_the_gradient_sums_many_uses_of_a_frame_in_float32(monkeypatch):
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.standard_normal((2, 5, 3, 4)), jnp.bfloat16)
    index = jnp.asarray(rng.integers(0, 2, (40, 2, 6)), jnp.int32)  # few frames, used often
    pull = jnp.asarray(rng.standard_normal((40, 2, 6, 3, 4)), jnp.bfloat16)

    def run(frames):
        taken, back = jax.vjp(lambda f: jax.vmap(gather, in_axes=(None, 0))(f, index), frames)
        return taken, back(pull.astype(frames.dtype))[0]

    wanted, exact = run(frames.astype(jnp.float32))
    monkeypatch.setattr(module, "platform", lambda: "gpu")
    got, gradient = run(frames)
    np.testing.assert_array_equal(np.float32(got), np.float32(wanted))
    assert gradient.dtype == jnp.bfloat16
    # One rounding to eight bits, where a sum in bfloat16 rounds after every one of 240 terms.
    np.testing.assert_allclose(np.float32(gradient), np.float32(exact), rtol=2**-8, atol=1e-6)
