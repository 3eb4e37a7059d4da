"""Matrices of eight bits: products stay close per column, a transformer's output too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import tiny_folder, tiny_model

from causalcine_jax.errors import UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film.model_folder import load_model
from causalcine_jax.models import float8
from causalcine_jax.models.cache.quantised import rounded
from causalcine_jax.models.packed import whole_film
from causalcine_jax.story import Shot, Story


def test_a_product_keeps_small_columns_and_small_tokens():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 5, 64)) * np.array([1e-4, 1, 1e3, 5, 0])[:, None]
    weight = rng.standard_normal((64, 3)) * np.array([1e-3, 1, 100])
    weight8, scale = rounded(jnp.asarray(weight.T), float8.FLOAT8, axes=1)
    got = float8.product(jnp.asarray(x), weight8, scale[:, 0], jnp.float32)
    exact = x @ weight
    assert weight8.dtype == jnp.float8_e4m3fn and got.dtype == jnp.float32 and scale.shape == (3, 1)
    assert np.all(got[:, 4] == 0)
    sizes = np.linalg.norm(x[:, :4], axis=-1)[..., None] * np.linalg.norm(weight, axis=0)
    # With three bits of mantissa, a product of 64 terms is off by about 0.026 of |x| |w| / sqrt(64)
    # for each of the two.
    error = np.abs(got[:, :4] - exact[:, :4]) / (sizes / 8)
    assert 0.005 < np.sqrt(np.mean(np.square(error))) < 0.05


def test_a_quantized_transformer_answers_about_the_same():
    model = tiny_model().transformer
    quantized = float8.quantize_blocks(model)
    assert (
        quantized.blocks.ffn_0.weight[...].dtype == jnp.float8_e4m3fn
        and model.blocks.ffn_0.weight[...].dtype == jnp.float32
    )
    assert quantized.blocks.ffn_0.scale[...].shape == (2, 32)
    assert (
        quantized.blocks.norm3 is not model.blocks.norm3
        and quantized.head.weight[...] is model.head.weight[...]
    )
    rng = np.random.default_rng(1)
    x, text = (rng.standard_normal(shape, np.float32) for shape in ((1, 3, 4, 8, 16), (1, 8, 16)))
    t = np.array([500.0], np.float32)
    whole, eighths = (
        np.asarray(jax.jit(whole_film)(net, x, t, text)) for net in (model, quantized)
    )
    distance = float(np.linalg.norm(whole - eighths) / np.linalg.norm(whole))
    assert 1e-3 < distance < 0.1


def test_a_model_folder_loads_as_float8_and_films(tmp_path):
    tiny_folder(tmp_path)
    loaded = load_model(tmp_path, "float8")
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(loaded.transformer)}
    assert (
        dtypes == {"float8_e4m3fn", "bfloat16", "float32"}
        and loaded.vae.conv2.weight[...].dtype == jnp.bfloat16
    )
    [chunk] = Director(loaded, Story((Shot("Mia waves.", None, 1, None),)))
    assert chunk.frames.shape == (9, 16, 32, 3) and chunk.frames.std() > 10
    with pytest.raises(UsageError, match="dtype must be float32, bfloat16 or float8, not 'float4'"):
        load_model(tmp_path, "float4")
