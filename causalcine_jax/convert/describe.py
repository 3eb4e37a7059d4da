"""What the headers of a checkpoint tell: the network's sizes, and whether every tensor fits it, before the first weight is read.

Unmatched, missing and misshapen tensors are reported together.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax

from causalcine_jax.config import TextEncoderConfig, TransformerConfig, VAEConfig
from causalcine_jax.convert import tables
from causalcine_jax.convert.safetensors_files import DTYPES
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.tiny_decoder import TinyDecoder
from causalcine_jax.models.umt5 import UMT5Encoder
from causalcine_jax.models.vae import VAE

WAN_HEAD_DIM = 128  # of every Wan2.1 model; only needed where no config.json tells the number of heads

Shapes = Mapping[str, tuple[int, ...]]
Config = TransformerConfig | VAEConfig | TextEncoderConfig | None


@dataclass(frozen=True)
class Description:
    """A network as its checkpoint describes it.

    config   its sizes; None for a network of one size
    shapes   the module with abstract arrays for parameters
    places   every tensor of the checkpoint, and the parameter that it belongs to
    """

    config: Config
    shapes: Any
    places: list[tables.Place]


def describe(part: str, tensors) -> Description:
    """The network that `tensors` (a `formats.PartTensors`) hold.

    Args:
      part: transformer, vae or text_encoder.

    Raises:
      DataError: they are not the tensors of that network of Wan2.1; everything that does not fit is listed.
    """
    what = f"{tensors.path} does not hold a Wan2.1 {part.replace('_', ' ')}"
    read_config, module_class, rules = _PARTS[part]
    config = read_config(what, tensors.shapes, tensors.settings)
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    places = tables.places(shapes, rules, config.patch_size if part == "transformer" else None)
    _check(what, places, tensors)
    return Description(config, shapes, places)


def describe_tiny_decoder(tensors) -> Description:
    """TAEHV's decoder, which has one size; the same faults. `tensors` are a `tensor_files.TensorFiles`, and may hold its encoder too."""
    shapes = jax.eval_shape(lambda: TinyDecoder(key=jax.random.key(0)))
    places = tables.places(shapes, tables.TINY_DECODER)
    _check(f"{tensors.files[0]} does not hold TAEHV's decoder for Wan2.1 (taew2_1)", places, _Decoder(tensors))
    return Description(None, shapes, places)


class _Decoder:
    """What of a TAEHV concerns its decoder."""

    def __init__(self, tensors):
        self.shapes = {key: shape for key, shape in tensors.shapes.items() if not key.startswith("encoder.")}
        self.dtypes = tensors.dtypes

    @staticmethod
    def source_key(key: str) -> str:
        return key


def from_config(part: str, settings: Mapping[str, Any], what: str) -> tuple[Config, Any]:
    """Sizes and abstract module of a network whose config.json says everything, as ours do; `what` begins the message of a fault."""
    config_class, module_class = _CONFIGS[part], _PARTS[part][1]
    config = _config(what, config_class, {}, dict(settings))
    return config, jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))


RGB = 3  # channels of a pixel


def _transformer_config(what: str, shapes: Shapes, settings: dict[str, Any]) -> TransformerConfig:
    needed = ("patch_embedding.weight", "text_embedding.0.weight", "time_embedding.0.weight", "blocks.0.ffn.0.weight", "head.head.weight")
    patch, text, time, ffn, head = _required(what, shapes, needed, ndims=(5, 2, 2, 2, 2))
    sizes = {
        "dim": patch[0],
        "in_dim": patch[1],
        "patch_size": patch[2:],
        "text_dim": text[1],
        "freq_dim": time[1],
        "ffn_dim": ffn[0],
        "out_dim": head[0] // math.prod(patch[2:]),
        "num_layers": _layers(shapes),
    }
    settings = {"num_heads": max(1, sizes["dim"] // WAN_HEAD_DIM), **settings}
    return _config(what, TransformerConfig, sizes, settings)


def _vae_config(what: str, shapes: Shapes, settings: dict[str, Any]) -> VAEConfig:
    first, last = _required(what, shapes, ("encoder.conv1.weight", "conv2.weight"), ndims=(5, 5))
    sizes = {"dim": first[0], "z_dim": last[0], "patch_size": math.isqrt(first[1] // RGB)}
    return _config(what, VAEConfig, sizes, settings)


def _text_encoder_config(what: str, shapes: Shapes, settings: dict[str, Any]) -> TextEncoderConfig:
    needed = ("token_embedding.weight", "blocks.0.attn.q.weight", "blocks.0.ffn.fc1.weight", "blocks.0.pos_embedding.embedding.weight")
    token, q, fc1, position = _required(what, shapes, needed, ndims=(2, 2, 2, 2))
    sizes = {
        "vocab_size": token[0],
        "dim": token[1],
        "dim_attn": q[0],
        "dim_ffn": fc1[0],
        "num_buckets": position[0],
        "num_heads": position[1],
        "num_layers": _layers(shapes),
    }
    return _config(what, TextEncoderConfig, sizes, settings)


_PARTS = {
    "transformer": (_transformer_config, Transformer, tables.TRANSFORMER),
    "vae": (_vae_config, VAE, tables.VAE),
    "text_encoder": (_text_encoder_config, UMT5Encoder, tables.TEXT_ENCODER),
}

_CONFIGS = {"transformer": TransformerConfig, "vae": VAEConfig, "text_encoder": TextEncoderConfig}


def _required(what: str, shapes: Shapes, keys: tuple[str, ...], ndims: tuple[int, ...]) -> list[tuple[int, ...]]:
    faults = [f"{key} is missing" for key in keys if key not in shapes]
    faults += [f"{k} has shape {shapes[k]}, not {n} axes" for k, n in zip(keys, ndims, strict=True) if k in shapes and len(shapes[k]) != n]
    if faults:
        raise DataError(f"{what}: {'; '.join(faults)}; its keys begin with {', '.join(sorted(shapes)[:3]) or 'nothing'}")
    return [shapes[key] for key in keys]


def _layers(shapes: Shapes) -> int:
    return 1 + max(int(match[1]) for key in shapes if (match := re.match(r"blocks\.(\d{1,3})\.", key)))


def _config(what: str, config_class, sizes: dict[str, Any], settings: dict[str, Any]):
    """The config of the tensors' `sizes` and, for what shapes cannot tell, config.json's `settings`; they must not contradict."""
    told = {f.name: _tuples(settings[f.name]) for f in dataclasses.fields(config_class) if f.name in settings}
    faults = [f"config.json says {k} {told[k]}, the tensors say {sizes[k]}" for k in sizes if k in told and told[k] != sizes[k]]
    if faults:
        raise DataError(f"{what}: {'; '.join(faults)}")
    try:
        return config_class(**{**told, **sizes})
    except (UsageError, TypeError) as error:
        raise DataError(f"{what}: {error}") from error


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _check(what: str, places: list[tables.Place], tensors) -> None:
    wanted = {place.key: place.shape for place in places}
    faults = [f"  unmatched  {tensors.source_key(key)} {shape}" for key, shape in tensors.shapes.items() if key not in wanted]
    for key, shape in wanted.items():
        if key not in tensors.shapes:
            faults.append(f"  missing    {tensors.source_key(key)} {shape}")
        elif tensors.shapes[key] != shape:
            faults.append(f"  misshapen  {tensors.source_key(key)} {tensors.shapes[key]}, expected {shape}")
        elif tensors.dtypes[key] not in DTYPES:
            faults.append(f"  dtype      {tensors.source_key(key)} is {tensors.dtypes[key]}, expected one of {', '.join(DTYPES)}")
    if faults:
        raise DataError("\n".join([f"{what}: {len(faults)} of its tensors do not fit", *faults]))
