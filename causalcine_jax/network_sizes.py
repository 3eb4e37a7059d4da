"""Sizes of the three networks, as frozen dataclasses that report all faults at once.

Field names are those of Wan2.1's own config.json and modules.
"""

import dataclasses
from dataclasses import dataclass

from causalcine_jax.clock import TEMPORAL_STRIDE
from causalcine_jax.errors import is_number, raise_faults, shown

MAX_EPS = 0.1
MAX_TEXT_LEN = 4096  # tokens per prompt; Wan2.1 uses 512

WAN_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


PREDICTIONS = ("velocity", "clean")
# The transformer's settings that Wan2.1 does not have, as its networks are.
OURS = {"predicts": "velocity", "skip_dim": 0}
# The transformer's settings that are those of its first and its last layer alone.
OF_LATENTS = ("in_dim", "out_dim", "patch_size", "predicts")


@dataclass(frozen=True)
class TransformerConfig:
    """The diffusion transformer (Wan2.1 `wan/modules/model.py`, class WanModel).

    dim, ffn_dim           width of the tokens, and of the feed-forward layer in a block
    num_heads, num_layers  attention heads; blocks
    text_dim, text_len     width of a prompt's embeddings; tokens per prompt
    in_dim, out_dim        channels of the latents, and of what the head predicts
    freq_dim               width of the sinusoidal time embedding
    patch_size             frames, rows and columns of latents that become one token
    eps                    of the norms
    predicts               what the head gives: velocity, as Wan2.1's; or clean, the clean latents,
                           from which the velocity is computed (JiT, arXiv 2511.13720). A velocity
                           holds all of the noise, so `dim` must be well above the numbers of a
                           patch; clean latents need only the dimensions that films fill
    skip_dim               width of the gated product of the noisy patches that is added to what the
                           head gives (dit.InputSkip); 0, as in Wan2.1: none
    """

    dim: int
    ffn_dim: int
    num_heads: int
    num_layers: int
    text_dim: int = 4096
    text_len: int = 512
    in_dim: int = 16
    out_dim: int = 16
    freq_dim: int = 256
    patch_size: tuple[int, int, int] = (1, 2, 2)
    eps: float = 1e-6
    predicts: str = "velocity"
    skip_dim: int = 0

    def __post_init__(self):
        raise_faults("transformer", self.faults())

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    def faults(self) -> list[str]:
        faults = _number_faults(self)
        if self.predicts not in PREDICTIONS:
            names = ", ".join(PREDICTIONS)
            faults.append(f"predicts must be one of {names}, not {self.predicts!r}")
        if not _of_integers(self.patch_size, 3):
            return [*faults, f"patch_size must be three positive integers, not {self.patch_size!r}"]
        if not faults and self.text_len > MAX_TEXT_LEN:
            faults.append(f"text_len must be at most {MAX_TEXT_LEN}, not {self.text_len}")
        if not faults and self.dim % self.num_heads:
            faults.append(f"dim {self.dim} is not divisible by num_heads {self.num_heads}")
        elif not faults and self.head_dim % 2:
            faults.append(f"head_dim {self.head_dim} must be even for RoPE")
        if not faults and self.freq_dim % 2:
            faults.append(f"freq_dim {self.freq_dim} must be even")
        if self.patch_size[0] != 1:
            faults.append(
                "patch_size[0] must be 1 (latent frames are never merged into one token), "
                f"not {self.patch_size}"
            )
        return faults


@dataclass(frozen=True)
class VAEConfig:
    """The causal 3-D VAE (Wan2.1 `wan/modules/vae.py`).

    dim, dim_mult        channels of the first level; multiplier of each level
    z_dim                channels of the latents
    num_res_blocks       residual blocks per level
    temperal_downsample  which two levels halve the frames, in Wan2.1's spelling (clock.py)
    mean, std            per-channel normalisation of the latents
    patch_size           side of the pixel squares that become channels before the first layer, and
                         pixels again after the last (Wan2.2's VAE: 2)
    """

    dim: int = 96
    z_dim: int = 16
    dim_mult: tuple[int, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    temperal_downsample: tuple[bool, ...] = (False, True, True)
    mean: tuple[float, ...] = WAN_LATENT_MEAN
    std: tuple[float, ...] = WAN_LATENT_STD
    patch_size: int = 1

    def __post_init__(self):
        raise_faults("vae", self.faults())

    def faults(self) -> list[str]:
        faults = _number_faults(self)
        if not _of_integers(self.dim_mult):
            faults.append(f"dim_mult must be positive integers, not {self.dim_mult!r}")
        if not isinstance(self.temperal_downsample, tuple) or not all(
            isinstance(b, bool) for b in self.temperal_downsample
        ):
            faults.append(
                "temperal_downsample must be a list of true and false, "
                f"not {self.temperal_downsample!r}"
            )
        for name, positive in (("mean", False), ("std", True)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or not all(
                is_number(v) and (v > 0 or not positive) for v in values
            ):
                faults.append(
                    f"{name} must be a list of {'positive ' if positive else ''}finite numbers, "
                    f"not {values!r}"
                )
        if faults:
            return faults
        if len(self.temperal_downsample) != len(self.dim_mult) - 1:
            faults.append(
                f"temperal_downsample needs {len(self.dim_mult) - 1} entries, "
                "one per downsampling stage"
            )
        if self.temporal_stride != TEMPORAL_STRIDE:
            faults.append(
                "temperal_downsample must be true twice, because films have "
                f"{TEMPORAL_STRIDE} video frames per latent frame, not {self.temperal_downsample}"
            )
        if any((self.dim * m) % 2 for m in self.dim_mult):
            faults.append(
                f"dim * dim_mult must be even, got {[self.dim * m for m in self.dim_mult]}"
            )
        if not len(self.mean) == len(self.std) == self.z_dim:
            faults.append(
                f"mean and std need z_dim={self.z_dim} entries, "
                f"got {len(self.mean)} and {len(self.std)}"
            )
        return faults

    @property
    def pixel_channels(self) -> int:
        """Channels of the first layer's input and the last layer's output: a patch's RGB values."""
        return 3 * self.patch_size**2

    @property
    def spatial_stride(self) -> int:
        return self.patch_size * 2 ** len(self.temperal_downsample)

    @property
    def temporal_stride(self) -> int:
        return 2 ** sum(self.temperal_downsample)


@dataclass(frozen=True)
class TextEncoderConfig:
    """The UMT5 encoder (Wan2.1 `wan/modules/t5.py`, class T5Encoder with shared_pos=False).

    vocab_size                 size of the vocabulary
    dim, dim_attn, dim_ffn     width of the tokens, of attention, and of the feed-forward layer
    num_heads, num_layers      attention heads; blocks
    num_buckets, max_distance  of the relative position bias: buckets; start of the last one
    eps                        of the norms
    """

    vocab_size: int = 256384
    dim: int = 4096
    dim_attn: int = 4096
    dim_ffn: int = 10240
    num_heads: int = 64
    num_layers: int = 24
    num_buckets: int = 32
    max_distance: int = 128
    eps: float = 1e-6

    def __post_init__(self):
        raise_faults("text_encoder", self.faults())

    def faults(self) -> list[str]:
        faults = _number_faults(self)
        if not faults and self.dim_attn % self.num_heads:
            faults.append(
                f"dim_attn {self.dim_attn} is not divisible by num_heads {self.num_heads}"
            )
        # Half of the buckets are of each direction, and half of those of exact distances.
        if not faults and not 4 <= self.num_buckets < 4 * self.max_distance:
            faults.append(
                f"num_buckets must be from 4 to less than four times max_distance "
                f"{self.max_distance}, got {self.num_buckets}"
            )
        return faults


def _number_faults(config) -> list[str]:
    """Faults of the integer and `eps` fields: a zero eps divides by zero, a large one flattens.

    An integer may be 0 where that is its default.
    """
    faults = []
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        least, kind = (
            (0, "an integer of at least 0") if each.default == 0 else (1, "a positive integer")
        )
        if each.type is int and (
            not isinstance(value, int) or isinstance(value, bool) or value < least
        ):
            faults.append(f"{each.name} must be {kind}, not {shown(value)}")
        if each.type is float and not (is_number(value) and 0 < value <= MAX_EPS):
            faults.append(
                f"{each.name} must be a number above 0 and at most {MAX_EPS}, not {shown(value)}"
            )
    return faults


def _of_integers(values, count: int | None = None) -> bool:
    whole = isinstance(values, tuple) and all(
        isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values
    )
    return whole and count in (None, len(values))
