"""Diffusers' AutoencoderKLWan in fp32 on the CPU, from Wan2.1's keys, and the sizes tested."""

import dataclasses
import json
import re
import zlib

import jax
import numpy as np
import torch
from diffusers import AutoencoderKLWan
from safetensors.numpy import save_file

from causalcine_jax.convert import load_vae, tables
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import VAEConfig

# Small, with a shortcut in every stage but one, uneven latent statistics, both kinds of Downsample.
TINY = VAEConfig(
    dim=2,
    z_dim=4,
    dim_mult=(1, 2, 3, 3),
    num_res_blocks=1,
    mean=(0.3, -0.2, 0.0, 1.1),
    std=(1.5, 0.7, 2.0, 0.9),
)
# Wan2.1's own multipliers, blocks, latent channels and statistics, a twelfth of its width.
WAN_LIKE = VAEConfig(dim=8)
TIME_FIRST = VAEConfig(
    dim=6,
    z_dim=5,
    dim_mult=(1, 2, 2, 2),
    num_res_blocks=2,
    temperal_downsample=(True, True, False),
    mean=(0.0,) * 5,
    std=(1.0,) * 5,
)

# Original Wan2.1 -> Diffusers. Written by hand, so that it can disagree with the package.
RENAMED = (
    (r"^conv1\.", "quant_conv."),
    (r"^conv2\.", "post_quant_conv."),
    (r"middle\.1\.", "mid_block.attentions.0."),
    (r"middle\.0\.", "mid_block.resnets.0."),
    (r"middle\.2\.", "mid_block.resnets.1."),
    (r"head\.0\.", "norm_out."),
    (r"head\.2\.", "conv_out."),
    (r"^(encoder|decoder)\.conv1\.", r"\1.conv_in."),
    (r"residual\.0\.", "norm1."),
    (r"residual\.2\.", "conv1."),
    (r"residual\.3\.", "norm2."),
    (r"residual\.6\.", "conv2."),
    (r"shortcut\.", "conv_shortcut."),
    (r"downsamples\.", "down_blocks."),
)


def vae_tensors(config: VAEConfig, seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors under the original keys, scaled so that every parameter affects the output."""
    shapes = jax.eval_shape(lambda: VAE(config, key=jax.random.key(0)))
    return {
        place.key: _random(place.key, place.shape, seed)
        for place in tables.places(shapes, tables.VAE)
    }


def our_vae(config: VAEConfig, tensors: dict[str, np.ndarray], folder) -> VAE:
    """Our VAE of `tensors`, loaded from a file, so parity covers the key table too."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(dataclasses.asdict(config)))
    return load_vae(folder)


def diffusers_vae(config: VAEConfig, tensors: dict[str, np.ndarray]):
    """(encode, decode) by Diffusers.

    Video [B,T,H,W,3] -> normalised mean [B,F,h,w,z], and back, clipped to [-1,1].
    """
    model = AutoencoderKLWan(
        base_dim=config.dim,
        z_dim=config.z_dim,
        dim_mult=list(config.dim_mult),
        num_res_blocks=config.num_res_blocks,
        temperal_downsample=list(config.temperal_downsample),
        latents_mean=list(config.mean),
        latents_std=list(config.std),
    ).eval()
    model.load_state_dict(
        {
            _name(key, config): torch.from_numpy(np.ascontiguousarray(t))
            for key, t in tensors.items()
        },
        strict=True,
    )
    mean, std = np.array(config.mean, np.float32), np.array(config.std, np.float32)

    @torch.no_grad()
    def encode(video):
        posterior = model.encode(torch.from_numpy(video).permute(0, 4, 1, 2, 3)).latent_dist
        return (posterior.mean.permute(0, 2, 3, 4, 1).numpy() - mean) / std

    @torch.no_grad()
    def decode(latents):
        latents = torch.from_numpy(latents * std + mean).permute(0, 4, 1, 2, 3)
        return model.decode(latents).sample.permute(0, 2, 3, 4, 1).numpy()

    return encode, decode


def _name(key: str, config: VAEConfig) -> str:
    for pattern, replacement in RENAMED:
        key = re.sub(pattern, replacement, key)
    per_stage = config.num_res_blocks + 2  # residual blocks of a decoder stage and its Upsample

    def stage(match):
        stage, layer = divmod(int(match[1]), per_stage)
        return (
            f"up_blocks.{stage}.upsamplers.0."
            if layer == per_stage - 1
            else f"up_blocks.{stage}.resnets.{layer}."
        )

    return re.sub(r"upsamples\.(\d+)\.", stage, key)


def _random(key: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    x = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape, np.float32)
    if key.endswith("gamma"):
        return 1 + 0.2 * x
    if key.endswith("bias"):
        return 0.2 * x
    # The video is clipped to [-1,1]; a small last layer keeps most of it inside.
    small = 0.1 if key.startswith("decoder.head.2") else 1.0
    return small * x / np.sqrt(np.prod(shape[1:], dtype=np.float32))
