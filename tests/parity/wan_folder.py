"""Wan2.1's own folder with small random networks whose outputs depend on every parameter."""

import json
from pathlib import Path

from diffusers_vae import vae_tensors
from safetensors.numpy import save_file
from wan_weights import text_encoder_tensors, transformer_tensors

from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig

WORDS = word_tokenizer(["a", "fox", "runs", "blurred"])
TRANSFORMER = TransformerConfig(
    dim=28, ffn_dim=40, num_heads=2, num_layers=3, text_dim=16, freq_dim=16
)
TEXT_ENCODER = TextEncoderConfig(
    WORDS.size, dim=16, dim_attn=24, dim_ffn=20, num_heads=4, num_layers=2
)
VAE = VAEConfig(dim=4)


def wan_folder(folder: Path) -> None:
    folder.mkdir()
    save_file(transformer_tensors(TRANSFORMER), folder / "diffusion_pytorch_model.safetensors")
    save_file(vae_tensors(VAE), folder / "Wan2.1_VAE.safetensors")
    save_file(
        text_encoder_tensors(TEXT_ENCODER), folder / "models_t5_umt5-xxl-enc-bf16.safetensors"
    )
    (folder / "config.json").write_text(
        json.dumps(
            {"_class_name": "WanModel", "model_type": "t2v", "num_heads": 2, "text_len": 512}
        )
    )
    WORDS.save(folder / "google/umt5-xxl")
