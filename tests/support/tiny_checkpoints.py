"""Model folders of a few kilobytes as Wan2.1, Diffusers and others publish them.

Random tensors have the published keys and file names.
"""

import json
import zlib
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
from safetensors.numpy import load_file, save_file
from torch_archives import archive, dictionary, tensor

from causalcine_jax.convert import describe, tables
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig

# Wan2.1's own folder describes its VAE and text encoder by tensor shapes alone.
# Whatever shapes do not tell must therefore be as in the real ones.
TRANSFORMER = TransformerConfig(
    dim=24, ffn_dim=40, num_heads=2, num_layers=3, text_dim=8, freq_dim=10
)
VAE_CONFIG = VAEConfig(dim=2)
TEXT_ENCODER = TextEncoderConfig(
    vocab_size=11, dim=8, dim_attn=8, dim_ffn=10, num_heads=2, num_layers=2, num_buckets=8
)
CONFIG_JSON = {
    "_class_name": "WanModel",
    "_diffusers_version": "0.30.0",
    "dim": 24,
    "eps": 1e-6,
    "ffn_dim": 40,
    "freq_dim": 10,
    "in_dim": 16,
    "model_type": "t2v",
    "num_heads": 2,
    "num_layers": 3,
    "out_dim": 16,
    "text_len": 512,
}
WORDS = word_tokenizer(["a", "fox"])
# Many of these files come without a config.json, as the real ones do.
describe.WAN_HEADS[TRANSFORMER.dim, TRANSFORMER.ffn_dim] = TRANSFORMER.num_heads


def tensors(part: str, dtype=np.float32, **changes) -> dict[str, np.ndarray]:
    """Returns random tensors of a small network under original keys.

    `changes` are to its config.
    """
    module_class, config, rules = {
        "transformer": (Transformer, TRANSFORMER, tables.TRANSFORMER),
        "vae": (VAE, VAE_CONFIG, tables.VAE),
        "text_encoder": (UMT5Encoder, TEXT_ENCODER, tables.TEXT_ENCODER),
    }[part]
    config = type(config)(**{**vars(config), **changes})
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    places = tables.places(
        shapes, rules, config.patch_size if rules is tables.TRANSFORMER else None
    )
    return {
        p.key: np.random.default_rng(zlib.crc32(p.key.encode()))
        .standard_normal(p.shape)
        .astype(dtype)
        for p in places
    }


def save_torch(file: Path, **values) -> Path:
    """Writes a .pt or .pth as torch.save does; `values` are arrays or dictionaries of them."""
    storages = {}

    def pickled(value):
        if isinstance(value, dict):
            return dictionary(**{key: pickled(entry) for key, entry in value.items()})
        kind = (
            "torch.BFloat16Storage" if value.dtype == ml_dtypes.bfloat16 else "torch.FloatStorage"
        )
        storages[str(len(storages))] = value
        return tensor(kind, str(len(storages) - 1), value.size, value.shape)

    return archive(file, pickled(values), storages)


def wan_folder(folder: Path, shards: int = 3, vae: bool = True) -> Path:
    """Writes a folder laid out as Wan2.1's own."""
    folder.mkdir()
    transformer = tensors("transformer")
    names = [
        f"diffusion_pytorch_model-0000{i + 1}-of-0000{shards}.safetensors" for i in range(shards)
    ]
    where = {key: names[i % shards] for i, key in enumerate(transformer)}
    for name in names:
        save_file(
            {key: transformer[key] for key in transformer if where[key] == name}, folder / name
        )
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": where})
    )
    (folder / "config.json").write_text(json.dumps(CONFIG_JSON))
    if vae:
        save_torch(folder / "Wan2.1_VAE.pth", **tensors("vae"))
    save_torch(
        folder / "models_t5_umt5-xxl-enc-bf16.pth", **tensors("text_encoder", ml_dtypes.bfloat16)
    )
    WORDS.save(folder / "google/umt5-xxl")
    return folder


def read_all(folder: Path) -> dict[str, np.ndarray]:
    """Reads every tensor below `folder`, by its part and key."""
    return {
        f"{file.parent.relative_to(folder)}:{key}": tensor
        for file in sorted(folder.rglob("*.safetensors"))
        for key, tensor in load_file(file).items()
    }
