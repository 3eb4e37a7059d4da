"""Models on disk that several of these tests read."""

import json

import jax.numpy as jnp
import pytest
from conversions import run
from safetensors.numpy import save_file
from small_networks import TEXT, TRANSFORMER, VAE_SMALL, random_module
from tiny_checkpoints import CONFIG_JSON, wan_folder
from tiny_loras import BASE

from causalcine_jax.convert import save_model
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE


@pytest.fixture(scope="module")
def networks():
    return {
        "transformer": random_module(Transformer, TRANSFORMER),
        "vae": random_module(VAE, VAE_SMALL),
        "text_encoder": random_module(UMT5Encoder, TEXT),
        "tokenizer": word_tokenizer(["a", "fox"]),
    }


@pytest.fixture
def folder(networks, tmp_path):
    """A model folder of `networks`."""
    save_model(tmp_path / "model", **networks, dtype=jnp.float32, metadata={"steps": 7})
    return tmp_path / "model"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """wan -> model, wan -> diffusers -> back: folders in all three formats."""
    root = tmp_path_factory.mktemp("made")
    run(wan_folder(root / "wan"), root / "model")
    run(root / "wan", root / "diffusers", to="diffusers", shard_gb=2e-5)
    run(root / "diffusers", root / "back")
    return root


@pytest.fixture
def wan(tmp_path):
    """Wan2.1's folder without its VAE, whose 194 layers are slow to describe."""
    return wan_folder(tmp_path / "wan", vae=False)


@pytest.fixture
def base(tmp_path):
    """Wan2.1's folder with the transformer that adapters are merged into."""
    folder = tmp_path / "wan"
    folder.mkdir()
    save_file(BASE, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(CONFIG_JSON))
    return folder
