"""Models on disk and in memory: there is no private format, only safetensors under the original Wan2.1 keys."""

from causalcine_jax.convert.load import (
    abstract_network,
    load_text_encoder,
    load_tiny_decoder,
    load_tokenizer,
    load_transformer,
    load_vae,
)
from causalcine_jax.convert.metadata import load_metadata
from causalcine_jax.convert.save import save_model, weights_hash

__all__ = [
    "abstract_network",
    "load_metadata",
    "load_text_encoder",
    "load_tiny_decoder",
    "load_tokenizer",
    "load_transformer",
    "load_vae",
    "save_model",
    "weights_hash",
]
