"""A model on disk to modules: sizes from config.json and from the tensors' shapes, then one tensor after the other into place.

What a folder holds is checked completely, from the headers alone, before the first weight is read: unmatched, missing and
misshapen tensors are reported together.
"""

import dataclasses
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.config import TextEncoderConfig, TransformerConfig, VAEConfig
from causalcine_jax.convert import tables
from causalcine_jax.convert.safetensors_files import DTYPES, TensorFiles, open_tensors
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.umt5 import UMT5Encoder
from causalcine_jax.models.vae import VAE

PARTS = ("transformer", "vae", "text_encoder")
WAN_HEAD_DIM = 128  # of every Wan2.1 model; only needed where no config.json tells the number of heads

Shapes = Mapping[str, tuple[int, ...]]


def load_transformer(path: str | os.PathLike, dtype=jnp.float32) -> Transformer:
    """Loads the transformer from a model folder, its transformer/ folder, or a .safetensors file.

    Args:
      path: where; tensors have the original Wan2.1 keys. Sizes come from the shapes; heads, text_len and eps from config.json.
      dtype: of all parameters in memory.

    Raises:
      DataError: missing or damaged files, or tensors that are not those of a Wan2.1 transformer (all are listed).
    """
    return _load(path, "transformer", _transformer_config, Transformer, tables.TRANSFORMER, dtype)


def load_vae(path: str | os.PathLike, dtype=jnp.float32) -> VAE:
    """Loads the VAE from a model folder, its vae/ folder, or a .safetensors file. See `load_transformer`."""
    return _load(path, "vae", _vae_config, VAE, tables.VAE, dtype)


def load_text_encoder(path: str | os.PathLike, dtype=jnp.float32) -> UMT5Encoder:
    """Loads the text encoder from a model folder, its text_encoder/ folder, or a .safetensors file. See `load_transformer`.

    `Tokenizer.load` takes the same folder.
    """
    return _load(path, "text_encoder", _text_encoder_config, UMT5Encoder, tables.TEXT_ENCODER, dtype)


def _load(path, part: str, read_config, module_class, rules, dtype):
    folder = _part(Path(path), part)
    settings = _settings(folder)
    with open_tensors(folder) as files:
        what = f"{folder} does not hold a Wan2.1 {part.replace('_', ' ')}"
        config = read_config(what, files.shapes, settings)
        shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
        places = tables.places(shapes, rules, getattr(config, "patch_size", None))
        _check(what, places, files)
        return _fill(shapes, places, files, np.dtype(dtype))


def _part(path: Path, part: str) -> Path:
    """The folder or file of `part`: `path` may be a model folder, that folder, or the file itself."""
    if not path.exists():
        raise DataError(f"no {part.replace('_', ' ')} at {path}: there is no such file or folder")
    if (path / part).is_dir():
        return path / part
    others = [other for other in PARTS if (path / other).is_dir()]
    if others:
        raise DataError(f"the model folder {path} has no {part}/, only {', '.join(f'{o}/' for o in others)}")
    return path


def _settings(folder: Path) -> dict[str, Any]:
    """What config.json says; nothing where there is none, or a file was named by itself."""
    file = folder / "config.json" if folder.is_dir() else folder.with_name("config.json")
    if not file.is_file():
        return {}
    try:
        settings = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise DataError(f"{file} is not JSON ({error}); copy it again") from error
    if not isinstance(settings, dict):
        raise DataError(f"{file} must hold a JSON object, not {type(settings).__name__}")
    return settings


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
    return _config(what, VAEConfig, {"dim": first[0], "z_dim": last[0]}, settings)


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


def _required(what: str, shapes: Shapes, keys: tuple[str, ...], ndims: tuple[int, ...]) -> list[tuple[int, ...]]:
    faults = [f"{key} is missing" for key in keys if key not in shapes]
    faults += [f"{k} has shape {shapes[k]}, not {n} axes" for k, n in zip(keys, ndims, strict=True) if k in shapes and len(shapes[k]) != n]
    if faults:
        raise DataError(f"{what}: {'; '.join(faults)}; its keys begin with {', '.join(sorted(shapes)[:3]) or 'nothing'}")
    return [shapes[key] for key in keys]


def _layers(shapes: Shapes) -> int:
    return 1 + max(int(match[1]) for key in shapes if (match := re.match(r"blocks\.(\d+)\.", key)))


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


def _check(what: str, places: list[tables.Place], files: TensorFiles) -> None:
    wanted = {place.key: place.shape for place in places}
    faults = [f"  unmatched  {key} {shape}" for key, shape in files.shapes.items() if key not in wanted]
    for key, shape in wanted.items():
        if key not in files.shapes:
            faults.append(f"  missing    {key} {shape}")
        elif files.shapes[key] != shape:
            faults.append(f"  misshapen  {key} {files.shapes[key]}, expected {shape}")
        elif files.dtypes[key] not in DTYPES:
            faults.append(f"  dtype      {key} is {files.dtypes[key]}, expected one of {', '.join(DTYPES)}")
    if faults:
        raise DataError("\n".join([f"{what}: {len(faults)} of its tensors do not fit", *faults]))


def _fill(shapes, places: list[tables.Place], files: TensorFiles, dtype: np.dtype):
    """The module of `shapes` with the files' tensors; besides it, one parameter (all its layers) and one tensor are in memory."""
    by_path: dict[str, list[tables.Place]] = {}
    for place in places:
        by_path.setdefault(place.path, []).append(place)
    leaves = []
    for path, leaf in tables.parameters(shapes).items():
        parameter = np.empty(leaf.shape, dtype)
        for place in by_path[path]:
            parameter[... if place.layer is None else place.layer] = place.to_ours(files.read(place.key))
        leaves.append(jnp.asarray(parameter))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
