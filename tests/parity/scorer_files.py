"""Tensors of transformers under the keys of the projects' own files, and ViCLIP in plain torch."""

import re

import numpy as np
import torch
from torch import nn


def layers_of(theirs) -> int:
    return 1 + max(int(m[1]) for key in theirs if (m := re.search(r"\.layers?\.(\d+)\.", key)))


def blocks_as_openai(theirs: dict, part: str, joined) -> dict:
    """The layers of a part of Hugging Face's CLIP under OpenAI's keys."""
    names = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    found = {}
    for layer in range(layers_of(theirs)):
        at, block = f"{part}.encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for end in ("weight", "bias"):
            found[f"{block}.attn.in_proj_{end}"] = joined(
                [theirs[f"{at}.self_attn.{each}_proj.{end}"] for each in "qkv"]
            )
            for mine, name in names.items():
                found[f"{block}.{mine}.{end}"] = theirs[f"{at}.{name}.{end}"]
    return found


def as_openai(theirs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Hugging Face's vision tensors under OpenAI's keys."""
    top = {
        "conv1.weight": "embeddings.patch_embedding.weight",
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
    }
    for end in ("weight", "bias"):
        top |= {f"ln_pre.{end}": f"pre_layrnorm.{end}", f"ln_post.{end}": f"post_layernorm.{end}"}
    found = {key: theirs[f"vision_model.{name}"] for key, name in top.items()}
    found["proj"] = theirs["visual_projection.weight"].T
    found |= blocks_as_openai(theirs, "vision_model", np.concatenate)
    return {f"visual.{key}": torch.from_numpy(value.copy()) for key, value in found.items()}


def as_hub(theirs: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Hugging Face's tensors under the keys of torch.hub's DINO and DINOv2."""
    found = {
        "cls_token": theirs["embeddings.cls_token"],
        "pos_embed": theirs["embeddings.position_embeddings"],
    }
    v2 = "encoder.layer.0.norm1.weight" in theirs
    names = {"attn.proj": "attention.output.dense"} | (
        {"norm1": "norm1", "norm2": "norm2", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}
        if v2
        else {
            "norm1": "layernorm_before",
            "norm2": "layernorm_after",
            "mlp.fc1": "intermediate.dense",
            "mlp.fc2": "output.dense",
        }
    )
    for end in ("weight", "bias"):
        found[f"patch_embed.proj.{end}"] = theirs[f"embeddings.patch_embeddings.projection.{end}"]
        found[f"norm.{end}"] = theirs[f"layernorm.{end}"]
    for layer in range(layers_of(theirs)):
        at = f"encoder.layer.{layer}"
        for end in ("weight", "bias"):
            found[f"blocks.{layer}.attn.qkv.{end}"] = np.concatenate(
                [theirs[f"{at}.attention.attention.{p}.{end}"] for p in ("query", "key", "value")]
            )
            for mine, name in names.items():
                found[f"blocks.{layer}.{mine}.{end}"] = theirs[f"{at}.{name}.{end}"]
        if v2:
            for n in "12":
                found[f"blocks.{layer}.ls{n}.gamma"] = theirs[f"{at}.layer_scale{n}.lambda1"]
    return {key: torch.from_numpy(value.copy()) for key, value in found.items()}


def as_viclip_text(theirs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {
        "token_embedding.weight": theirs["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": theirs["text_model.embeddings.position_embedding.weight"],
        "text_projection": theirs["text_projection.weight"].T.contiguous(),
    }
    for end in ("weight", "bias"):
        found[f"ln_final.{end}"] = theirs[f"text_model.final_layer_norm.{end}"]
    found |= blocks_as_openai(theirs, "text_model", torch.cat)
    return found


class PlainViCLIP(nn.Module):
    """VBench's third_party/ViCLIP: the vision transformer, stated again."""

    class Block(nn.Module):
        def __init__(self, dim: int):
            super().__init__()
            self.attn = nn.MultiheadAttention(dim, dim // 64)
            self.ln_1, self.ln_2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.mlp = nn.ModuleDict(
                {"c_fc": nn.Linear(dim, 4 * dim), "c_proj": nn.Linear(4 * dim, dim)}
            )

        def forward(self, x):
            y = self.ln_1(x)
            x = x + self.attn(y, y, y, need_weights=False)[0]
            y = self.mlp["c_fc"](self.ln_2(x))
            return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))

    def __init__(self, dim=128, patch=14, side=56, frames=8, out=64):
        super().__init__()
        self.conv1 = nn.Conv3d(3, dim, (1, patch, patch), (1, patch, patch), bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(dim))
        self.positional_embedding = nn.Parameter(torch.zeros((side // patch) ** 2 + 1, dim))
        self.temporal_positional_embedding = nn.Parameter(torch.zeros(1, frames, dim))
        self.ln_pre, self.ln_post = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.transformer = nn.ModuleDict(
            {"resblocks": nn.ModuleList([self.Block(dim) for _ in range(2)])}
        )
        self.proj = nn.Parameter(torch.zeros(dim, out))

    def forward(self, x):  # b c t h w
        x = self.conv1(x)
        b, c, t, h, w = x.shape
        x = x.permute(0, 2, 3, 4, 1).reshape(b * t, h * w, c)
        x = torch.cat([self.class_embedding.expand(b * t, 1, c), x], 1) + self.positional_embedding
        first, x = x[:b, :1], x[:, 1:].reshape(b, t, h * w, c)
        x = x + self.temporal_positional_embedding[:, :, None]
        x = self.ln_pre(torch.cat([first, x.reshape(b, t * h * w, c)], 1)).permute(1, 0, 2)
        for block in self.transformer["resblocks"]:
            x = block(x)
        return self.ln_post(x)[0] @ self.proj
