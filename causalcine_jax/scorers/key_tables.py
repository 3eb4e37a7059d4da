"""Key tables of the scorers' networks: published names to our own.

A published tensor may hold several of ours (q, k and v in one) or have axes of size 1 that ours
lack. So a line gives our key and the view of the tensor that it is. Our keys keep torch's layouts
and one tensor per layer, so the rules of `convert/tables.py` read them.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from causalcine_jax.convert.tables import CONV2D, LINEAR, Rule

View = Callable[[np.ndarray], np.ndarray]

# Our keys to our parameters.
RULES = (
    Rule(r"patch", r"patch", *CONV2D),
    Rule(
        r"(patch_bias|class_token|positions|frame_positions|tokens|projection"
        r"|norm_(first|last)\.(weight|bias))",
        r"\1",
    ),
    Rule(r"layers\.([qkvo]|fc1|fc2)\.weight", r"layers.{layer}.\1.weight", *LINEAR),
    Rule(r"layers\.(.+)", r"layers.{layer}.\1"),
)


@dataclass(frozen=True)
class Line:
    """Published keys that match `theirs` hold our key `ours`, seen through `view`."""

    theirs: str
    ours: str
    view: View = lambda tensor: tensor


def _third(part: int) -> View:
    """One of q, k and v, which torch stores in one tensor, one after the other."""
    return lambda tensor: tensor[
        part * (tensor.shape[0] // 3) : (part + 1) * (tensor.shape[0] // 3)
    ]


def _fused(weight: str) -> tuple[Line, ...]:
    """`weight`: a pattern of the fused tensors' keys with layer and weight or bias."""
    return tuple(Line(weight, rf"layers.\1.{name}.\2", _third(n)) for n, name in enumerate("qkv"))


_transposed: View = lambda tensor: tensor.T
_first: View = lambda tensor: tensor[0]
_WB = r"(weight|bias)"

# What openai/CLIP calls its transformers, as do ViCLIP and open_clip.
_CLIP_LAYERS = (
    *_fused(r"transformer\.resblocks\.(\d+)\.attn\.in_proj_" + _WB),
    Line(r"transformer\.resblocks\.(\d+)\.attn\.out_proj\." + _WB, r"layers.\1.o.\2"),
    Line(r"transformer\.resblocks\.(\d+)\.ln_([12])\." + _WB, r"layers.\1.norm\2.\3"),
    Line(r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\." + _WB, r"layers.\1.fc1.\2"),
    Line(r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\." + _WB, r"layers.\1.fc2.\2"),
)
_OPENAI = (
    Line(r"class_embedding", "class_token"),
    Line(r"positional_embedding", "positions"),
    Line(r"ln_pre\." + _WB, r"norm_first.\1"),
    Line(r"ln_post\." + _WB, r"norm_last.\1"),
    Line(r"proj", "projection"),
    *_CLIP_LAYERS,
)
OPENAI_CLIP = (Line(r"conv1\.weight", "patch"), *_OPENAI)
VICLIP_VISION = (
    # The convolution reaches over one frame.
    Line(r"conv1\.weight", "patch", lambda tensor: tensor[:, :, 0]),
    Line(r"temporal_positional_embedding", "frame_positions", _first),
    *_OPENAI,
)
VICLIP_TEXT = (
    Line(r"token_embedding\.weight", "tokens"),
    Line(r"positional_embedding", "positions"),
    Line(r"ln_final\." + _WB, r"norm_last.\1"),
    Line(r"text_projection", "projection"),
    *_CLIP_LAYERS,
)
HF_CLIP = (
    Line(r"vision_model\.embeddings\.patch_embedding\.weight", "patch"),
    Line(r"vision_model\.embeddings\.class_embedding", "class_token"),
    Line(r"vision_model\.embeddings\.position_embedding\.weight", "positions"),
    Line(r"vision_model\.pre_layrnorm\." + _WB, r"norm_first.\1"),  # its own spelling
    Line(r"vision_model\.post_layernorm\." + _WB, r"norm_last.\1"),
    Line(r"visual_projection\.weight", "projection", _transposed),
    *(
        Line(rf"vision_model\.encoder\.layers\.(\d+)\.{theirs}\." + _WB, rf"layers.\1.{ours}.\2")
        for theirs, ours in {
            r"self_attn\.q_proj": "q",
            r"self_attn\.k_proj": "k",
            r"self_attn\.v_proj": "v",
            r"self_attn\.out_proj": "o",
            "layer_norm1": "norm1",
            "layer_norm2": "norm2",
            r"mlp\.fc1": "fc1",
            r"mlp\.fc2": "fc2",
        }.items()
    ),
)
HUB_DINO = (
    Line(r"patch_embed\.proj\.weight", "patch"),
    Line(r"patch_embed\.proj\.bias", "patch_bias"),
    Line(r"cls_token", "class_token", lambda tensor: tensor[0, 0]),
    Line(r"pos_embed", "positions", _first),
    Line(r"norm\." + _WB, r"norm_last.\1"),
    *_fused(r"blocks\.(\d+)\.attn\.qkv\." + _WB),
    Line(r"blocks\.(\d+)\.attn\.proj\." + _WB, r"layers.\1.o.\2"),
    Line(r"blocks\.(\d+)\.norm([12])\." + _WB, r"layers.\1.norm\2.\3"),
    Line(r"blocks\.(\d+)\.mlp\.fc([12])\." + _WB, r"layers.\1.fc\2.\3"),
    Line(r"blocks\.(\d+)\.ls([12])\.gamma", r"layers.\1.scale\2"),
)
_HF_TOP = (
    Line(r"embeddings\.patch_embeddings\.projection\.weight", "patch"),
    Line(r"embeddings\.patch_embeddings\.projection\.bias", "patch_bias"),
    Line(r"embeddings\.cls_token", "class_token", lambda tensor: tensor[0, 0]),
    Line(r"embeddings\.position_embeddings", "positions", _first),
    Line(r"layernorm\." + _WB, r"norm_last.\1"),
)
_HF_ATTENTION = {
    r"attention\.attention\.query": "q",
    r"attention\.attention\.key": "k",
    r"attention\.attention\.value": "v",
    r"attention\.output\.dense": "o",
}
HF_DINO = (
    *_HF_TOP,
    *(
        Line(rf"encoder\.layer\.(\d+)\.{theirs}\." + _WB, rf"layers.\1.{ours}.\2")
        for theirs, ours in {
            **_HF_ATTENTION,
            "layernorm_before": "norm1",
            "layernorm_after": "norm2",
            r"intermediate\.dense": "fc1",
            r"output\.dense": "fc2",
        }.items()
    ),
)
HF_DINOV2 = (
    *_HF_TOP,
    Line(r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"layers.\1.scale\2"),
    *(
        Line(rf"encoder\.layer\.(\d+)\.{theirs}\." + _WB, rf"layers.\1.{ours}.\2")
        for theirs, ours in {
            **_HF_ATTENTION,
            "norm1": "norm1",
            "norm2": "norm2",
            r"mlp\.fc1": "fc1",
            r"mlp\.fc2": "fc2",
        }.items()
    ),
)


@dataclass(frozen=True)
class Format:
    """How published files name a network.

    marks    a key that such a file has, without wrapper prefixes
    prefix   of this network's keys
    ignored  pattern of the keys below the prefix that we do not use
    """

    name: str
    marks: str
    lines: tuple[Line, ...]
    prefix: str = ""
    ignored: str = r"(?!)"

    def line_of(self, key: str) -> list[tuple[str, View]]:
        """Our keys that the published `key`, without the prefix, holds; empty if none."""
        return [
            (match.expand(line.ours), line.view)
            for line in self.lines
            if (match := re.fullmatch(line.theirs, key))
        ]


_HF_UNUSED = r"pooler\..+|embeddings\.mask_token|classifier\..+"
FORMATS = {
    "clip": (
        Format("openai/CLIP", "visual.class_embedding", OPENAI_CLIP, "visual."),
        Format(
            "Hugging Face's CLIPModel",
            "vision_model.embeddings.class_embedding",
            HF_CLIP,
            ignored=r"text_model\..+|text_projection\..+|logit_scale|.+\.position_ids",
        ),
    ),
    "dino": (
        Format("facebookresearch/dino", "cls_token", HUB_DINO, ignored=r"head\..+|mask_token"),
        Format(
            "Hugging Face's ViTModel",
            "encoder.layer.0.layernorm_before.weight",
            HF_DINO,
            ignored=_HF_UNUSED,
        ),
    ),
    "dinov2": (
        Format("facebookresearch/dinov2", "cls_token", HUB_DINO, ignored=r"head\..+|mask_token"),
        Format(
            "Hugging Face's Dinov2Model",
            "encoder.layer.0.layer_scale1.lambda1",
            HF_DINOV2,
            ignored=_HF_UNUSED,
        ),
    ),
    "viclip_vision": (
        Format(
            "ViCLIP", "vision_encoder.temporal_positional_embedding", VICLIP_VISION,
            "vision_encoder.",
        ),
    ),
    "viclip_text": (
        Format("ViCLIP", "text_encoder.text_projection", VICLIP_TEXT, "text_encoder."),
    ),
}  # fmt: skip


def format_of(network: str, keys: Iterable[str]) -> Format | None:
    """The format whose mark is among `keys`."""
    keys = set(keys)
    return next((each for each in FORMATS[network] if each.marks in keys), None)
