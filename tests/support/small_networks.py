"""Small networks with random parameters, and helpers to save, damage and compare them."""

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig

TRANSFORMER = TransformerConfig(
    dim=12, ffn_dim=20, num_heads=2, num_layers=3, text_dim=8, text_len=9, freq_dim=10
)


POOL_SIZES = TransformerConfig(
    dim=24,
    ffn_dim=32,
    num_heads=2,
    num_layers=2,
    text_dim=6,
    text_len=4,
    in_dim=4,
    out_dim=4,
    freq_dim=8,
)

SMALLEST_SIZES = TransformerConfig(
    dim=12,
    ffn_dim=16,
    num_heads=2,
    num_layers=2,
    text_dim=6,
    text_len=4,
    in_dim=4,
    out_dim=4,
    freq_dim=8,
)

ROLLOUT_SIZES = TransformerConfig(
    dim=24,
    ffn_dim=32,
    num_heads=2,
    num_layers=2,
    text_dim=8,
    text_len=6,
    in_dim=4,
    out_dim=4,
    freq_dim=16,
)


VAE_SMALL = VAEConfig(
    dim=2,
    z_dim=3,
    dim_mult=(1, 1, 2),
    temperal_downsample=(True, True),
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 2.0, 3.0),
)


TEXT = TextEncoderConfig(
    vocab_size=11,
    dim=8,
    dim_attn=6,
    dim_ffn=10,
    num_heads=2,
    num_layers=2,
    num_buckets=8,
    max_distance=16,
)


WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def random_module(module_class, config, seed=0):
    """A module of random parameters, made without compiling its initialisation."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert np.array_equal(np.asarray(x), np.asarray(y)), jax.tree_util.keystr(path)


def edit(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
