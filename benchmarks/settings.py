"""A benchmark's settings and what they imply: random networks, latent sizes, dtype."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.config import DTYPES, KV_DTYPES, POOL_PLACES
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import choice_faults, raise_faults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.float8 import outside_blocks, quantize_blocks
from causalcine_jax.models.nn import Module
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import OURS, TransformerConfig, VAEConfig
from causalcine_jax.presets import Preset, preset
from causalcine_jax.story_schema import size_faults
from causalcine_jax.training.stages.table import FILM_STAGES

SAMPLERS = ("few_step", "preset")
CHUNK_FRAMES = 3
# The networks in the preset's sizes, and what the preset calls them. TAEHV has one size for all.
SIZED: dict[type[Module], str] = {
    Transformer: "transformer",
    VAE: "vae",
    UMT5Encoder: "text_encoder",
}
Network = TypeVar("Network", bound=Module)


@dataclass(frozen=True)
class Settings:
    """A benchmark's settings.

    preset         the model's sizes; its weights are random
    width, height  pixels of films; None for the preset's
    dtype          None for the default: in training the config's, else bfloat16 (float32 on CPU)
    batch          training: films per step (None: the config's); attention: segments per call
                   (None: those of a film's packed pass)
    repeats        timed calls of everything
    pool_frames    streaming and start: latent frames of history kept
    pool_on        streaming and start: where history is kept, device or host
    sampler        streaming and start: few_step (4 steps without guidance) or preset (50 UniPC
                   steps with the preset's guidance)
    kv_dtype       streaming and start: how history's keys and values are stored
    tiny_decoder   streaming and start: TAEHV decodes in the VAE's place
    stages         training: which of the stages
    remat          training: whether layers are recomputed; None for what the config says
    peer           also time Diffusers and torch on the same
    configs        folder of the training configs

    Raises:
      UsageError: lists every fault.
    """

    preset: str
    width: int | None = None
    height: int | None = None
    dtype: str | None = None
    batch: int | None = None
    repeats: int = 5
    pool_frames: int = 60
    pool_on: str = "device"
    sampler: str = "few_step"
    kv_dtype: str = "same"
    tiny_decoder: bool = False
    stages: tuple[str, ...] = FILM_STAGES
    remat: bool | None = None
    peer: bool = False
    configs: str = "configs"

    def __post_init__(self):
        sizes = preset(self.preset)
        object.__setattr__(self, "width", self.width or sizes.width)
        object.__setattr__(self, "height", self.height or sizes.height)
        raise_faults("benchmark", self._faults(sizes))

    def _faults(self, sizes: Preset) -> list[str]:
        stride, (_, rows, columns) = sizes.vae.spatial_stride, sizes.transformer.patch_size
        faults = size_faults(*self.frame_size, (stride * rows, stride * columns))
        choices = {
            "dtype": DTYPES,
            "sampler": SAMPLERS,
            "kv_dtype": KV_DTYPES,
            "pool_on": POOL_PLACES,
        }
        asked = [(name, getattr(self, name), known) for name, known in choices.items()]
        asked += [("stage", stage, FILM_STAGES) for stage in self.stages]
        for name, value, known in asked:
            if value is not None:
                faults += choice_faults(name, value, known)
        of = lambda vae: (vae.z_dim, vae.spatial_stride, vae.temporal_stride)
        if self.tiny_decoder and of(sizes.vae) != of(VAEConfig()):
            faults.append(
                "the tiny decoder decodes latents of Wan2.1's shape, "
                "and the preset's are of another"
            )
        ours = {name: getattr(sizes.transformer, name) for name in OURS}
        if self.peer and ours != OURS:
            faults.append(
                f"the peers have no network like {self.preset}'s, which predicts clean latents or "
                "skips its input: leave out peer, or measure storyworld"
            )
        if self.peer and self.dtype == "float8":
            faults.append("the peers have no float8: leave out peer, or measure another dtype")
        for name in ("batch", "repeats"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                faults.append(f"{name} must be at least 1, not {getattr(self, name)}")
        return faults

    @property
    def sizes(self) -> Preset:
        return preset(self.preset)

    @property
    def transformer(self) -> TransformerConfig:
        return self.sizes.transformer

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of a video frame, the preset's where none were given."""
        assert self.height is not None and self.width is not None
        return self.height, self.width

    @property
    def latent_size(self) -> tuple[int, int]:
        """Height and width of a latent frame."""
        height, width = self.frame_size
        stride = self.sizes.vae.spatial_stride
        return height // stride, width // stride

    @property
    def tokens(self) -> int:
        """Tokens of a latent frame."""
        _, rows, columns = self.transformer.patch_size
        return self.latent_size[0] // rows * (self.latent_size[1] // columns)

    @property
    def inference_dtype(self) -> jnp.dtype:
        """The dtype of everything that is not in eight bits."""
        usual = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return jnp.dtype(outside_blocks(self.dtype or usual))

    @property
    def transformer_dtype(self) -> str:
        """The dtype of nearly all of the transformer's arithmetic."""
        return "float8" if self.dtype == "float8" else str(self.inference_dtype)

    @property
    def rollout_sampler(self) -> SamplerConfig:
        if self.sampler == "few_step":
            return SamplerConfig("few_step", steps=4, shift=self.sizes.shift, guidance=1.0)
        return SamplerConfig(shift=self.sizes.shift, guidance=self.sizes.guidance)

    def to_dict(self) -> dict:
        """Inverse of `Settings(**fields)`, as plain JSON values."""
        return dataclasses.asdict(self) | {"stages": list(self.stages)}

    def recorded(self) -> dict:
        """Returns the settings for a record, without the folder, which is this machine's."""
        return {name: value for name, value in self.to_dict().items() if name != "configs"}


def network(settings: Settings, kind: type[Network]) -> Network:
    """Returns one of the preset's networks with random weights, in the dtype of inference."""
    sizes = (getattr(settings.sizes, SIZED[kind]),) if kind in SIZED else ()
    return random_network(kind, sizes, settings.inference_dtype, float8=settings.dtype == "float8")


def random_network(
    kind: Callable[..., Network], sizes: tuple, dtype: jnp.dtype, float8: bool = False
) -> Network:
    """Makes a network in these sizes, by one program in its dtype.

    At 14B no float32 copy ever exists.
    """

    def make(key) -> Module:
        net = kind(*sizes, key=key)
        if isinstance(net, Transformer):  # a new head outputs 0 for every input
            net.head.weight[...] = 0.02 * jax.random.normal(key, net.head.weight.shape)
        net = jax.tree.map(lambda leaf: leaf.astype(dtype), net)
        return quantize_blocks(net) if isinstance(net, Transformer) and float8 else net

    return jax.jit(make)(jax.random.key(0))


def random_like(shape: tuple[int, ...], dtype=jnp.float32, seed: int = 1) -> jax.Array:
    """Returns standard normal numbers, made by numpy so that no program is compiled."""
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32), dtype)
