"""Sizes of networks and settings of a pass, as frozen dataclasses (presets.py has the known sizes).

Field names are those of Wan2.1's config.json and modules. Validation reports all faults of a
config at once.
"""

import dataclasses
import math
from dataclasses import dataclass

from causalcine_jax.errors import nearest, raise_faults

MAX_EPS = 0.1
MAX_TEXT_LEN = 4096  # tokens per prompt; Wan2.1 uses 512
POLICIES = ("camr", "spread", "random", "sink", "none")
POSITIONS = ("block_relative", "absolute")
EVICTIONS = ("oldest", "least_retrieved")
# Dtypes of the networks at generation. float8: bfloat16, with the matrices of the transformer's
# blocks in eight bits (models/float8.py).
DTYPES = ("float32", "bfloat16", "float8")
# Dtypes of the cached keys and values: the model's, or one byte each (models/cache/quantised.py).
KV_DTYPES = ("same", "int8", "fp8")
POOL_PLACES = ("device", "host")  # where the cached keys and values are (models/cache/history.py)
# Share of an NVIDIA GPU's memory that JAX preallocates (cli.py); its own default is 0.75. This is a
# choice: the rest is for NCCL, cuDNN and compiled programs.
GPU_MEMORY = 0.92
# Layout of a network that makes many passes on several devices (parallel/sharding.py).
ROLLOUT_WEIGHTS = ("gathered", "sharded")

WAN_LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN_LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


@dataclass(frozen=True)
class TransformerConfig:
    """The diffusion transformer (Wan2.1 `wan/modules/model.py`, class WanModel).

    dim, ffn_dim           width of the tokens, and of the feed-forward layer in a block
    num_heads, num_layers  attention heads; blocks
    text_dim, text_len     width of a prompt's embeddings; tokens per prompt
    in_dim, out_dim        channels of the latents and of the velocity
    freq_dim               width of the sinusoidal time embedding
    patch_size             frames, rows and columns of latents that become one token
    eps                    of the norms
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

    def __post_init__(self):
        raise_faults("transformer", self.faults())

    @property
    def head_dim(self) -> int:
        return self.dim // self.num_heads

    def faults(self) -> list[str]:
        faults = _number_faults(self)
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
    temperal_downsample  which levels halve the frames, in Wan2.1's spelling
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
                _is_finite(v) and (v > 0 or not positive) for v in values
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
        return faults


def _number_faults(config) -> list[str]:
    """Faults of the integer and `eps` fields: a zero eps divides by zero, a large one flattens."""
    faults = []
    for each in dataclasses.fields(config):
        value = getattr(config, each.name)
        if each.type is int and (
            not isinstance(value, int) or isinstance(value, bool) or value <= 0
        ):
            faults.append(f"{each.name} must be a positive integer, not {value!r}")
        if each.type is float and not (_is_finite(value) and 0 < value <= MAX_EPS):
            faults.append(
                f"{each.name} must be a number above 0 and at most {MAX_EPS}, not {value!r}"
            )
    return faults


def _is_finite(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _of_integers(values, count: int | None = None) -> bool:
    whole = isinstance(values, tuple) and all(
        isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in values
    )
    return whole and count in (None, len(values))


@dataclass(frozen=True)
class MemoryConfig:
    """Which history a chunk attends to (paper 3.3). Counts are in chunks or latent frames.

    policy         camr    content-aware memory routing, the paper's
                   spread  the same score, but every chunk's best frame before any chunk's second
                   random  frames drawn independently of their content, as a baseline
                   sink    the film's first frames
                   none    no memory
    window_chunks  W: this many chunks before the current one are always attended to
    memory_frames  K: the policy retrieves this many older frames
    route_clean    True: clean chunks use the bounded field that a commit uses. False: clean chunks
                   and commits see all earlier chunks (the paper's wording for the packed pass)
    positions      block_relative (slots of a compact field) or absolute (true distance in the film)
    eviction       which chunk a full cache drops, never the sink or the window: the oldest, or the
                   least_retrieved (models/cache/eviction.py). It applies only to a rollout whose
                   cache is shorter than its film
    """

    policy: str = "camr"
    window_chunks: int = 3
    memory_frames: int = 5
    route_clean: bool = True
    positions: str = "block_relative"
    eviction: str = "oldest"

    def __post_init__(self):
        raise_faults("memory", self.faults())

    def faults(self) -> list[str]:
        faults = []
        if self.policy not in POLICIES:
            faults.append(f"unknown policy {self.policy!r}, {nearest(str(self.policy), POLICIES)}")
        if self.positions not in POSITIONS:
            faults.append(
                f"unknown positions {self.positions!r}, {nearest(str(self.positions), POSITIONS)}"
            )
        if self.eviction not in EVICTIONS:
            faults.append(
                f"unknown eviction {self.eviction!r}, {nearest(str(self.eviction), EVICTIONS)}"
            )
        if self.window_chunks < 0:
            faults.append(f"window_chunks must not be negative, got {self.window_chunks}")
        if self.memory_frames < 0:
            faults.append(f"memory_frames must not be negative, got {self.memory_frames}")
        return faults

    @property
    def retrieved_frames(self) -> int:
        """K under this policy: 0 for `none`."""
        return 0 if self.policy == "none" else self.memory_frames

    @property
    def reaches_all(self) -> bool:
        """Whether any frame of the film may be retrieved, so that every eviction loses some."""
        return self.policy not in ("sink", "none")

    def smallest_pool(self, chunk_frames: int) -> int:
        """Fewest frame slots of a cache that evicts: the window, the sink and one chunk to drop."""
        sink = -(-self.memory_frames // chunk_frames)
        return (self.window_chunks + sink + 1) * chunk_frames


@dataclass(frozen=True)
class PassConfig:
    """How a pass through the transformer runs: in training, in a rollout, or for scores.

    memory            which history a chunk attends to
    chunk_frames      C, latent frames per chunk
    remat             layers that the backward pass recomputes together, from the tokens before
                      them; 0: it keeps all activations that it needs
    segments_at_once  chunks whose fields are gathered and attended to at once (None: all). With
                      remat, the backward pass does the same and repeats the attention
    features          layers whose output tokens of the noisy chunks are also returned
    """

    memory: MemoryConfig = MemoryConfig()
    chunk_frames: int = 3
    remat: int = 0
    segments_at_once: int | None = None
    features: tuple[int, ...] = ()


@dataclass(frozen=True)
class PoolConfig:
    """How much history a rollout keeps, how it is stored, and where.

    frames  latent frames, in whole chunks; memory.eviction drops the excess. None: all that memory
            can still retrieve, the whole story's unless the policy is sink or none
    gb      the cache's size in GB (10^9 bytes) instead: as many whole chunks as fit
    dtype   of keys and values: "same" as the model's weights, "int8" or "fp8" (cache/quantised.py)
    place   of keys and values: "device", or "host" for a history larger than the device's memory
            (cache/history.py)
    """

    frames: int | None = None
    gb: float | None = None
    dtype: str = "same"
    place: str = "device"

    def __post_init__(self):
        faults = []
        if self.frames is not None and self.gb is not None:
            faults.append(
                f"pool_frames={self.frames} and pool_gb={self.gb:g} both set the pool's size: "
                "give one of them"
            )
        if self.dtype not in KV_DTYPES:
            faults.append(f"unknown kv_dtype {self.dtype!r}, {nearest(str(self.dtype), KV_DTYPES)}")
        if self.place not in POOL_PLACES:
            faults.append(
                f"unknown pool_on {self.place!r}, {nearest(str(self.place), POOL_PLACES)}"
            )
        raise_faults("pool", faults)
