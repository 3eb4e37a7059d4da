"""Recognises Wan's relatives that this project cannot run, so that the error names them and why."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from causalcine_jax.errors import shown

Shapes = Mapping[str, tuple[int, ...]]

# A key pattern (original or Diffusers naming) found only in this kind of network, and its name.
_OTHER_LAYERS = {
    r"blocks\.\d+\..*(to_gate_compress|gate_compress)\.": "FastWan (video sparse attention)",
    r"blocks\.\d+\..*(proj_l|local_attn)\.": "TurboWan (sparse linear attention)",
    r"vace_(blocks|patch_embedding)\.": "Wan VACE",
    r"(motion_encoder|face_adapter)\.": "Wan-Animate",
    r"(casual_audio_encoder|audio_injector|audio_proj)\.": "Wan speech-to-video",
    r"(control_adapter|ref_conv|cam_encoder)\.": "Wan Fun-Control",
}
_KINDS = {
    "transformer": {
        **{
            pattern: f"a transformer of {name}: its own layers have no counterpart here"
            for pattern, name in _OTHER_LAYERS.items()
        },
        r"(img_emb\.|condition_embedder\.image_embedder\."
        r"|blocks\.\d+\.(cross_attn\.k_img|attn2\.add_k_proj)\.)": (
            "a Wan image-to-video transformer: it attends to CLIP image tokens, "
            "which text-to-video does not have"
        ),
    },
    "vae": {
        r"(encoder\.downsamples\.\d+\.downsamples\.|decoder\.upsamples\.\d+\.upsamples\."
        r"|encoder\.down_blocks\.\d+\.(resnets|downsampler)\.)": (
            "the VAE of Wan2.2-TI2V-5B: 48 latent channels and residual resampling, "
            "for which no Wan2.1 transformer is trained"
        ),
        r"(encoder|decoder)\.\d+\.(conv\.\d+\.)?weight": (
            "a TAEHV decoder (taew2_1): another network than Wan2.1's VAE; use Wan2.1_VAE.pth"
        ),
    },
    "text_encoder": {
        r"decoder\.(block|final_layer_norm)\.": (
            "a UMT5 with its decoder: Wan2.1 uses the encoder alone; save that as UMT5EncoderModel"
        ),
        r"text_model\.": "a CLIP text encoder: Wan2.1 reads prompts with UMT5-XXL",
    },
}
_CHANNELS = {
    36: (
        "a Wan image-to-video transformer: 36 input channels, the first frame's latents and a mask "
        "beside the noise"
    ),
    48: (
        "Wan2.2-TI2V-5B: its latents have 48 channels, those of another VAE (LongLive-2.0-5B is of "
        "this kind)"
    ),
}

_WHOLE = [-1, -1]  # config.json's window_size where all tokens attend to all
TI2V_WIDTH = 3072  # tells it from another model whose latents have 48 channels


def kind(part: str, keys: Iterable[str]) -> str | None:
    """The relative of `part` that the keys indicate, and why it is unsupported; or None."""
    return next(
        (what for one, what in _KINDS[part].items() if any(re.match(one, key) for key in keys)),
        None,
    )


def unsupported(
    part: str, shapes: Shapes, dtypes: Mapping[str, str], settings: Mapping[str, Any]
) -> str | None:
    """The network that the tensors are, and why it is unsupported; None if nothing is wrong.

    Args:
      part: the expected network: transformer, vae or text_encoder.
      shapes, dtypes: by key, in original or Diffusers naming, without wrapper prefixes.
      settings: the unmodified config.json.
    """
    if relative := kind(part, shapes):
        return relative
    packed = next(
        (
            key
            for key, dtype in dtypes.items()
            if dtype.startswith(("F4_", "F6_", "I", "U")) and key.endswith("weight")
        ),
        None,
    )
    if packed is not None:
        return (
            f"quantised weights ({packed} is {dtypes[packed]}): "
            "take the bf16, fp16 or fp8_scaled .safetensors"
        )
    if part == "transformer":
        return _transformer(shapes, settings)
    if part == "vae":
        return None
    biases = [key for key in shapes if key.endswith("relative_attention_bias.weight")]
    if len(biases) == 1 and any(key.startswith("encoder.block.1.") for key in shapes):
        return (
            "a T5 encoder, whose layers share one position bias: Wan2.1 reads prompts with "
            "UMT5-XXL, where each has its own"
        )
    return None


def _transformer(shapes: Shapes, settings: Mapping[str, Any]) -> str | None:
    channels = shapes.get("patch_embedding.weight", (0, 16))[1:2]
    width = shapes.get("patch_embedding.weight", (0,))[0]
    if channels and channels[0] in _CHANNELS and (channels[0] != 48 or width == TI2V_WIDTH):
        return _CHANNELS[channels[0]]
    if settings.get("window_size", _WHOLE) not in (None, _WHOLE):
        return (
            f"a Wan transformer whose config.json says window_size {shown(settings['window_size'])}"
            ": it attends to neighbours alone, which is not done here"
        )
    if settings.get("model_type", "t2v") != "t2v":
        return (
            f"a Wan transformer of another kind: config.json says model_type "
            f"{shown(settings['model_type'])}, and only t2v is supported"
        )
    return None
