"""`causalcine convert`: a checkpoint to a model folder, to Diffusers' layout or to an orbax copy.

Headers alone are checked first: every unmatched, missing or misshapen tensor of any network is
listed before a byte is written. Then tensors are copied block by block (writing.py), in their own
dtype or the requested one.
"""

import contextlib
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from causalcine_jax.convert import kinds, layouts, load, orbax_copy, writing
from causalcine_jax.convert.convert_config import TARGET_DTYPES, ConvertConfig
from causalcine_jax.convert.converted_metadata import (
    converted_metadata,
    recorded_shift,
    sampling_note,
)
from causalcine_jax.convert.describe import describe
from causalcine_jax.convert.find import PARTS, find_part, holds
from causalcine_jax.convert.formats import PartTensors, open_part
from causalcine_jax.convert.layouts import FolderLayout, Network
from causalcine_jax.convert.lora import loras
from causalcine_jax.convert.metadata import METADATA
from causalcine_jax.convert.save import config_json
from causalcine_jax.convert.sentencepiece import tokenizer_json
from causalcine_jax.errors import DataError, UsageError, disk_faults, kept_when_stopped
from causalcine_jax.models.text.tokenizer import tokenizer_file
from causalcine_jax.utils.output import check_disk, check_no_link, check_utf8, one_writer


def convert(config: ConvertConfig) -> None:
    """Converts as `config` says; a dry run prints what would be written.

    Raises:
      UsageError: the target exists or cannot be had (`one_writer`), or the request contradicts
        itself.
      DataError: files are damaged, missing or of another network (all listed), or the disk is full.
      StoppedEarly: for a KeyboardInterrupt, if finished shards are kept.
    """
    if config.dry_run:
        _convert(config)
        return
    resumes = config.to != "orbax"
    kept = "stopped: finished shards are kept; the same command goes on from there"
    with one_writer(config.out, beside=True), kept_when_stopped(kept if resumes else ""):
        if config.out.is_dir() and any(config.out.iterdir()):
            raise UsageError(f"{config.out} already exists: choose another --out, or delete it")
        check_no_link(config.out)
        _convert(config)


def _convert(config: ConvertConfig) -> None:
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
            request = _request(config, layout, networks)
            writing.write(layout, config.out, request, sources, config.progress)
    _print_notes(networks)
    print(sampling_note(converted_metadata(config, networks)), file=sys.stderr)
    print(f"{config.out}: {', '.join(network.part for network in networks)} as {config.to}")


def _print_notes(networks: list[Network]) -> None:
    """Says how the networks were read: adapters, scales, the choice of weights, eight bits."""
    for network in networks:
        for note in network.tensors.notes:
            print(note, file=sys.stderr)


def _sources(config: ConvertConfig) -> dict[str, Path]:
    """The path of each network that was found, by part."""
    named = {"vae": config.vae, "text_encoder": config.text_encoder}
    if not config.source.exists():
        find_part(config.source, "transformer")  # raises the DataError
    if config.source.is_file():
        kind = kinds.kind_of(config.source)
        if kind == kinds.ADAPTER:
            raise DataError(f"{config.source} is a LoRA: name its base, and this file as --lora")
        if kind is None:
            raise DataError(f"{config.source} {kinds.what_else(config.source)}")
        if named.get(kind):
            raise UsageError(
                f"{config.source} is a {kind.replace('_', ' ')}, and {named[kind]} is named as one "
                "too: leave one of them out"
            )
    found = {
        part: named.get(part) or config.source
        for part in PARTS
        if named.get(part) or holds(config.source, part)
    }
    if not found:
        raise DataError(
            f"{config.source} holds no known network: "
            "it is neither a folder of Wan2.1 or Diffusers, nor a checkpoint"
        )
    return found


def _open(config: ConvertConfig, opened: contextlib.ExitStack) -> list[Network]:
    networks, faults = [], []
    sources = _sources(config)
    if config.lora is not None and "transformer" not in sources:
        raise UsageError(f"--lora goes with a transformer, and {config.source} holds none")
    for part, path in sources.items():
        try:
            tensors = opened.enter_context(_open_part(config, path, part))
            networks.append(Network(part, tensors, describe(part, tensors)))
        except DataError as error:
            faults.append(str(error))
    if faults:
        raise DataError("\n".join(dict.fromkeys(faults)))
    return networks


def _open_part(
    config: ConvertConfig, path: Path, part: str
) -> contextlib.AbstractContextManager[PartTensors]:
    if part != "transformer":
        return open_part(path, part)
    return open_part(
        path, part, weights=config.weights, lora_path=config.lora, lora_alpha=config.lora_alpha
    )


def _layout(config: ConvertConfig, networks: list[Network]) -> FolderLayout:
    dtype, shard_bytes = TARGET_DTYPES[config.dtype], int(config.shard_gb * 1e9)
    tokenizer = _tokenizer(config, networks)
    metadata = converted_metadata(config, networks)
    if config.to == "diffusers":
        shift = recorded_shift(config, metadata)
        return layouts.diffusers(networks, dtype, shard_bytes, tokenizer, shift)
    return layouts.model_folder(networks, dtype, shard_bytes, tokenizer, metadata)


def _tokenizer(config: ConvertConfig, networks: list[Network]) -> dict[str, bytes]:
    """The text encoder's tokenizer.json and the files beside it, by name.

    Looks around the encoder first, then inside its file. Empty, with a note, if what is there is no
    tokenizer: the weights are of use without it.
    """
    encoder = next((network for network in networks if network.part == "text_encoder"), None)
    if encoder is None:
        return {}
    if config.tokenizer is not None:
        return layouts.tokenizer_files(tokenizer_file(config.tokenizer))
    where = encoder.tensors.path
    for folder in (config.text_encoder or config.source, where, where.parent, config.source):
        with contextlib.suppress(DataError):
            return layouts.tokenizer_files(tokenizer_file(folder))
    if (packed := encoder.tensors.packed_tokenizer()) is not None:
        try:
            read = tokenizer_json(packed, f"the spiece_model in {where}")
        except DataError as error:
            encoder.tensors.notes.append(
                f"note: {error} as --tokenizer; the text encoder is converted without one, "
                "and film asks for it"
            )
            return {}
        return {"tokenizer.json": read, "spiece.model": packed}
    raise DataError(
        f"no tokenizer beside the text encoder {where}: name the folder or tokenizer.json of "
        "google/umt5-xxl as --tokenizer"
    )


def _request(
    config: ConvertConfig, layout: FolderLayout, networks: list[Network]
) -> dict[str, Any]:
    """Identifies a conversion: one with an equal request may reuse the shards of an earlier run."""
    read = {
        file for each in networks for file in (*each.tensors.files, *each.tensors.settings_files)
    }
    return {
        "to": config.to,
        "weights": config.weights,
        "lora": [[str(each.path.absolute()), each.strength] for each in loras(config.lora)],
        "lora_alpha": config.lora_alpha,
        "sources": [
            [str(file.absolute()), file.stat().st_size, file.stat().st_mtime_ns]
            for file in sorted(read)
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
    layout = None if config.to == "orbax" else _layout(config, networks)
    _print_notes(networks)
    rows = [("source key", "target key", "shape", "dtype")]
    total = 0
    if layout is None:
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
        for shard in layout.shards:
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
    """A copy under our parameter names, one network in memory at a time.

    After an interruption it starts over.
    """
    out = config.out.absolute()  # "." has no name
    check_utf8(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    documents = {METADATA: layouts.json_bytes(converted_metadata(config, networks))}
    sizes = {
        n.part: sum(map(math.prod, n.tensors.shapes.values()))
        * np.dtype(_one_dtype(config, n)).itemsize
        for n in networks
    }
    check_disk(sum(sizes.values()), config.out)
    try:
        with disk_faults(f"cannot write {config.out}", "; what was written is removed"):
            _fill_orbax(config, networks, partial, documents)
            writing.write_manifest(partial, sources, config.progress)
            os.replace(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill_orbax(
    config: ConvertConfig, networks: list[Network], partial: Path, documents: dict[str, bytes]
) -> None:
    for network in networks:
        (partial / network.part).mkdir(parents=True)
        shapes, places = network.description.shapes, network.description.places
        orbax_copy.save(
            load.fill(shapes, places, network.tensors, _one_dtype(config, network)),
            partial / network.part,
        )
        documents[f"{network.part}/config.json"] = layouts.json_bytes(
            config_json(network.part, network.description.config)
        )
        if network.part == "text_encoder" and (files := _tokenizer(config, networks)):
            documents["text_encoder/tokenizer.json"] = files["tokenizer.json"]
    for name, content in documents.items():
        (partial / name).write_bytes(content)


def _one_dtype(config: ConvertConfig, network: Network):
    """The one dtype of stacked parameters: as requested; with keep, bfloat16 if all tensors are."""
    narrow = config.dtype == "bf16" or (
        config.dtype == "keep" and set(network.tensors.dtypes.values()) == {"BF16"}
    )
    return jnp.bfloat16 if narrow else jnp.float32
