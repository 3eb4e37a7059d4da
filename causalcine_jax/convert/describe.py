"""Describes a network from a checkpoint's headers, before the first weight is read.

Gives the network's sizes, and reports unmatched, missing and misshapen tensors together.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from causalcine_jax.convert import kinds, tables
from causalcine_jax.convert.safetensors_files import READABLE_DTYPES
from causalcine_jax.errors import DataError, UsageError, shown
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig, VAEConfig

# num_heads of the published models by (dim, ffn_dim). They often come without a config.json.
WAN_HEAD_DIM = 128  # of every one of them
WAN_HEADS = {(1536, 8960): 12, (5120, 13824): 40}
# Settings that shapes do not determine; a model folder's config.json must state them.
_ONLY_IN_CONFIG = {
    "transformer": ("num_heads", "text_len"),
    "vae": ("mean", "std"),
    "text_encoder": (),
}
# Diffusers' config.json may omit these; Wan2.1's values are then meant.
_FOREIGN_DEFAULTS = ("text_len", "mean", "std")

Shapes = Mapping[str, tuple[int, ...]]
Config = TransformerConfig | VAEConfig | TextEncoderConfig


@dataclass(frozen=True)
class Description:
    """A network as its checkpoint describes it.

    config   its sizes
    shapes   the module with abstract arrays as parameters
    places   every tensor of the checkpoint with the parameter that it belongs to
    """

    config: Config
    shapes: nnx.Module
    places: list[tables.TensorPlace]


def describe(part: str, tensors) -> Description:
    """The network held by `tensors` (a `formats.PartTensors`).

    Args:
      part: transformer, vae or text_encoder.

    Raises:
      DataError: they are not the tensors of that Wan2.1 network; lists everything that is wrong.
    """
    what = f"{tensors.path} does not hold a Wan2.1 {part.replace('_', ' ')}"
    read_config, module_class, rules = _PARTS[part]
    # A transformer's config.json may contradict its tensors, and that gives the better message.
    if part != "transformer":
        _require(what, part, tensors)
    config = read_config(what, tensors.shapes, tensors.settings)
    _require(what, part, tensors)
    _note_assumed(what, tensors, config)
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    patch_size = config.patch_size if isinstance(config, TransformerConfig) else ()
    places = tables.places(shapes, rules, patch_size)
    check_places(what, places, tensors)
    return Description(config, shapes, places)


def network_places(
    what: str, shapes: nnx.Module, rules: tuple[tables.Rule, ...], tensors: "NetworkTensors"
) -> list[tables.TensorPlace]:
    """The places of `tensors` in a network of one size, by its key table. Raises as `describe`.

    `what` names the network in the message, such as "TAEHV's decoder".
    """
    places = tables.places(shapes, rules)
    check_places(f"{tensors.path} does not hold {what}", places, tensors)
    return places


class NetworkTensors:
    """The tensors of one network in a file (a `tensor_files.TensorFiles`), under its own keys.

    beside  pattern of the keys in the file that the network does not need
    """

    def __init__(self, tensors, part: str, beside: str):
        self.path, self.part = tensors.files[0], part
        self.read_slice = tensors.read_slice
        self.shapes = {
            key: shape for key, shape in tensors.shapes.items() if not re.fullmatch(beside, key)
        }
        self.dtypes, self.absent = tensors.dtypes, tensors.absent

    @staticmethod
    def source_key(key: str) -> str:
        return key


def from_config(part: str, settings: Mapping[str, Any], what: str) -> tuple[Config, nnx.Module]:
    """(config, abstract module) of a network with a complete config.json, as ours are.

    `what` starts the message of an error.
    """
    config_class, module_class = _CONFIGS[part], _PARTS[part][1]
    config = _config(what, config_class, {}, dict(settings))
    return config, jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))


def _require(what: str, part: str, tensors) -> None:
    """Raises `DataError` if config.json lacks settings that shapes do not determine.

    They are required in a model folder, and of any transformer that has a config.json.
    """
    beside = (tensors.path if tensors.path.is_dir() else tensors.path.parent) / "config.json"
    needed = [
        name
        for name in _ONLY_IN_CONFIG[part]
        if not (tensors.foreign_config and name in _FOREIGN_DEFAULTS)
    ]
    lacking = [name for name in needed if name not in tensors.settings]
    if tensors.complete and not tensors.settings:
        raise DataError(
            f"{what}: {beside} is missing, and tensors do not determine "
            f"{', '.join(needed) or 'its eps and max_distance'}: copy it again"
        )
    if lacking and (tensors.complete or (tensors.settings and "num_heads" in lacking)):
        raise DataError(
            f"{what}: {beside} lacks {', '.join(lacking)}, which tensors do not determine: "
            "copy it again, or add it"
        )


def _note_assumed(what: str, tensors, config: Config) -> None:
    """Notes what is assumed of an unknown size without config.json; `DataError` if it cannot be."""
    if tensors.settings:
        return
    if isinstance(config, TransformerConfig) and (config.dim, config.ffn_dim) not in WAN_HEADS:
        if config.dim % WAN_HEAD_DIM or config.dim == WAN_HEAD_DIM:
            raise DataError(
                f"{what}: tensors do not determine num_heads, and dim {config.dim} is not of "
                f"Wan2.1's heads of {WAN_HEAD_DIM}: put its config.json beside it"
            )
        tensors.notes.append(
            f"note: {tensors.path.name} has no config.json beside it, and tensors do not determine "
            f"num_heads: {config.num_heads} is assumed (dim {config.dim} / {WAN_HEAD_DIM}, as in "
            f"Wan2.1), text_len {config.text_len}, and a head that predicts velocity; if that is "
            "wrong, put a config.json there"
        )
    if isinstance(config, VAEConfig) and config.dim != VAEConfig().dim:
        tensors.notes.append(
            f"note: {tensors.path.name} has no config.json beside it: "
            "mean and std of Wan2.1's latents are assumed"
        )


RGB = 3  # channels of a pixel


def _transformer_config(what: str, shapes: Shapes, settings: dict[str, Any]) -> TransformerConfig:
    needed = (
        "patch_embedding.weight",
        "text_embedding.0.weight",
        "time_embedding.0.weight",
        "blocks.0.ffn.0.weight",
        "head.head.weight",
    )
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
        "skip_dim": shapes.get("skip.gate.weight", (0,))[0],
    }
    heads = WAN_HEADS.get((patch[0], ffn[0]), max(1, patch[0] // WAN_HEAD_DIM))
    return _config(what, TransformerConfig, sizes, {"num_heads": heads, **settings})


def _vae_config(what: str, shapes: Shapes, settings: dict[str, Any]) -> VAEConfig:
    first, last = _required(what, shapes, ("encoder.conv1.weight", "conv2.weight"), ndims=(5, 5))
    sizes = {"dim": first[0], "z_dim": last[0], "patch_size": math.isqrt(first[1] // RGB)}
    return _config(what, VAEConfig, sizes, settings)


def _text_encoder_config(what: str, shapes: Shapes, settings: dict[str, Any]) -> TextEncoderConfig:
    needed = (
        "token_embedding.weight",
        "blocks.0.attn.q.weight",
        "blocks.0.ffn.fc1.weight",
        "blocks.0.pos_embedding.embedding.weight",
    )
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


_Reader = Callable[[str, Shapes, dict[str, Any]], Config]
_PARTS: dict[str, tuple[_Reader, Callable[..., nnx.Module], tuple[tables.Rule, ...]]] = {
    "transformer": (_transformer_config, Transformer, tables.TRANSFORMER),
    "vae": (_vae_config, VAE, tables.VAE),
    "text_encoder": (_text_encoder_config, UMT5Encoder, tables.TEXT_ENCODER),
}

_CONFIGS = {"transformer": TransformerConfig, "vae": VAEConfig, "text_encoder": TextEncoderConfig}


def _required(
    what: str, shapes: Shapes, keys: tuple[str, ...], ndims: tuple[int, ...]
) -> list[tuple[int, ...]]:
    faults = [f"{key} is missing" for key in keys if key not in shapes]
    faults += [
        f"{k} has shape {shapes[k]}, not {n} axes"
        for k, n in zip(keys, ndims, strict=True)
        if k in shapes and len(shapes[k]) != n
    ]
    if faults:
        raise DataError(f"{what}: {'; '.join(faults)}; {kinds.said_of(shapes)}")
    return [shapes[key] for key in keys]


def _layers(shapes: Shapes) -> int:
    return 1 + max(
        int(match[1]) for key in shapes if (match := re.match(r"blocks\.(\d{1,3})\.", key))
    )


def _config(what: str, config_class, sizes: dict[str, Any], settings: dict[str, Any]):
    """The config from the tensors' `sizes` and config.json's `settings`.

    `settings` give what shapes do not determine, and must not contradict `sizes`.
    """
    stated = {
        f.name: _tuples(settings[f.name])
        for f in dataclasses.fields(config_class)
        if f.name in settings
    }
    faults = [
        f"config.json says {k} {shown(stated[k])}, the tensors say {sizes[k]}"
        for k in sizes
        if k in stated and stated[k] != sizes[k]
    ]
    if faults:
        raise DataError(f"{what}: {'; '.join(faults)}")
    try:
        return config_class(**{**stated, **sizes})
    except (UsageError, TypeError) as error:
        raise DataError(f"{what}: {error}") from error


def _tuples(value):
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def check_places(what: str, places: list[tables.TensorPlace], tensors) -> None:
    wanted = {place.key: place.shape for place in places}
    faults = [
        f"  unmatched  {tensors.source_key(key)} {shape}"
        for key, shape in tensors.shapes.items()
        if key not in wanted
    ]
    for key, shape in wanted.items():
        if key not in tensors.shapes:
            faults.append(f"  missing    {tensors.source_key(key)} {shape}")
        elif tensors.shapes[key] != shape:
            faults.append(
                f"  misshapen  {tensors.source_key(key)} {tensors.shapes[key]}, expected {shape}"
            )
        elif tensors.dtypes[key] not in READABLE_DTYPES:
            faults.append(
                f"  dtype      {tensors.source_key(key)} is {tensors.dtypes[key]}, "
                f"expected one of {', '.join(READABLE_DTYPES)}"
            )
    known = {tensors.source_key(key) for key in wanted}
    faults += [f"  missing    {key}, by the index" for key in tensors.absent if key not in known]
    if faults:
        raise DataError("\n".join([f"{what}: {len(faults)} of its tensors do not fit", *faults]))
