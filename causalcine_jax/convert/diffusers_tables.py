"""Key tables: original Wan2.1 keys <-> Diffusers (transformer, VAE) and transformers (UMT5).

A table is a list of template pairs, read in both directions. "{i}" stands for a layer's number,
"{p}" for weight or bias. Only names differ; every tensor keeps its axes and bytes. The VAE's
decoder is a flat list in the original and stages in Diffusers, so its table depends on the blocks
per stage.
"""

import re
from collections.abc import Iterable

_FIELDS = {
    "i": r"\d+",
    "p": "weight|bias",
    "qkv": "[qkv]",
    "qkvo": "[qkvo]",
    "qk": "[qk]",
    "half": "encoder|decoder",
}

# WanModel <-> WanTransformer3DModel
TRANSFORMER = (
    ("patch_embedding.{p}", "patch_embedding.{p}"),
    ("text_embedding.0.{p}", "condition_embedder.text_embedder.linear_1.{p}"),
    ("text_embedding.2.{p}", "condition_embedder.text_embedder.linear_2.{p}"),
    ("time_embedding.0.{p}", "condition_embedder.time_embedder.linear_1.{p}"),
    ("time_embedding.2.{p}", "condition_embedder.time_embedder.linear_2.{p}"),
    ("time_projection.1.{p}", "condition_embedder.time_proj.{p}"),
    ("blocks.{i}.modulation", "blocks.{i}.scale_shift_table"),
    ("blocks.{i}.self_attn.{qkv}.{p}", "blocks.{i}.attn1.to_{qkv}.{p}"),
    ("blocks.{i}.self_attn.o.{p}", "blocks.{i}.attn1.to_out.0.{p}"),
    ("blocks.{i}.self_attn.norm_{qk}.weight", "blocks.{i}.attn1.norm_{qk}.weight"),
    ("blocks.{i}.cross_attn.{qkv}.{p}", "blocks.{i}.attn2.to_{qkv}.{p}"),
    ("blocks.{i}.cross_attn.o.{p}", "blocks.{i}.attn2.to_out.0.{p}"),
    ("blocks.{i}.cross_attn.norm_{qk}.weight", "blocks.{i}.attn2.norm_{qk}.weight"),
    ("blocks.{i}.norm3.{p}", "blocks.{i}.norm2.{p}"),
    ("blocks.{i}.ffn.0.{p}", "blocks.{i}.ffn.net.0.proj.{p}"),
    ("blocks.{i}.ffn.2.{p}", "blocks.{i}.ffn.net.2.{p}"),
    ("head.modulation", "scale_shift_table"),
    ("head.head.{p}", "proj_out.{p}"),
)

# T5Encoder <-> UMT5EncoderModel
TEXT_ENCODER = (
    ("token_embedding.weight", "shared.weight"),
    ("blocks.{i}.attn.{qkvo}.weight", "encoder.block.{i}.layer.0.SelfAttention.{qkvo}.weight"),
    (
        "blocks.{i}.pos_embedding.embedding.weight",
        "encoder.block.{i}.layer.0.SelfAttention.relative_attention_bias.weight",
    ),
    ("blocks.{i}.norm1.weight", "encoder.block.{i}.layer.0.layer_norm.weight"),
    ("blocks.{i}.ffn.gate.0.weight", "encoder.block.{i}.layer.1.DenseReluDense.wi_0.weight"),
    ("blocks.{i}.ffn.fc1.weight", "encoder.block.{i}.layer.1.DenseReluDense.wi_1.weight"),
    ("blocks.{i}.ffn.fc2.weight", "encoder.block.{i}.layer.1.DenseReluDense.wo.weight"),
    ("blocks.{i}.norm2.weight", "encoder.block.{i}.layer.1.layer_norm.weight"),
    ("norm.weight", "encoder.final_layer_norm.weight"),
)
# Files of transformers may hold the token embedding twice, once under this name.
TIED = {"encoder.embed_tokens.weight": "shared.weight"}

_RESIDUAL_BLOCK = (
    ("residual.0.gamma", "norm1.gamma"),
    ("residual.2.{p}", "conv1.{p}"),
    ("residual.3.gamma", "norm2.gamma"),
    ("residual.6.{p}", "conv2.{p}"),
    ("shortcut.{p}", "conv_shortcut.{p}"),
)
_RESAMPLE = (("resample.1.{p}", "resample.1.{p}"), ("time_conv.{p}", "time_conv.{p}"))
_VAE = (
    ("conv1.{p}", "quant_conv.{p}"),
    ("conv2.{p}", "post_quant_conv.{p}"),
    ("{half}.conv1.{p}", "{half}.conv_in.{p}"),
    ("{half}.middle.1.norm.gamma", "{half}.mid_block.attentions.0.norm.gamma"),
    ("{half}.middle.1.to_qkv.{p}", "{half}.mid_block.attentions.0.to_qkv.{p}"),
    ("{half}.middle.1.proj.{p}", "{half}.mid_block.attentions.0.proj.{p}"),
    ("{half}.head.0.gamma", "{half}.norm_out.gamma"),
    ("{half}.head.2.{p}", "{half}.conv_out.{p}"),
)


def vae(resnets: int, stages: int) -> tuple[tuple[str, str], ...]:
    """WanVAE_ <-> AutoencoderKLWan.

    Every decoder stage has `resnets` residual blocks; all but the last end in an upsampler.
    """
    blocks = [
        ("{half}.middle.0", "{half}.mid_block.resnets.0", _RESIDUAL_BLOCK),
        ("{half}.middle.2", "{half}.mid_block.resnets.1", _RESIDUAL_BLOCK),
        ("encoder.downsamples.{i}", "encoder.down_blocks.{i}", _RESIDUAL_BLOCK + _RESAMPLE),
    ]
    for stage in range(stages):
        first = stage * (resnets + 1)
        for block in range(resnets):
            blocks.append(
                (
                    f"decoder.upsamples.{first + block}",
                    f"decoder.up_blocks.{stage}.resnets.{block}",
                    _RESIDUAL_BLOCK,
                )
            )
        blocks.append(
            (
                f"decoder.upsamples.{first + resnets}",
                f"decoder.up_blocks.{stage}.upsamplers.0",
                _RESAMPLE,
            )
        )
    return _VAE + tuple(
        (f"{ours}.{a}", f"{theirs}.{b}") for ours, theirs, layers in blocks for a, b in layers
    )


class KeyTable:
    """One table, read in both directions."""

    def __init__(self, pairs: Iterable[tuple[str, str]]):
        pairs = tuple(pairs)
        self._from_original = [(_pattern(original), other) for original, other in pairs]
        self._from_diffusers = [(_pattern(other), original) for original, other in pairs]

    def to_diffusers(self, key: str) -> str | None:
        """Diffusers' name of an original key, or None."""
        return _translated(key, self._from_original)

    def to_original(self, key: str) -> str | None:
        """The original name of Diffusers' key, or None."""
        return _translated(TIED.get(key, key), self._from_diffusers)


def key_table(part: str, keys: Iterable[str]) -> KeyTable:
    """The table of `part` (transformer, vae or text_encoder).

    `keys`, in either naming, show how a VAE's decoder is staged.
    """
    if part == "transformer":
        return KeyTable(TRANSFORMER)
    if part == "text_encoder":
        return KeyTable(TEXT_ENCODER)
    return KeyTable(vae(*_stages(keys)))


def _stages(keys: Iterable[str]) -> tuple[int, int]:
    """(residual blocks per decoder stage, stages)."""
    keys = list(keys)
    flat = [
        (int(m[1]), m[2])
        for key in keys
        if (m := re.match(r"decoder\.upsamples\.(\d+)\.(\w+)", key))
    ]
    if flat:
        last = max(index for index, _ in flat)
        resnets = min((index for index, layer in flat if layer == "resample"), default=last + 1)
        return resnets, last // (resnets + 1) + 1
    staged = [
        (int(m[1]), int(m[2]))
        for key in keys
        if (m := re.match(r"decoder\.up_blocks\.(\d+)\.resnets\.(\d+)", key))
    ]
    return 1 + max((block for _, block in staged), default=2), 1 + max(
        (stage for stage, _ in staged), default=3
    )


def _pattern(template: str) -> re.Pattern:
    pieces = re.split(r"\{(\w+)\}", template)  # text, field, text, field, ..., text
    return re.compile(
        "".join(
            f"(?P<{piece}>{_FIELDS[piece]})" if i % 2 else re.escape(piece)
            for i, piece in enumerate(pieces)
        )
    )


def _translated(key: str, table: list[tuple[re.Pattern, str]]) -> str | None:
    return next(
        (
            template.format(**match.groupdict())
            for pattern, template in table
            if (match := pattern.fullmatch(key))
        ),
        None,
    )
