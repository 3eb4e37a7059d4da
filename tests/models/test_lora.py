"""Adapters in a transformer: nothing at first, W + scale A B once trained, the base untouched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import SMALLEST_SIZES
from tiny_models import random_weights

from causalcine_jax.convert import load_transformer, save_lora, save_model
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.lora import LAYERS, adapted, layers_of, merged, new_adapters
from causalcine_jax.models.packed import teacher_forced

RNG = np.random.default_rng(1)
LATENTS, TEXT = (
    jax.device_put(RNG.standard_normal(shape, np.float32))
    for shape in ((1, 6, 4, 4, 4), (1, 1, 4, 6))
)
SHOTS = jax.device_put(np.zeros((1, 2), np.int32))


@pytest.fixture(scope="module")
def transformer():
    return random_weights(lambda key: Transformer(SMALLEST_SIZES, key=key), 0)


def fresh(layers, rank):
    make = lambda key: new_adapters(SMALLEST_SIZES, layers, rank, key=key)
    return jax.jit(make)(jax.random.key(3))


def trained(layers="self_attn,cross_attn,ffn", rank=3):
    rng = np.random.default_rng(4)
    noisy = lambda leaf: np.asarray(leaf) + 0.1 * rng.standard_normal(leaf.shape, np.float32)
    return jax.device_put(jax.tree.map(noisy, fresh(layers_of(layers), rank)))


@jax.jit
def velocity(model):
    return teacher_forced(model, LATENTS, LATENTS, 500.0, TEXT, SHOTS)


def apart(a, b):
    return float(np.linalg.norm(np.asarray(a) - b) / np.linalg.norm(b))


def test_new_adapters_change_nothing(transformer):
    new = fresh(tuple(LAYERS), 2)
    assert apart(velocity(adapted(transformer, new, 2.0)), velocity(transformer)) == 0


def test_adapters_are_the_same_as_merged_weights(transformer):
    before = jax.tree.leaves(transformer)
    with_adapters = velocity(adapted(transformer, trained(), 1.7))
    assert apart(with_adapters, velocity(merged(transformer, trained(), 1.7))) < 1e-5
    assert apart(with_adapters, velocity(transformer)) > 1e-2
    assert all(a is b for a, b in zip(before, jax.tree.leaves(transformer), strict=True))


def test_every_adapter_has_a_gradient_and_only_the_named_layers_have_one(transformer):
    loss = lambda new: jnp.sum(velocity(adapted(transformer, new, 1.0)) ** 2)
    gradient = jax.jit(jax.grad(loss))(trained("self_attn.q,ffn"))
    assert set(gradient) == {"self_attn.q", "ffn.0", "ffn.2"}
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


def test_a_saved_adapter_is_read_again_with_its_strength(transformer, tmp_path):
    save_model(tmp_path / "base", transformer=transformer, dtype=np.float32)
    save_lora(tmp_path / "lora", transformer, trained("self_attn,ffn.0"), alpha=6.0, base="base")
    read = load_transformer(tmp_path / "base", lora=tmp_path / "lora")
    mine = merged(transformer, trained("self_attn,ffn.0"), 6.0 / 3)
    for ours, theirs in zip(jax.tree.leaves(mine), jax.tree.leaves(read), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
