"""Random weights of the scorers' networks, in the files that their projects publish.

No published weights come with this repository. These prove that an evaluation runs, and how fast;
their numbers mean nothing.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


@dataclass(frozen=True)
class Size:
    """A vision transformer: its width, layers, patch, and pixels of its pictures' side."""

    dim: int
    layers: int
    patch: int
    side: int
    out: int = 0


TRUE = {
    "clip_b32": Size(768, 12, 32, 224, 512),
    "clip_l14": Size(1024, 24, 14, 224, 768),
    "dino": Size(768, 12, 16, 224),
    "dinov2": Size(768, 12, 14, 518),
    "viclip": Size(1024, 24, 14, 224, 768),
}
SMALL = {
    "clip_b32": Size(64, 1, 32, 224, 32),
    "clip_l14": Size(64, 1, 56, 224, 48),
    "dino": Size(64, 1, 32, 224),
    "dinov2": Size(64, 1, 56, 280),
    "viclip": Size(64, 1, 56, 224, 48),
}
LETTERS = 49_408
TEXT_LENGTH, CLIP_FRAMES = 32, 8


class _Weights(dict):
    """Tensors by key, drawn as they are named."""

    def __init__(self, seed: int):
        super().__init__()
        self._draw = np.random.default_rng(seed)

    def draw(self, key: str, *shape: int, around: float = 0.0) -> None:
        scale = 1.6 / shape[-1] ** 0.5 if len(shape) > 1 else 0.05
        values = self._draw.standard_normal(shape, np.float32) * np.float32(scale)
        self[key] = values + np.float32(around)

    def linear(self, key: str, out: int, dim: int, joint: str = ".") -> None:
        self.draw(f"{key}{joint}weight", out, dim)
        self.draw(f"{key}{joint}bias", out)

    def norm(self, key: str, dim: int) -> None:
        self.draw(f"{key}.weight", dim, around=1.0)
        self.draw(f"{key}.bias", dim)

    def clip_layers(self, prefix: str, dim: int, layers: int) -> None:
        for layer in range(layers):
            at = f"{prefix}transformer.resblocks.{layer}"
            self.norm(f"{at}.ln_1", dim)
            self.linear(f"{at}.attn.in_proj", 3 * dim, dim, joint="_")
            self.linear(f"{at}.attn.out_proj", dim, dim)
            self.norm(f"{at}.ln_2", dim)
            self.linear(f"{at}.mlp.c_fc", 4 * dim, dim)
            self.linear(f"{at}.mlp.c_proj", dim, 4 * dim)

    def clip_vision(self, prefix: str, size: Size, frames: int = 0) -> None:
        kernel = (1,) * bool(frames) + (size.patch, size.patch)
        self.draw(f"{prefix}conv1.weight", size.dim, 3, *kernel)
        self[f"{prefix}conv1.weight"] *= 0.5
        self.draw(f"{prefix}class_embedding", size.dim)
        self.draw(f"{prefix}positional_embedding", (size.side // size.patch) ** 2 + 1, size.dim)
        if frames:
            self.draw(f"{prefix}temporal_positional_embedding", 1, frames, size.dim)
        self.norm(f"{prefix}ln_pre", size.dim)
        self.clip_layers(prefix, size.dim, size.layers)
        self.norm(f"{prefix}ln_post", size.dim)
        self.draw(f"{prefix}proj", size.dim, size.out)


def clip(size: Size, seed: int = 0) -> dict[str, np.ndarray]:
    """OpenAI's keys; its text encoder is left out."""
    weights = _Weights(seed)
    weights.clip_vision("visual.", size)
    return weights


def dino(size: Size, scaled: bool, seed: int = 0) -> dict[str, np.ndarray]:
    """The keys of torch.hub's DINO, or of DINOv2 if `scaled`."""
    weights = _Weights(seed)
    weights.draw("cls_token", 1, 1, size.dim)
    weights.draw("pos_embed", 1, (size.side // size.patch) ** 2 + 1, size.dim)
    weights.draw("patch_embed.proj.weight", size.dim, 3, size.patch, size.patch)
    weights.draw("patch_embed.proj.bias", size.dim)
    for layer in range(size.layers):
        at = f"blocks.{layer}"
        weights.norm(f"{at}.norm1", size.dim)
        weights.linear(f"{at}.attn.qkv", 3 * size.dim, size.dim)
        weights.linear(f"{at}.attn.proj", size.dim, size.dim)
        weights.norm(f"{at}.norm2", size.dim)
        weights.linear(f"{at}.mlp.fc1", 4 * size.dim, size.dim)
        weights.linear(f"{at}.mlp.fc2", size.dim, 4 * size.dim)
        for branch in (1, 2) if scaled else ():
            weights.draw(f"{at}.ls{branch}.gamma", size.dim, around=1.0)
    weights.norm("norm", size.dim)
    return weights


def viclip(size: Size, text_layers: int, vocabulary: int, seed: int = 0) -> dict[str, np.ndarray]:
    """ViCLIP's keys, without the dictionary around them; its text is as wide as the output."""
    weights = _Weights(seed)
    weights.clip_vision("vision_encoder.", size, CLIP_FRAMES)
    dim = max(64, size.out // 64 * 64)
    weights.draw("text_encoder.token_embedding.weight", vocabulary, dim)
    weights.draw("text_encoder.positional_embedding", TEXT_LENGTH, dim)
    weights.clip_layers("text_encoder.", dim, text_layers)
    weights.norm("text_encoder.ln_final", dim)
    weights.draw("text_encoder.text_projection", dim, size.out)
    return weights


def write_scorers(folder: Path, sizes: dict[str, Size] = SMALL) -> Path:
    """Writes all files and weights.yaml, which names them; returns the path of that."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "clip_b32": clip(sizes["clip_b32"], 1),
        "clip_l14": clip(sizes["clip_l14"], 2),
        "dino": dino(sizes["dino"], scaled=False, seed=3),
        "dinov2": dino(sizes["dinov2"], scaled=True, seed=4),
        "viclip": viclip(sizes["viclip"], sizes["viclip"].layers // 2 or 1, LETTERS, 5),
    }
    head = _Weights(6)
    head.linear("head", 1, sizes["clip_l14"].out)
    files["aesthetic"] = {key.removeprefix("head."): value for key, value in head.items()}
    for name, tensors in files.items():
        save_file(dict(tensors), folder / f"{name}.safetensors")
    write_merges(folder / "bpe.txt.gz")
    names = {name: f"{name}.safetensors" for name in files} | {"tokenizer": "bpe.txt.gz"}
    (folder / "weights.yaml").write_text(json.dumps(names))
    return folder / "weights.yaml"


def write_merges(path: Path) -> None:
    """A list of as many merges as CLIP's: pairs of letters of words, of no language."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pairs = [(a, b) for a in letters for b in letters]
    pairs += [(a, f"{b}</w>") for a in letters for b in letters]
    pairs += [(a + b, c + d) for a, b in pairs[:676] for c, d in pairs[:71]]
    count = LETTERS - 2 * 256 - 2
    lines = "\n".join(f"{a} {b}" for a, b in pairs[:count])
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(f"#version: none\n{lines}\n")
