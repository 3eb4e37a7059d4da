"""Our networks against outputs of other implementations (tests/parity/make_goldens_*.py).

Torch is not needed. The weights are safetensors under the original Wan2.1 keys, so the key tables
and the loaders are compared too.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from repository import GOLDENS
from safetensors.numpy import save_file

from causalcine_jax.convert import load_text_encoder, load_transformer
from causalcine_jax.models.packed import whole_film


def goldens(name: str, folder: Path):
    """The arrays of a golden file; writes its weights to `folder` as a model folder."""
    with np.load(GOLDENS / name) as file:
        arrays = dict(file)
    save_file(
        {
            key.removeprefix("weights/"): a
            for key, a in arrays.items()
            if key.startswith("weights/")
        },
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(arrays["config"].item())
    return arrays, json.loads(arrays["config"].item())


def relative(ours, theirs) -> float:
    return float(np.linalg.norm(np.asarray(ours) - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("case", ["short", "long"])
def test_text_encoder_equals_transformers(case, tmp_path):
    arrays, config = goldens("umt5.npz", tmp_path)
    encoder = load_text_encoder(tmp_path)
    assert encoder.cfg.num_buckets == config["num_buckets"]
    with jax.default_matmul_precision("highest"):
        embeddings = jax.jit(lambda *a: encoder(*a))(arrays[f"{case}/ids"], arrays[f"{case}/mask"])
    assert relative(embeddings, arrays[f"{case}/embeddings"]) <= 1e-5


@pytest.mark.parametrize("case", ["image", "films"])
def test_transformer_equals_diffusers(case, tmp_path):
    arrays, config = goldens("dit.npz", tmp_path)
    model = load_transformer(tmp_path)
    assert model.config.num_heads == config["num_heads"]
    with jax.default_matmul_precision("highest"):
        velocity = jax.jit(whole_film)(
            model, *(arrays[f"{case}/{name}"] for name in ("x", "t", "text"))
        )
    assert relative(velocity, arrays[f"{case}/velocity"]) <= 1e-5
