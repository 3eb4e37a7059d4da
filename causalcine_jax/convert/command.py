"""launch/convert.py: any supported checkpoint to a model folder, Diffusers' layout or an orbax copy.

Everything is checked from headers alone before the first byte is written: what is unmatched, missing or misshapen in any of the
networks is listed at once. Then tensors go from file to file, block by block (`writing`), in their own dtype or the one asked for.
"""

import contextlib
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from causalcine_jax import families
from causalcine_jax.convert import guess_family, kinds, layouts, load, orbax_copy, writing
from causalcine_jax.convert.describe import describe
from causalcine_jax.convert.find import PARTS, find_part, holds
from causalcine_jax.convert.formats import open_part
from causalcine_jax.convert.layouts import FolderLayout, Network
from causalcine_jax.convert.lora import Asked, Lora, loras
from causalcine_jax.convert.metadata import METADATA, base_entry, load_metadata
from causalcine_jax.convert.save import config_json
from causalcine_jax.convert.sentencepiece import tokenizer_json
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError, nearest
from causalcine_jax.models.text.tokenizer import tokenizer_file

TARGETS = ("model", "diffusers", "orbax")
DTYPES = {"keep": None, "bf16": "BF16", "fp32": "F32"}


@dataclass(frozen=True)
class ConvertConfig:
    """What to convert and how; fields as the flags of launch/convert.py."""

    source: Path
    out: Path
    to: str = "model"
    vae: Path | None = None
    text_encoder: Path | None = None
    tokenizer: Path | None = None
    lora: Asked | Sequence[Asked] | None = None
    lora_alpha: float | None = None
    weights: str = "auto"
    dtype: str = "keep"
    family: str | None = None
    shard_gb: float = 5.0
    dry_run: bool = False
    progress: bool = True

    def __post_init__(self):
        for value, known, what in ((self.to, TARGETS, "target"), (self.dtype, DTYPES, "dtype")):
            if value not in known:
                raise UsageError(f"unknown {what} {value!r}, {nearest(value, known)}")
        if self.shard_gb <= 0:
            raise UsageError(f"a shard must hold more than nothing, not {self.shard_gb} GB")
        asked = loras(self.lora)
        if self.lora_alpha is not None and len(asked) != 1:
            raise UsageError(
                f"--lora-alpha goes with one --lora, not {len(asked)}: of several, each file tells its own alpha, or give strengths (FILE:0.8)"
            )
        if self.family is not None:
            families.family(self.family)  # says which there are


def convert(config: ConvertConfig) -> None:
    """Converts as `config` says, or prints what that would write.

    Raises:
      UsageError: the target is there already, or what was asked for contradicts itself.
      DataError: files that are damaged, missing or of another network (all that does not fit is listed), or a full disk.
    """
    if (
        not config.dry_run
        and config.out.exists()
        and (not config.out.is_dir() or any(config.out.iterdir()))
    ):
        raise UsageError(f"{config.out} is there already: choose another --out, or delete it")
    above = next((folder for folder in config.out.absolute().parents if folder.exists()), Path("/"))
    if not config.dry_run and not (above.is_dir() and os.access(above, os.W_OK)):
        raise UsageError(
            f"{config.out} cannot be made: {above} {'is read-only' if above.is_dir() else 'is no folder'}; choose another --out"
        )
    with contextlib.ExitStack() as opened:
        networks = _open(config, opened)
        if config.dry_run:
            _print(config, networks)
            return
        sources = sorted({file for network in networks for file in network.tensors.files})
        if config.to == "orbax":
            _write_orbax(config, networks, sources)
        else:
            layout = _layout(config, networks)
            writing.write(
                layout, config.out, _request(config, layout, sources), sources, config.progress
            )
    if config.progress:
        _say(networks)
        print(f"{config.out}: {', '.join(network.part for network in networks)} as {config.to}")
        print(_said_of_sampling(_metadata(config, networks)))


def _say(networks: list[Network]) -> None:
    """How the networks were read, where that is not plain: adapters and their scales, which of several weights, eight bits."""
    for network in networks:
        for note in network.tensors.notes:
            print(note)


def _sources(config: ConvertConfig) -> dict[str, Path]:
    """Where each network comes from; those that nothing holds are left out."""
    named = {"vae": config.vae, "text_encoder": config.text_encoder}
    if not config.source.exists():
        find_part(config.source, "transformer")  # says so
    if config.source.is_file():
        kind = kinds.kind_of(config.source)
        if kind == kinds.ADAPTER:
            raise DataError(f"{config.source} is a LoRA: name its base, and this file as --lora")
        if kind is None:
            raise DataError(f"{config.source} {kinds.what_else(config.source)}")
        if named.get(kind):
            raise UsageError(
                f"{config.source} is a {kind.replace('_', ' ')}, and {named[kind]} is named as one too: leave one of them out"
            )
    found = {
        part: named.get(part) or config.source
        for part in PARTS
        if named.get(part) or holds(config.source, part)
    }
    if not found:
        raise DataError(
            f"{config.source} holds no network that is known: neither a folder of Wan2.1 or Diffusers, nor a checkpoint"
        )
    return found


def _open(config: ConvertConfig, opened: contextlib.ExitStack) -> list[Network]:
    networks, faults = [], []
    sources = _sources(config)
    if config.lora is not None and "transformer" not in sources:
        raise UsageError(f"--lora goes with a transformer, and {config.source} holds none")
    for part, path in sources.items():
        options = (
            {"weights": config.weights, "lora_path": config.lora, "lora_alpha": config.lora_alpha}
            if part == "transformer"
            else {}
        )
        try:
            tensors = opened.enter_context(open_part(path, part, **options))
            networks.append(Network(part, tensors, describe(part, tensors)))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(dict.fromkeys(faults)))
    return networks


def _layout(config: ConvertConfig, networks: list[Network]) -> FolderLayout:
    dtype, shard_bytes, tokenizer = (
        DTYPES[config.dtype],
        int(config.shard_gb * 1e9),
        _tokenizer(config, networks),
    )
    metadata = _metadata(config, networks)
    if config.to == "diffusers":
        return layouts.diffusers(networks, dtype, shard_bytes, tokenizer, _shift(config, metadata))
    return layouts.model_folder(networks, dtype, shard_bytes, tokenizer, metadata)


def _tokenizer(config: ConvertConfig, networks: list[Network]) -> dict[str, bytes]:
    """tokenizer.json of the text encoder and what lies beside it, by name: looked for around the encoder, else in it."""
    encoder = next((network for network in networks if network.part == "text_encoder"), None)
    if encoder is None:
        return {}
    if config.tokenizer is not None:
        return layouts.tokenizer_files(tokenizer_file(config.tokenizer))
    lies = encoder.tensors.path
    for place in (config.text_encoder or config.source, lies, lies.parent, config.source):
        with contextlib.suppress(DataError):
            return layouts.tokenizer_files(tokenizer_file(place))
    if (packed := encoder.tensors.packed_tokenizer()) is not None:
        return {
            "tokenizer.json": tokenizer_json(packed, f"the spiece_model in {lies}"),
            "spiece.model": packed,
        }
    raise DataError(
        f"no tokenizer beside the text encoder {lies}: name the folder or tokenizer.json of google/umt5-xxl as --tokenizer"
    )


def _metadata(config: ConvertConfig, networks: list[Network]) -> dict[str, Any]:
    """What metadata.json says: how the model is sampled (as the source's own says, else as its family is), and what it was made from."""
    said = load_metadata(config.source) if config.family is None and config.source.is_dir() else {}
    if "sampler" not in said:
        family = (
            families.family(config.family)
            if config.family
            else guess_family.guess(config.source, _sizes(networks))
        )
        said = {**said, **(family.defaults() if family else {})}
    if isinstance(said.get("base"), str):  # it is named by its path from the folder
        said = {**said, "base": base_entry(config.source / said["base"], config.out)}
    if asked := loras(config.lora):
        said = {
            **said,
            "loras": [
                *said.get("loras", []),
                *map(str, (Lora(Path(each.path.name), each.strength) for each in asked)),
            ],
        }
    return {**said, "converted_from": config.source.name}


def _sizes(networks: list[Network]):
    """The transformer's config, where there is one."""
    return next(
        (network.description.config for network in networks if network.part == "transformer"), None
    )


def _shift(config: ConvertConfig, metadata: dict[str, Any]) -> float:
    """The flow shift of the recorded sampler, Wan2.1's where none is."""
    recorded = metadata.get("sampler", {})
    try:
        return SamplerConfig(**recorded).shift
    except (TypeError, UsageError) as error:
        raise DataError(
            f"{config.source / METADATA} describes no sampler with {recorded!r}: mend it, or give --family"
        ) from error


def _said_of_sampling(metadata: dict[str, Any]) -> str:
    family = families.FAMILIES.get(metadata.get("family"))
    if family is not None:
        return f"family: {family.name} (licence of its weights: {family.licence}). {family.note}"
    if "sampler" in metadata:
        return "sampled as the source's metadata.json says"
    return (
        f"family: unknown, so metadata.json says nothing of sampling, and films are made as by {families.ASSUMED}; if it is a model of another kind, "
        f"convert it again with --family NAME ({', '.join(families.FAMILIES)})"
    )


def _request(config: ConvertConfig, layout: FolderLayout, sources: list[Path]) -> dict[str, Any]:
    """What makes two conversions the same one, so that the second may go on with the first's shards."""
    return {
        "to": config.to,
        "weights": config.weights,
        "lora": [[str(each.path.absolute()), each.strength] for each in loras(config.lora)],
        "lora_alpha": config.lora_alpha,
        "sources": [
            [str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns] for file in sources
        ],
        "shards": {
            shard.file: [
                [tensor.name, tensor.key, tensor.dtype, list(tensor.shape)]
                for tensor in shard.tensors
            ]
            for shard in layout.shards
        },
    }


def _print(config: ConvertConfig, networks: list[Network]) -> None:
    """The table of the conversion: source key, target key, shape, dtype."""
    _say(networks)
    rows = [("source key", "target key", "shape", "dtype")]
    total = 0
    if config.to == "orbax":
        for network in networks:
            for place in network.description.places:
                target = place.path if place.layer is None else f"{place.path}[{place.layer}]"
                rows.append(
                    (
                        network.tensors.source_key(place.key),
                        f"{network.part}: {target}",
                        str(place.shape),
                        config.dtype,
                    )
                )
    else:
        for shard in _layout(config, networks).shards:
            total += shard.nbytes
            for tensor in shard.tensors:
                had = tensor.source.dtypes[tensor.key]
                dtype = had if had == tensor.dtype else f"{had} -> {tensor.dtype}"
                rows.append(
                    (
                        tensor.source.source_key(tensor.key),
                        f"{shard.file}: {tensor.name}",
                        str(tensor.shape),
                        dtype,
                    )
                )
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print(
            "  ".join(
                [*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]
            )
        )
    print(
        f"{len(rows) - 1} tensors{f', {total / 1e9:.3f} GB' if total else ''}; nothing was written"
    )


def _write_orbax(config: ConvertConfig, networks: list[Network], sources: list[Path]) -> None:
    """A copy under our names, with one network at a time in memory; an interrupted one begins again."""
    partial = config.out.with_name(f".{config.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    documents = {METADATA: layouts.json_bytes(_metadata(config, networks))}
    sizes = {
        n.part: sum(map(math.prod, n.tensors.shapes.values()))
        * np.dtype(_one_dtype(config, n)).itemsize
        for n in networks
    }
    writing.check_room(sum(sizes.values()), config.out)
    try:
        with writing.disk_faults(config.out):
            _fill_orbax(config, networks, partial, documents)
            writing.write_manifest(partial, sources, config.progress)
            os.replace(partial, config.out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill_orbax(
    config: ConvertConfig, networks: list[Network], partial: Path, documents: dict[str, bytes]
) -> None:
    for network in networks:
        (partial / network.part).mkdir(parents=True)
        orbax_copy.save(
            load.fill(network.description, network.tensors, _one_dtype(config, network)),
            partial / network.part,
        )
        documents[f"{network.part}/config.json"] = layouts.json_bytes(
            config_json(network.part, network.description.config)
        )
        if network.part == "text_encoder":
            documents["text_encoder/tokenizer.json"] = _tokenizer(config, networks)[
                "tokenizer.json"
            ]
    for name, content in documents.items():
        (partial / name).write_bytes(content)


def _one_dtype(config: ConvertConfig, network: Network):
    """Parameters of stacked layers have one dtype: the one asked for, else bfloat16 where the source has nothing finer."""
    narrow = config.dtype == "bf16" or (
        config.dtype == "keep" and set(network.tensors.dtypes.values()) == {"BF16"}
    )
    return jnp.bfloat16 if narrow else jnp.float32
