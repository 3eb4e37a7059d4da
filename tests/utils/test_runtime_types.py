"""Annotations are checked while the tests run."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.rope import rotate

X, ANGLES = jnp.zeros((1, 3, 6, 2, 16)), jnp.zeros((3, 6, 8))


@pytest.fixture
def pool():
    zeros = lambda *shape: jnp.zeros((2, 1, 6, *shape))
    slots = jnp.zeros(2)
    return KVCache(zeros(4, 2, 12), zeros(4, 2, 12), zeros(1, 2, 12), slots.astype(int), slots)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize(
    "wrong",
    [ANGLES[:, :4], ANGLES.astype(int), np.zeros(ANGLES.shape), None],
    ids=["shape", "dtype", "numpy", "none"],
)
def test_a_call_with_a_wrong_array_fails(wrong, traced):
    call = lambda x: rotate(x, ANGLES, wrong)
    with pytest.raises(TypeCheckError, match="sin"):
        (jax.jit(call) if traced else call)(X)


def test_a_pytree_is_made_of_arrays_that_fit_or_of_other_things(pool):
    with pytest.raises(TypeCheckError, match="descriptors"):
        dataclasses.replace(pool, descriptors=pool.descriptors[..., None])
    assert jax.eval_shape(lambda pool: pool, pool).k.shape == pool.k.shape
    assert jax.tree.map(lambda _: None, pool).chunk is None
    assert isinstance(jax.device_get(pool).k, np.ndarray)
