"""Saves modules as a model folder: safetensors under the original Wan2.1 keys, with config.json.

    transformer/    config.json, diffusion_pytorch_model.safetensors
    vae/            config.json, model.safetensors
    text_encoder/   config.json, model.safetensors, tokenizer.json
    metadata.json   how the model was made, as given by the caller

The folder appears under its name only when it is complete.
"""

import collections
import dataclasses
import glob
import hashlib
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from causalcine_jax.convert import tables
from causalcine_jax.convert.describe import Config, describe
from causalcine_jax.convert.find import find_part, home
from causalcine_jax.convert.formats import open_part
from causalcine_jax.convert.metadata import MANIFEST, METADATA
from causalcine_jax.convert.safetensors_files import write_tensors
from causalcine_jax.convert.tensor_files import SUFFIXES
from causalcine_jax.errors import DataError, UsageError, disk_faults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import FILE_NAME, Tokenizer, tokenizer_file
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import OURS
from causalcine_jax.parallel.gathering import spans_processes
from causalcine_jax.parallel.processes import is_first
from causalcine_jax.parallel.sharding import gather_to_first
from causalcine_jax.utils.atomic_file import file_hash
from causalcine_jax.utils.output import one_writer

# The stem of each network's .safetensors.
WEIGHTS = {"transformer": "diffusion_pytorch_model", "vae": "model", "text_encoder": "model"}
_CLASSES = {"transformer": "WanModel", "vae": "WanVAE", "text_encoder": "T5Encoder"}


def save_model(
    folder: str | os.PathLike,
    *,
    transformer: Transformer | None = None,
    vae: VAE | None = None,
    text_encoder: UMT5Encoder | Path | None = None,
    tokenizer: Tokenizer | None = None,
    dtype=jnp.bfloat16,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Writes the given networks as a model folder; keeps other contents of an existing folder.

    With several processes whose devices share the networks, all call it, and the first writes.

    Args:
      folder: the model folder. It is written beside it under another name, then replaced in one
        step.
      text_encoder, tokenizer: given together or not at all. A path names a model whose text encoder
        is copied without being loaded: as hard links where it lies in a model folder.
      dtype: on disk, bfloat16 or float32. A VAE that it would round is float32: latents made with
        it must stay valid.
      metadata: the new content of metadata.json (JSON values).

    Raises:
      UsageError: another dtype, nothing to save, an encoder without its tokenizer, or the folder
        cannot be had (`one_writer`).
      DataError: the disk is full or cannot be written; the old folder is untouched.
    """
    folder = Path(folder).absolute()
    dtype = np.dtype(dtype)
    if dtype not in (np.dtype(jnp.bfloat16), np.dtype(np.float32)):
        raise UsageError(f"models are saved as bfloat16 or float32, not {dtype}")
    if (text_encoder is None) != (tokenizer is None):
        raise UsageError(
            "a text encoder is saved together with its tokenizer: give both or neither"
        )
    if all(network is None for network in (transformer, vae, text_encoder)):
        raise UsageError("nothing to save: give a transformer, a vae or a text encoder")
    parts: list[tuple[str, nnx.Module, Config, list[tables.TensorPlace], np.dtype]] = []
    if transformer is not None:
        places = tables.places(transformer, tables.TRANSFORMER, transformer.config.patch_size)
        parts.append(("transformer", transformer, transformer.config, places, dtype))
    if vae is not None:
        exact = dtype if _holds_exactly(dtype, vae) else np.dtype(np.float32)
        parts.append(("vae", vae, vae.cfg, tables.places(vae, tables.VAE), exact))
    if isinstance(text_encoder, UMT5Encoder):
        parts.append(
            (
                "text_encoder",
                text_encoder,
                text_encoder.cfg,
                tables.places(text_encoder, tables.TEXT_ENCODER),
                dtype,
            )
        )
    if not is_first():
        for _, network, _, places, of_part in parts:
            # Take part in gathering every parameter; the first process writes it.
            collections.deque(_tensors(network, places, of_part), maxlen=0)
        return
    with one_writer(folder, beside=True):
        _clear_remains(folder)
        untouched = " (what was there before is untouched)"
        with disk_faults(f"cannot write the model {folder}", untouched):
            partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.partial-", dir=folder.parent))
            try:
                partial.chmod(0o755)
                for part, network, config, places, of_part in parts:
                    _write_part(partial, part, network, config, places, of_part)
                if isinstance(text_encoder, Path):
                    _copy_text_encoder(text_encoder, partial, dtype)
                if tokenizer is not None and not (partial / "text_encoder" / FILE_NAME).exists():
                    tokenizer.save(partial / "text_encoder")
                if metadata is not None:
                    _write_json(partial / METADATA, dict(metadata))
                _keep_the_rest(folder, partial)
                _replace(folder, partial)
            finally:
                shutil.rmtree(partial, ignore_errors=True)


def _holds_exactly(dtype: np.dtype, network: nnx.Module) -> bool:
    """Whether no weight is rounded to `dtype`."""
    return all(
        leaf.dtype == dtype or bool(jnp.array_equal(leaf, leaf.astype(dtype).astype(leaf.dtype)))
        for leaf in jax.tree.leaves(network)
    )


def weights_hash(folder: str | os.PathLike) -> str:
    """SHA-256 over names and bytes of all weights' and .json files below `folder`.

    metadata.json and manifest.json, which tell where a model comes from, are left out. Equal
    models have equal hashes wherever they lie, also with VAE and text encoder in a base. Takes a
    model folder or one of its parts.
    """
    folder = Path(folder)
    files = {file.relative_to(folder): file for file in _files_of_model(folder)}
    for part in ("vae", "text_encoder"):
        if (base := home(folder, part)) != folder:
            lies = [
                find_part(base, part).weights,
                *([tokenizer_file(base)] if part == "text_encoder" else []),
            ]
            files |= {
                file.relative_to(base): file for path in lies for file in _files_of_model(path)
            }
    if not files:
        raise DataError(f"no model in {folder}")
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name.as_posix()} {file_hash(file)}\n".encode())
    return digest.hexdigest()


def _files_of_model(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [
        file
        for file in path.rglob("*")
        if file.suffix in (".json", *SUFFIXES) and file.name not in (METADATA, MANIFEST)
    ]


def config_json(part: str, config: Config) -> dict[str, Any]:
    """The config.json of a network with the sizes `config`, under Wan2.1's field names.

    Fields of ours (network_sizes.OURS) are there only where the network is not as Wan2.1's.
    """
    kind = {"model_type": "t2v"} if part == "transformer" else {}
    fields = dataclasses.asdict(config)
    fields = {name: value for name, value in fields.items() if value != OURS.get(name)}
    return {"_class_name": _CLASSES[part], **kind, **fields}


def _write_part(
    folder: Path,
    part: str,
    module: nnx.Module,
    config: Config,
    places: list[tables.TensorPlace],
    dtype: np.dtype,
) -> None:
    (folder / part).mkdir()
    _write_json(folder / part / "config.json", config_json(part, config))
    specs = [(place.key, place.shape) for place in places]
    write_tensors(
        folder / part / f"{WEIGHTS[part]}.safetensors",
        specs,
        dtype,
        _tensors(module, places, dtype),
    )


def _copy_text_encoder(model: Path, folder: Path, dtype: np.dtype) -> None:
    """The text encoder of `model` in `folder`: linked, or one tensor after the other in `dtype`."""
    part = "text_encoder"
    if (there := home(model, part) / part).is_dir():
        shutil.copytree(there, folder / part, copy_function=_link)
        return
    (folder / part).mkdir()
    with open_part(model, part) as tensors:
        network = describe(part, tensors)
        specs = [(place.key, place.shape) for place in network.places]
        read = (tensors.read_slice(key, (slice(None),) * len(shape)) for key, shape in specs)
        _write_json(folder / part / "config.json", config_json(part, network.config))
        write_tensors(folder / part / f"{WEIGHTS[part]}.safetensors", specs, dtype, read)


def _tensors(module, places: list[tables.TensorPlace], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The checkpoint's tensors in the order of `places`; none in a process but the first.

    One parameter (with all its layers) is on the host at a time. Of one that processes share, it is
    one layer in `dtype`.
    """
    parameters = tables.parameters(module)
    for path, layers in itertools.groupby(places, key=lambda place: place.path):
        parameter = parameters[path]
        if spans_processes(parameter):
            gathered = ((each, gather_to_first(parameter, each.layer, dtype)) for each in layers)
            yield from (
                place.rule.to_torch(part, place.sizes)
                for place, part in gathered
                if part is not None
            )
        elif is_first():
            own = np.asarray(parameter)
            yield from (place.to_torch(own) for place in layers)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _keep_the_rest(old: Path, new: Path) -> None:
    """Adds what `old` holds and `new` lacks, as hard links, or copies if links are impossible."""
    for entry in old.iterdir() if old.is_dir() else ():
        target = new / entry.name
        if target.exists():
            continue
        if entry.is_dir():
            shutil.copytree(entry, target, copy_function=_link)
        else:
            _link(entry, target)


def _link(source, target) -> None:
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copy2(source, target)


def _clear_remains(folder: Path) -> None:
    """Removes what a killed save left beside `folder`, whose one writer this process is.

    A kill between the two renames of `_replace` leaves only the previous folder, which returns.
    """
    remains = [
        path for path in folder.parent.glob(f".{glob.escape(folder.name)}.*") if path.is_dir()
    ]
    for path in remains:
        if path.name.startswith(f".{folder.name}.old-") and not folder.exists():
            os.rename(path, folder)
        elif path.name.startswith((f".{folder.name}.old-", f".{folder.name}.partial-")):
            shutil.rmtree(path, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    """Renames `new` to `folder`, then removes the previous folder of that name."""
    if not folder.exists():
        os.rename(new, folder)
        return
    old = new.with_name(new.name.replace(".partial-", ".old-"))
    os.rename(folder, old)
    try:
        os.rename(new, folder)
    except OSError:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
