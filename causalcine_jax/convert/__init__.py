"""Models between disk and memory: safetensors under the original Wan2.1 keys, no private format."""

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
from causalcine_jax.convert.save_lora import save_lora
from causalcine_jax.convert.shot_detector import load_shot_detector

__all__ = [
    "abstract_network",
    "load_metadata",
    "load_shot_detector",
    "load_text_encoder",
    "load_tiny_decoder",
    "load_tokenizer",
    "load_transformer",
    "load_vae",
    "save_lora",
    "save_model",
    "weights_hash",
]
