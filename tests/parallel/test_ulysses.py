"""Attention on meshes, as traced; test_parallel_meshes.py checks the numbers."""

import jax
import jax.numpy as jnp
from tiny_models import mesh_of_nothing

from causalcine_jax.parallel.ulysses import over_tokens


@jax.custom_vjp
def kernel(q, k):
    return q * jnp.sum(k)


# Like cuDNN's: it declares k's gradient to vary as k does. For a k that all devices of a row share,
# each device would then take its own tokens' gradient for the full one.
kernel.defvjp(lambda q, k: (kernel(q, k), (q, k)), lambda kept, g: (g * kept[0], 2 * kept[1]))


def test_a_prompts_gradient_is_summed_over_all_devices_tokens():
    q, k = (
        jax.ShapeDtypeStruct((2, 3, 8, 4, 2), jnp.float32),
        jax.ShapeDtypeStruct((2, 6, 4, 2), jnp.float32),
    )
    with jax.sharding.use_abstract_mesh(mesh_of_nothing(2, 2)):
        loss = lambda q, k: jnp.sum(over_tokens(kernel)(q, k))
        program = str(jax.jit(jax.grad(loss, argnums=1)).trace(q, k).jaxpr)
    assert program.count("psum_invariant") == 1
