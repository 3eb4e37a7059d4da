"""The Wan presets against the published checkpoints: tensors, parameters, bytes, and sampling.

Sizes come from shapes alone. test_convert.py checks every key and shape;
parity/test_diffusers_tables.py checks them against Diffusers' and transformers' modules.
"""

import jax
import numpy as np
import pytest

from causalcine_jax.convert import tables
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.presets import WAN_NEGATIVE_PROMPT, preset


def checkpoint(name: str, part: str) -> dict[str, tuple[int, ...]]:
    """Shapes of a preset's checkpoint, by original key."""
    config = getattr(preset(name), part)
    module_class, rules = {
        "transformer": (Transformer, tables.TRANSFORMER),
        "vae": (VAE, tables.VAE),
        "text_encoder": (UMT5Encoder, tables.TEXT_ENCODER),
    }[part]
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    return {
        place.key: place.shape
        for place in tables.places(
            shapes, rules, config.patch_size if rules is tables.TRANSFORMER else None
        )
    }


@pytest.mark.parametrize(
    "name, part, tensors, parameters, gigabytes_bf16",
    [
        ("wan-1.3b", "transformer", 825, 1_418_996_800, 2.838),
        ("wan-14b", "transformer", 1095, 14_288_491_584, 28.577),
        ("wan-1.3b", "vae", 194, 126_892_531, 0.254),
        ("wan-14b", "text_encoder", 242, 5_680_910_336, 11.362),
    ],
)
def test_sizes_are_those_of_the_published_files(name, part, tensors, parameters, gigabytes_bf16):
    shapes = checkpoint(name, part)
    count = sum(int(np.prod(shape)) for shape in shapes.values())
    assert (len(shapes), count) == (tensors, parameters)
    assert round(2 * count / 1e9, 3) == gigabytes_bf16


def test_spot_checks_of_the_largest_model():
    shapes = checkpoint("wan-14b", "transformer")
    assert shapes["patch_embedding.weight"] == (5120, 16, 1, 2, 2)
    assert shapes["blocks.39.ffn.0.weight"] == (13824, 5120)
    assert shapes["blocks.0.self_attn.norm_q.weight"] == (5120,)  # over all heads together
    assert shapes["time_projection.1.weight"] == (30720, 5120)
    assert shapes["head.head.weight"] == (64, 5120)
    assert "blocks.40.modulation" not in shapes


def test_both_sizes_share_vae_text_encoder_and_text_length():
    small, large = preset("wan-1.3b"), preset("wan-14b")
    assert (small.vae, small.text_encoder) == (large.vae, large.text_encoder)
    for wan in (small, large):
        assert wan.transformer.head_dim == 128 and wan.transformer.text_len == 512
        assert wan.transformer.text_dim == wan.text_encoder.dim == 4096
        assert (wan.vae.temporal_stride, wan.vae.spatial_stride) == (4, 8)
        assert wan.negative == WAN_NEGATIVE_PROMPT and len(wan.negative.split("，")) == 28
        assert (wan.height, wan.width) == (480, 832)


def test_sampling_is_what_wan_recommends():
    assert (preset("wan-14b").shift, preset("wan-14b").guidance) == (5.0, 5.0)
    assert 8 <= preset("wan-1.3b").shift <= 12 and preset("wan-1.3b").guidance == 6.0
