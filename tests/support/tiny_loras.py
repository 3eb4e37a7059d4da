"""A small base and one adapter for it, with the merged weights and the scale."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_checkpoints import tensors

from causalcine_jax.convert.formats import open_part

Q = "blocks.0.self_attn.q"


RANK = 4


RNG = np.random.default_rng(7)


DOWN, UP = (
    RNG.standard_normal((RANK, 24)).astype(np.float32),
    RNG.standard_normal((24, RANK)).astype(np.float32),
)


PAIR = {f"diffusion_model.{Q}.lora_A.weight": DOWN, f"diffusion_model.{Q}.lora_B.weight": UP}


BASE = tensors("transformer")


def read(base, *lora, key=f"{Q}.weight", **options):
    with open_part(base, "transformer", lora_path=list(lora), **options) as part:
        return part.read_slice(key, (slice(None),) * len(part.shapes[key]))


def scale(base, *lora, **options):
    """The factor of UP @ DOWN that was added; it must be the same everywhere."""
    added = read(base, *lora, **options) - BASE[f"{Q}.weight"]
    found = (added * (UP @ DOWN)).sum() / ((UP @ DOWN) ** 2).sum()
    np.testing.assert_allclose(added, found * (UP @ DOWN), atol=1e-4)
    return pytest.approx(found, abs=1e-4)


def peft_folder(folder, content=None, **settings):
    folder.mkdir()
    pair = {f"base_model.model.{Q}.lora_A.weight": DOWN, f"base_model.model.{Q}.lora_B.weight": UP}
    save_file(content or pair, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **settings}))
    return folder
