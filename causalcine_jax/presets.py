"""Known models: the sizes of their networks, and their authors' sampling settings."""

from dataclasses import dataclass
from typing import Any

from causalcine_jax.errors import check_choice
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig

# Wan2.1's own, `wan/configs/shared_config.py`: overexposed, static, blurred, subtitles, malformed
# hands and limbs, walking backwards, ...
WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，"
    "整体发灰，"
    "最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，多余的手指，"
    "画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，"
    "静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"
)


@dataclass(frozen=True)
class Preset:
    """The sizes of a model's three networks, and its authors' sampling settings.

    shift, guidance  of the flow's schedule; of classifier-free guidance
    negative         the text that guidance steers away from
    height, width    of the training videos, in pixels
    """

    transformer: TransformerConfig
    vae: VAEConfig
    text_encoder: TextEncoderConfig
    shift: float
    guidance: float
    negative: str
    height: int
    width: int


_UMT5_XXL = TextEncoderConfig()
_WAN: dict[str, Any] = {"negative": WAN_NEGATIVE_PROMPT, "height": 480, "width": 832}
PRESETS = {
    "storyworld": Preset(
        TransformerConfig(
            dim=192, ffn_dim=768, num_heads=6, num_layers=8, text_dim=128, text_len=64, freq_dim=64
        ),
        VAEConfig(dim=16, mean=(0.0,) * 16, std=(1.0,) * 16),
        TextEncoderConfig(
            vocab_size=192, dim=128, dim_attn=128, dim_ffn=256, num_heads=4, num_layers=2
        ),
        shift=3.0,
        guidance=3.0,
        negative="",
        height=96,
        width=160,
    ),
    # The size of the weights inside the package. With a token for every latent, characters are no
    # mosaics of patches. Clean latents and an input skip learn faster (docs/lab.md).
    "storyworld-base": Preset(
        TransformerConfig(
            dim=128,
            ffn_dim=512,
            num_heads=4,
            num_layers=6,
            text_dim=96,
            text_len=64,
            in_dim=48,
            out_dim=48,
            freq_dim=64,
            patch_size=(1, 1, 1),
            predicts="clean",
            skip_dim=320,
        ),
        VAEConfig(
            dim=16,
            z_dim=48,
            dim_mult=(1, 3, 6),
            num_res_blocks=1,
            temperal_downsample=(True, True),
            mean=(0.0,) * 48,
            std=(1.0,) * 48,
            patch_size=2,
        ),
        TextEncoderConfig(
            vocab_size=160, dim=96, dim_attn=96, dim_ffn=192, num_heads=4, num_layers=2
        ),
        shift=5.0,
        guidance=2.0,
        negative="",
        height=48,
        width=80,
    ),
    # Wan2.1's README recommends a shift of 8 to 12 and guidance 6 at this size. The defaults of its
    # program are those of 14B.
    "wan-1.3b": Preset(
        TransformerConfig(dim=1536, ffn_dim=8960, num_heads=12, num_layers=30),
        VAEConfig(),
        _UMT5_XXL,
        shift=8.0,
        guidance=6.0,
        **_WAN,
    ),
    "wan-14b": Preset(
        TransformerConfig(dim=5120, ffn_dim=13824, num_heads=40, num_layers=40),
        VAEConfig(),
        _UMT5_XXL,
        shift=5.0,
        guidance=5.0,
        **_WAN,
    ),
}


def preset(name: str) -> Preset:
    """Returns the preset called `name`.

    Raises:
      UsageError: there is none; the message names the nearest.
    """
    check_choice("preset", name, PRESETS)
    return PRESETS[name]
