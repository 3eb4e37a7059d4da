"""TAEHV's decoder against plain torch: frame by frame, with the previous frame in every block."""

import jax
import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from torch.nn.functional import conv2d, interpolate, relu

from causalcine_jax.convert import load_tiny_decoder

BLOCKS = {3: 256, 4: 256, 5: 256, 9: 128, 10: 128, 11: 128, 15: 64, 16: 64, 17: 64}
GROW = {7: (256, 1), 13: (128, 2), 19: (64, 2)}
CONV = {1: (16, 256), 8: (256, 128), 14: (128, 64), 20: (64, 64), 22: (64, 3)}


def random_tensors() -> dict[str, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(shape, generator=make) * (2 / np.prod(shape[1:])) ** 0.5
    tensors = {}
    for layer, dim in BLOCKS.items():
        for conv, d_in in ((0, 2 * dim), (2, dim), (4, dim)):
            tensors[f"decoder.{layer}.conv.{conv}.weight"] = 0.5 * normal(dim, d_in, 3, 3)
            tensors[f"decoder.{layer}.conv.{conv}.bias"] = 0.1 * torch.randn(dim, generator=make)
    for layer, (dim, grow) in GROW.items():
        tensors[f"decoder.{layer}.conv.weight"] = normal(dim * grow, dim, 1, 1)
    for layer, (d_in, d_out) in CONV.items():
        tensors[f"decoder.{layer}.weight"] = normal(d_out, d_in, 3, 3)
        if layer in (1, 22):
            tensors[f"decoder.{layer}.bias"] = 0.1 * torch.randn(d_out, generator=make)
    tensors["decoder.22.weight"] *= 0.1  # so that few values are clipped
    tensors["decoder.22.bias"] += 0.5
    return tensors


def decoded(tensors, latents):
    """Latents [F,16,h,w] -> frames [4F-3,3,8h,8w] in [0,1], one latent frame at a time."""
    memory = dict.fromkeys(BLOCKS)

    def layers(frames: list):
        for layer in range(23):
            weight = tensors.get(f"decoder.{layer}.weight")
            bias = tensors.get(f"decoder.{layer}.bias")
            if layer == 0:
                frames = [torch.tanh(x / 3) * 3 for x in frames]
            elif layer in CONV:
                frames = [conv2d(x, weight, bias, padding=1) for x in frames]
            elif layer in (2, 21):
                frames = [relu(x) for x in frames]
            elif layer in BLOCKS:
                frames = [block(layer, x) for x in frames]
            elif layer in (6, 12, 18):
                frames = [interpolate(x, scale_factor=2, mode="nearest") for x in frames]
            else:
                frames = [
                    part
                    for x in frames
                    for part in conv2d(x, tensors[f"decoder.{layer}.conv.weight"]).chunk(
                        GROW[layer][1], 1
                    )
                ]
        return frames

    def block(layer: int, x):
        past = memory[layer] if memory[layer] is not None else torch.zeros_like(x)
        memory[layer] = x
        y = torch.cat([x, past], 1)
        for conv in (0, 2, 4):
            y = conv2d(
                y,
                tensors[f"decoder.{layer}.conv.{conv}.weight"],
                tensors[f"decoder.{layer}.conv.{conv}.bias"],
                padding=1,
            )
            y = relu(y) if conv < 4 else y
        return relu(y + x)

    frames = [frame for latent in latents for frame in layers([latent[None]])]
    return torch.cat(frames[3:]).clamp(0, 1)


def test_it_decodes_as_a_plain_one(tmp_path):
    tensors = random_tensors()
    torch.save(tensors | {"encoder.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "taew2_1.pth")
    latents = torch.randn(3, 16, 4, 6, generator=torch.Generator().manual_seed(1))
    theirs = decoded(tensors, latents).permute(0, 2, 3, 1).numpy()
    assert theirs.std() > 0.02 and np.mean((theirs == 0) | (theirs == 1)) < 0.2, (
        "too much is clipped to be worth comparing"
    )
    with jax.default_matmul_precision("highest"):
        ours, _ = load_tiny_decoder(tmp_path / "taew2_1.pth").decode_first(
            latents.permute(0, 2, 3, 1).numpy()[None]
        )
    assert ours.shape == (1, 9, 32, 48, 3)
    assert np.linalg.norm((np.asarray(ours[0]) + 1) / 2 - theirs) <= 1e-5 * np.linalg.norm(theirs)
