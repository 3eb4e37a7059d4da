"""Translates config.json between our field names and those of Diffusers and transformers (UMT5)."""

from collections.abc import Mapping
from typing import Any

from causalcine_jax.errors import UsageError
from causalcine_jax.network_sizes import OURS, TextEncoderConfig, TransformerConfig, VAEConfig

WAN_TEXT_LEN = 512  # of a config.json without text_len

# The network that a config.json describes, by its _class_name or architectures. Others are ignored.
CLASSES = {
    "WanModel": "transformer",
    "CausalWanModel": "transformer",
    "WanTransformer3DModel": "transformer",
    "WanVAE": "vae",
    "AutoencoderKLWan": "vae",
    "T5Encoder": "text_encoder",
    "UMT5EncoderModel": "text_encoder",
}

# Their field -> ours. Products of two of their fields are computed in `ours`.
_TRANSFORMER = {
    "num_attention_heads": "num_heads",
    "in_channels": "in_dim",
    "out_channels": "out_dim",
    **{
        name: name
        for name in (
            "ffn_dim",
            "num_layers",
            "text_dim",
            "text_len",
            "freq_dim",
            "patch_size",
            "eps",
        )
    },
}
_VAE = {
    "base_dim": "dim",
    "latents_mean": "mean",
    "latents_std": "std",
    **{
        name: name
        for name in ("z_dim", "dim_mult", "num_res_blocks", "temperal_downsample", "patch_size")
    },
}
_TEXT_ENCODER = {
    "d_model": "dim",
    "d_ff": "dim_ffn",
    "relative_attention_num_buckets": "num_buckets",
    "relative_attention_max_distance": "max_distance",
    "layer_norm_epsilon": "eps",
    **{name: name for name in ("vocab_size", "num_heads", "num_layers")},
}
FOREIGN = ("WanTransformer3DModel", "AutoencoderKLWan", "UMT5EncoderModel")
_TABLES = {
    "WanTransformer3DModel": _TRANSFORMER,
    "AutoencoderKLWan": _VAE,
    "UMT5EncoderModel": _TEXT_ENCODER,
}


def class_of(settings: Mapping[str, Any]) -> str | None:
    """The class name in a config.json."""
    architectures = settings.get("architectures") or [None]
    name = settings.get(
        "_class_name", architectures[0] if isinstance(architectures, list) else None
    )
    return name if isinstance(name, str) else None


def ours(settings: Mapping[str, Any]) -> dict[str, Any]:
    """`settings` (a config.json by any author) under the field names of our configs."""
    name_of_class = class_of(settings)
    if name_of_class not in _TABLES:
        return dict(settings)
    table = _TABLES[name_of_class]
    translated = {
        table[name]: value
        for name, value in settings.items()
        if name in table and value is not None
    }
    for product, factors in (
        ("dim", ("num_attention_heads", "attention_head_dim")),
        ("dim_attn", ("num_heads", "d_kv")),
    ):
        if all(isinstance(settings.get(name), int) for name in factors):
            translated[product] = settings[factors[0]] * settings[factors[1]]
    return translated


def transformer(config: TransformerConfig) -> dict[str, Any]:
    """The config.json of a WanTransformer3DModel.

    `UsageError` for a network with settings of ours, for which Diffusers has no field.
    """
    for name, theirs in OURS.items():
        if (own := getattr(config, name)) != theirs:
            raise UsageError(
                f"Diffusers has no transformer with {name} {own}: keep this one in our format"
            )
    sizes = {
        name: _listed(getattr(config, own))
        for name, own in _TRANSFORMER.items()
        if own != "text_len"
    }
    return {
        "_class_name": "WanTransformer3DModel",
        "_diffusers_version": "0.36.0",
        "added_kv_proj_dim": None,
        "attention_head_dim": config.head_dim,
        "cross_attn_norm": True,
        "image_dim": None,
        "qk_norm": "rms_norm_across_heads",
        "rope_max_seq_len": 1024,
        **sizes,
        # Diffusers has no such field and pads prompts to 512. A model of another length needs it to
        # be read back.
        **({} if config.text_len == WAN_TEXT_LEN else {"text_len": config.text_len}),
    }


def vae(config: VAEConfig) -> dict[str, Any]:
    """The config.json of an AutoencoderKLWan."""
    return {
        "_class_name": "AutoencoderKLWan",
        "_diffusers_version": "0.36.0",
        "attn_scales": [],
        "dropout": 0.0,
        "scale_factor_spatial": config.spatial_stride,
        "scale_factor_temporal": config.temporal_stride,
        **{name: _listed(getattr(config, own)) for name, own in _VAE.items()},
        "patch_size": config.patch_size if config.patch_size > 1 else None,
    }


def text_encoder(config: TextEncoderConfig) -> dict[str, Any]:
    """The config.json of a UMT5EncoderModel."""
    return {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "d_kv": config.dim_attn // config.num_heads,
        "dense_act_fn": "gelu_new",
        "dropout_rate": 0.1,
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "is_gated_act": True,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        **{name: getattr(config, own) for name, own in _TEXT_ENCODER.items()},
    }


def _listed(value):
    return list(value) if isinstance(value, tuple) else value
