"""Random tensors under the original Wan2.1 keys, and the sizes of the parity tests, torch-free."""

import zlib

import jax
import numpy as np
from safetensors.numpy import save_file

from causalcine_jax.convert import tables
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig

# head_dim 14 splits into 6 + 4 + 4 channels for time, height and width, uneven like Wan's
# 44 + 42 + 42.
TRANSFORMER = TransformerConfig(
    dim=28, ffn_dim=40, num_heads=2, num_layers=2, text_dim=10, text_len=7, freq_dim=16
)
TEXT_ENCODER = TextEncoderConfig(
    vocab_size=50,
    dim=24,
    dim_attn=20,
    dim_ffn=36,
    num_heads=4,
    num_layers=3,
    num_buckets=16,
    max_distance=32,
)


def transformer_tensors(config: TransformerConfig, seed: int = 0) -> dict[str, np.ndarray]:
    return _tensors(Transformer, config, tables.TRANSFORMER, seed)


def text_encoder_tensors(config: TextEncoderConfig, seed: int = 0) -> dict[str, np.ndarray]:
    return _tensors(UMT5Encoder, config, tables.TEXT_ENCODER, seed)


def load(tensors: dict[str, np.ndarray], config, loader, folder):
    """Our module of `tensors`, loaded from a file, so parity covers the key tables too."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    settings = {
        f: getattr(config, f)
        for f in ("num_heads", "text_len", "max_distance", "eps")
        if hasattr(config, f)
    }
    (folder / "config.json").write_text(str(settings).replace("'", '"'))
    return loader(folder)


def _tensors(module_class, config, rules, seed: int) -> dict[str, np.ndarray]:
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    places = tables.places(
        shapes, rules, config.patch_size if rules is tables.TRANSFORMER else None
    )
    return {place.key: _random(place.key, place.shape, seed) for place in places}


def _random(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """A random tensor, scaled so that every parameter affects the output."""
    x = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape, np.float32)
    if "norm" in key and key.endswith("weight"):
        return 1 + 0.2 * x
    if key.endswith("bias") or "modulation" in key or "pos_embedding" in key:
        return 0.3 * x
    if "token_embedding" in key:
        return x
    return x / np.sqrt(np.prod(shape[1:], dtype=np.float32))
