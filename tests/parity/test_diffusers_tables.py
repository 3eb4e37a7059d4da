"""The key tables against state dicts of Diffusers and transformers, full size, meta device."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import diffusers
import torch
import transformers

from causalcine_jax.convert import diffusers_configs, tables
from causalcine_jax.convert.diffusers_tables import key_table
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TextEncoderConfig, VAEConfig
from causalcine_jax.presets import preset

CASES = {
    "wan-1.3b": (
        "transformer",
        Transformer,
        preset("wan-1.3b").transformer,
        tables.TRANSFORMER,
        825,
    ),
    "wan-14b": (
        "transformer",
        Transformer,
        preset("wan-14b").transformer,
        tables.TRANSFORMER,
        1095,
    ),
    "vae": ("vae", VAE, VAEConfig(), tables.VAE, 194),
    "uneven vae": (
        "vae",
        VAE,
        VAEConfig(4, 16, (1, 2, 4, 4), 1, (True, False, True)),
        tables.VAE,
        None,
    ),
    "umt5-xxl": ("text_encoder", UMT5Encoder, TextEncoderConfig(), tables.TEXT_ENCODER, 242),
}


def state_dict(part, config):
    settings = getattr(diffusers_configs, part)(config)
    with torch.device("meta"):
        if part == "transformer":
            model = diffusers.WanTransformer3DModel.from_config(settings)
        elif part == "vae":
            model = diffusers.AutoencoderKLWan.from_config(settings)
        else:
            model = transformers.UMT5EncoderModel(transformers.UMT5Config(**settings))
    return {
        key: tuple(tensor.shape)
        for key, tensor in model.state_dict().items()
        if key != "encoder.embed_tokens.weight"
    }


@pytest.mark.parametrize("name", CASES)
def test_all_keys_and_shapes_both_ways(name):
    part, module_class, config, rules, count = CASES[name]
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    original = {
        p.key: p.shape
        for p in tables.places(
            shapes, rules, config.patch_size if rules is tables.TRANSFORMER else None
        )
    }
    theirs = state_dict(part, config)
    table = key_table(part, original)
    assert {table.to_diffusers(key): shape for key, shape in original.items()} == theirs
    back = key_table(part, theirs)
    assert {back.to_original(key): shape for key, shape in theirs.items()} == original
    assert count in (None, len(theirs)) and sum(map(np.prod, theirs.values())) == sum(
        map(np.prod, original.values())
    )
