"""The scorers' networks, and VBench's preprocessing, against torch and transformers.

Random weights of small sizes. Where the real code is a project of its own (DINO's hub code,
ViCLIP), the few lines in question are stated again in torch.
"""

import jax
import numpy as np
import pytest

pytest.importorskip("transformers")

import torch
import torch.nn.functional as F
import transformers
from safetensors.numpy import load_file
from scorer_files import PlainViCLIP, as_hub, as_openai, as_viclip_text
from torch import nn

from causalcine_jax.scorers import preprocess
from causalcine_jax.scorers.load import load_text_encoder, load_vit
from causalcine_jax.scorers.sources import SOURCES
from causalcine_jax.scorers.vit import ViT

SMALL = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 512,
    "image_size": 56,
    "patch_size": 14,
}
WITHIN = 1e-4


def randomised(module: nn.Module) -> nn.Module:
    """`module` with weights large enough that every part of it counts."""
    make = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in module.named_parameters():
            noise = torch.randn(value.shape, generator=make)
            matrix = value.ndim > 1 and "position" not in name and "pos_embed" not in name
            value.copy_(noise * value.shape[-1] ** -0.5 if matrix else 0.5 + 0.3 * noise)
    return module.eval()


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, 3)).astype(np.float32)


def torch_pixels(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.moveaxis(values, -1, -3).copy())


def ours(net: ViT, values: np.ndarray, positions=None) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(net(values, positions))


def close(mine: np.ndarray, theirs: torch.Tensor) -> None:
    theirs = theirs.detach().numpy()
    assert theirs.std() > 0.01
    assert np.abs(mine - theirs).max() <= WITHIN * max(1.0, np.abs(theirs).max())


def test_clip_is_transformers_clip(tmp_path):
    config = transformers.CLIPConfig(
        vision_config=SMALL,
        text_config={k: SMALL[k] for k in list(SMALL)[:4]},
        projection_dim=64,
    )
    model = randomised(transformers.CLIPModel(config))
    model.save_pretrained(tmp_path)
    x = pixels(2, 56, 56)
    theirs = model.visual_projection(model.vision_model(torch_pixels(x)).pooler_output)
    net = load_vit("clip", tmp_path / "model.safetensors", SOURCES["clip_b32"])
    close(ours(net, x), theirs)

    saved = as_openai(load_file(tmp_path / "model.safetensors"))
    torch.save(saved, tmp_path / "clip.pt")
    again = load_vit("clip", tmp_path / "clip.pt", SOURCES["clip_b32"])
    np.testing.assert_array_equal(ours(again, x), ours(net, x))


def test_dino_is_transformers_vit_and_its_hub_file_is_read_alike(tmp_path):
    config = transformers.ViTConfig(**SMALL, layer_norm_eps=1e-6)
    model = randomised(transformers.ViTModel(config, add_pooling_layer=False))
    model.save_pretrained(tmp_path)
    x = pixels(2, 56, 56)
    net = load_vit("dino", tmp_path / "model.safetensors", SOURCES["dino"])
    close(ours(net, x), model(torch_pixels(x)).last_hidden_state[:, 0])

    torch.save(as_hub(load_file(tmp_path / "model.safetensors")), tmp_path / "hub.pth")
    again = load_vit("dino", tmp_path / "hub.pth", SOURCES["dino"])
    np.testing.assert_array_equal(ours(again, x), ours(net, x))


def test_dinov2_is_transformers_dinov2(tmp_path):
    config = transformers.Dinov2Config(
        **{k: SMALL[k] for k in list(SMALL)[:3]}, mlp_ratio=4, image_size=56, patch_size=14
    )
    model = randomised(transformers.Dinov2Model(config))
    model.save_pretrained(tmp_path)
    x = pixels(2, 42, 70)
    net = load_vit("dinov2", tmp_path / "model.safetensors", SOURCES["dinov2"])
    # transformers resizes the positions to a size; the hub's code adds an offset to the scale.
    positions = preprocess.positions_for(net, 42, 70, offset=0.0)
    close(ours(net, x, positions), model(torch_pixels(x)).last_hidden_state[:, 0])

    torch.save(as_hub(load_file(tmp_path / "model.safetensors")), tmp_path / "hub.pth")
    again = load_vit("dinov2", tmp_path / "hub.pth", SOURCES["dinov2"])
    np.testing.assert_array_equal(ours(again, x, positions), ours(net, x, positions))


def hub_positions(pos_embed: torch.Tensor, width: int, height: int, patch: int) -> torch.Tensor:
    """interpolate_pos_encoding of facebookresearch/dino, with its offset of 0.1 patches."""
    side, dim = int((pos_embed.shape[1] - 1) ** 0.5), pos_embed.shape[-1]
    grid = F.interpolate(
        pos_embed[:, 1:].reshape(1, side, side, dim).permute(0, 3, 1, 2),
        scale_factor=((width // patch + 0.1) / side, (height // patch + 0.1) / side),
        mode="bicubic",
    )
    return torch.cat([pos_embed[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, dim)], 1)[0]


@pytest.mark.parametrize("height, width", [(224, 388), (388, 224), (224, 224)])
def test_positions_are_resized_as_dinos(tmp_path, height, width):
    config = transformers.ViTConfig(**SMALL | {"image_size": 112, "patch_size": 16})
    model = randomised(transformers.ViTModel(config, add_pooling_layer=False))
    model.save_pretrained(tmp_path)
    net = load_vit("dino", tmp_path / "model.safetensors", SOURCES["dino"])
    # The hub's code hands in width and height in the order of the tensor's axes: rows first.
    theirs = hub_positions(model.embeddings.position_embeddings, height, width, 16)
    close(preprocess.positions_for(net, height, width), theirs)


def test_viclip_reads_clips_and_texts_as_the_real_code(tmp_path):
    vision = randomised(PlainViCLIP())
    text = transformers.CLIPTextModelWithProjection(
        transformers.CLIPTextConfig(
            vocab_size=99, max_position_embeddings=16, projection_dim=64, eos_token_id=98,
            bos_token_id=97, **{k: SMALL[k] for k in list(SMALL)[:4]},
        )
    )  # fmt: skip
    text = randomised(text)
    saved = {f"vision_encoder.{k}": v for k, v in vision.state_dict().items()}
    saved |= {f"text_encoder.{k}": v for k, v in as_viclip_text(text.state_dict()).items()}
    file = tmp_path / "viclip.pth"
    torch.save({"model": saved | {"temp": torch.tensor(0.01)}}, file)

    clips = pixels(2, 8, 56, 56)
    net = load_vit("viclip_vision", file, SOURCES["viclip"])
    close(ours(net, clips), vision(torch.from_numpy(np.moveaxis(clips, -1, 1).copy())))

    ids = np.array([[97, 5, 7, 98, 0, 0, 0, 0], [97, *range(20, 26), 98]], np.int32)
    theirs = text(input_ids=torch.from_numpy(ids.astype(np.int64))).text_embeds
    with jax.default_matmul_precision("highest"):
        close(np.asarray(load_text_encoder(file, SOURCES["viclip"])(ids)), theirs)


def vbench(frames: np.ndarray, how: preprocess.Preprocessing) -> torch.Tensor:
    """VBench's transforms as the calls to torch that torchvision makes of them.

    load_video makes floats of the frames. ViCLIP's stay uint8: torchvision resizes such as
    floats, clips what bicubic overshoots and rounds.
    """
    x = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    x = F.interpolate(
        x,
        size=how.size(*frames.shape[1:3]),
        mode="bicubic" if how.cubic else "bilinear",
        align_corners=False,
        antialias=how.antialias,
    )
    if how.rounded:
        x = x.clamp(0, 255).round()
    if how.crop:
        top, left = (round((size - how.crop) / 2) for size in x.shape[2:])
        x = x[..., top : top + how.crop, left : left + how.crop]
    mean, std = (torch.tensor(values)[:, None, None] for values in how.statistics)
    return ((x / 255 - mean) / std).permute(0, 2, 3, 1)


@pytest.mark.parametrize("name", ["CLIP", "VICLIP", "DINO", "DINOV2"])
@pytest.mark.parametrize("height, width", [(480, 832), (96, 160), (321, 239), (224, 224)])
def test_frames_enter_as_in_vbench(name, height, width):
    how = getattr(preprocess, name)
    frames = np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.uint8)
    mine, theirs = np.asarray(preprocess.pixels_of(frames, how)), vbench(frames, how).numpy()
    assert mine.shape == theirs.shape
    # Where a pixel is half a grey level between two, the last bit of a product decides.
    differs = np.abs(mine - theirs) > WITHIN
    assert differs.mean() <= (1e-4 if how.rounded else 0)
