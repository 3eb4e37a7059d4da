"""Other people's implementations, in fp32 on the CPU, with weights under original Wan2.1 keys."""

import re

import numpy as np
import torch
from transformers import UMT5Config, UMT5EncoderModel

from benchmarks.peer import diffusers_transformer
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig

# Original Wan2.1 -> Diffusers. Written by hand, so that it can disagree with the package.
DIFFUSERS = (
    (r"text_embedding\.0", "condition_embedder.text_embedder.linear_1"),
    (r"text_embedding\.2", "condition_embedder.text_embedder.linear_2"),
    (r"time_embedding\.0", "condition_embedder.time_embedder.linear_1"),
    (r"time_embedding\.2", "condition_embedder.time_embedder.linear_2"),
    (r"time_projection\.1", "condition_embedder.time_proj"),
    (r"self_attn\.([qkv])\.", r"attn1.to_\1."),
    (r"cross_attn\.([qkv])\.", r"attn2.to_\1."),
    (r"self_attn\.o\.", "attn1.to_out.0."),
    (r"cross_attn\.o\.", "attn2.to_out.0."),
    (r"self_attn", "attn1"),
    (r"cross_attn", "attn2"),
    (r"norm3", "norm2"),
    (r"ffn\.0", "ffn.net.0.proj"),
    (r"ffn\.2", "ffn.net.2"),
    (r"head\.head", "proj_out"),
    (r"(head\.|(blocks\.\d+\.))modulation", r"\2scale_shift_table"),
)
TRANSFORMERS = (
    (r"^token_embedding", "shared"),
    (r"^norm\.", "encoder.final_layer_norm."),
    (
        r"^blocks\.(\d+)\.pos_embedding\.embedding",
        r"encoder.block.\1.layer.0.SelfAttention.relative_attention_bias",
    ),
    (r"^blocks\.(\d+)\.attn", r"encoder.block.\1.layer.0.SelfAttention"),
    (r"^blocks\.(\d+)\.norm1", r"encoder.block.\1.layer.0.layer_norm"),
    (r"^blocks\.(\d+)\.norm2", r"encoder.block.\1.layer.1.layer_norm"),
    (r"^blocks\.(\d+)\.ffn\.gate\.0", r"encoder.block.\1.layer.1.DenseReluDense.wi_0"),
    (r"^blocks\.(\d+)\.ffn\.fc1", r"encoder.block.\1.layer.1.DenseReluDense.wi_1"),
    (r"^blocks\.(\d+)\.ffn\.fc2", r"encoder.block.\1.layer.1.DenseReluDense.wo"),
)


def renamed(tensors: dict[str, np.ndarray], table) -> dict[str, torch.Tensor]:
    out = {}
    for key, tensor in tensors.items():
        for pattern, replacement in table:
            key = re.sub(pattern, replacement, key)
        out[key] = torch.from_numpy(np.ascontiguousarray(tensor))
    return out


def wan_transformer(config: TransformerConfig, tensors: dict[str, np.ndarray]):
    """Diffusers' WanTransformer3DModel.

    (x [B,F,h,w,C], t [B], text [B,T,D]) -> velocity [B,F,h,w,C]; T is text_len.
    """
    model = diffusers_transformer(config)
    model.load_state_dict(renamed(tensors, DIFFUSERS), strict=True)

    @torch.no_grad()
    def velocity(x, t, text):
        x = torch.from_numpy(x).permute(0, 4, 1, 2, 3)
        out = model(x, torch.from_numpy(t), torch.from_numpy(text), return_dict=False)[0]
        return out.permute(0, 2, 3, 4, 1).numpy()

    return velocity


def umt5_encoder(config: TextEncoderConfig, tensors: dict[str, np.ndarray]):
    """transformers' UMT5EncoderModel: (ids [B,T], mask [B,T]) -> [B,T,D], with its padding rows."""
    hf = UMT5Config(
        vocab_size=config.vocab_size,
        d_model=config.dim,
        d_kv=config.dim_attn // config.num_heads,
        d_ff=config.dim_ffn,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.num_buckets,
        relative_attention_max_distance=config.max_distance,
        layer_norm_epsilon=config.eps,
    )
    model = UMT5EncoderModel(hf).eval()
    state = renamed(tensors, TRANSFORMERS)
    state["encoder.embed_tokens.weight"] = state["shared.weight"]
    model.load_state_dict(state, strict=True)

    @torch.no_grad()
    def encode(ids, mask):
        ids, mask = (torch.from_numpy(a.astype(np.int64)) for a in (ids, mask))
        return model(input_ids=ids, attention_mask=mask).last_hidden_state.numpy()

    return encode
