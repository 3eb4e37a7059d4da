"""Writes a layout to disk: shard by shard, in blocks of rows, hashed while written.

Files go to `.NAME.partial` beside the target, which gets its name when complete. A journal there
lists the finished shards with their hashes. A conversion that was killed verifies those and
continues with the next shard.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from causalcine_jax.convert.finite import check_finite
from causalcine_jax.convert.layouts import FolderLayout, Shard, TargetTensor
from causalcine_jax.convert.metadata import MANIFEST
from causalcine_jax.convert.safetensors_files import READABLE_DTYPES
from causalcine_jax.errors import disk_faults
from causalcine_jax.utils.atomic_file import atomic_file, remove_partials, write_json
from causalcine_jax.utils.output import check_disk
from causalcine_jax.utils.progress import progress_bar

BLOCK_BYTES = 64 << 20
_JOURNAL = "journal.json"


def write(
    layout: FolderLayout,
    out: Path,
    request: dict[str, Any],
    sources: list[Path],
    progress: bool = True,
) -> None:
    """Writes `layout` as the folder `out`, with a manifest.json of SHA-256 sums.

    Args:
      out: must not exist.
      request: identifies this conversion (JSON values); shards that an earlier run of the same
        request finished are reused.
      sources: the files read, for the manifest.

    Raises:
      DataError: the disk is full or cannot be written; finished shards stay for the next run.
    """
    out = out.absolute()  # "." has no name
    partial = out.with_name(f".{out.name}.partial")
    finished = _finished(partial, request, layout)
    unfinished = (shard.nbytes for shard in layout.shards if shard.file not in finished)
    check_disk(sum(unfinished) + sum(map(len, layout.documents.values())), out)
    read = sum(file.stat().st_size for file in sources)
    written = sum(shard.nbytes for shard in layout.shards)
    bar = progress_bar(written + read, "B", "converting", shown=progress)
    then = "; finished shards are kept, run again to continue"
    with bar, disk_faults(f"cannot write {out}", then):
        partial.mkdir(parents=True, exist_ok=True)
        remove_partials(partial, below=True)
        write_json(partial / _JOURNAL, {"request": request, "files": finished}, ensure_ascii=False)
        for shard in layout.shards:
            kept = finished.pop(shard.file, None)
            if kept is None or _sha256(partial / shard.file, bar) != kept["sha256"]:
                kept = _write_shard(partial, shard, bar)
            finished[shard.file] = kept
            write_json(
                partial / _JOURNAL, {"request": request, "files": finished}, ensure_ascii=False
            )
        for name, content in layout.documents.items():
            with atomic_file(partial / name) as file:
                file.write_bytes(content)
            finished[name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        bar.set_description("hashing the source")
        write_json(
            partial / MANIFEST,
            {"source": _hashed(sources, bar), "files": dict(sorted(finished.items()))},
            ensure_ascii=False,
        )
        (partial / _JOURNAL).unlink()
        os.replace(partial, out)


def write_manifest(folder: Path, sources: list[Path], progress: bool = True) -> None:
    """Writes manifest.json for an existing `folder`: SHA-256 of its files and of the `sources`."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    size = sum(file.stat().st_size for file in [*files, *sources])
    with progress_bar(size, "B", "hashing", shown=progress) as bar:
        there = {
            file.relative_to(folder).as_posix(): {
                "bytes": file.stat().st_size,
                "sha256": _sha256(file, bar),
            }
            for file in files
        }
        manifest = {"source": _hashed(sources, bar), "files": there}
        write_json(folder / MANIFEST, manifest, ensure_ascii=False)


def blocks(tensor: TargetTensor) -> Iterator[np.ndarray]:
    """The tensor in its target's dtype, some rows at a time, which bounds memory."""
    dtype, rest = READABLE_DTYPES[tensor.dtype], tuple(slice(None) for _ in tensor.shape[1:])
    row = max(1, tensor.nbytes // max(1, tensor.shape[0]))
    step = max(1, BLOCK_BYTES // row)
    for start in range(0, tensor.shape[0], step):
        rows = slice(start, min(start + step, tensor.shape[0]))
        block = np.ascontiguousarray(
            tensor.source.read_slice(tensor.key, (rows, *rest)).astype(dtype, copy=False)
        )
        check_finite(block, tensor.source, tensor.key)
        yield block


def _write_shard(partial: Path, shard: Shard, bar: tqdm) -> dict[str, Any]:
    """Writes one file; returns its entry in the manifest."""
    digest, size = hashlib.sha256(), 0
    with atomic_file(partial / shard.file) as temporary, open(temporary, "wb") as out:
        for content in _contents(shard):
            out.write(content)
            digest.update(content)
            size += len(content)
            bar.update(len(content))
        out.flush()
        os.fsync(out.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _contents(shard: Shard) -> Iterator[bytes | memoryview]:
    yield shard.header
    for tensor in shard.tensors:
        for block in blocks(tensor):
            yield block.reshape(-1).view(np.uint8).data


def _finished(partial: Path, request: dict[str, Any], layout: FolderLayout) -> dict[str, Any]:
    """The shards that an interrupted run of the same request finished.

    Removes the remains of another request.
    """
    try:
        journal = json.loads((partial / _JOURNAL).read_text("utf-8"))
        if journal["request"] == request:
            wanted = {shard.file for shard in layout.shards}
            return {
                f: line
                for f, line in journal["files"].items()
                if f in wanted and _has_size(partial / f, line["bytes"])
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    shutil.rmtree(partial, ignore_errors=True)
    return {}


def _has_size(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size


def _hashed(files: list[Path], bar: tqdm) -> list[dict[str, Any]]:
    return [
        {"file": file.name, "bytes": file.stat().st_size, "sha256": _sha256(file, bar)}
        for file in files
    ]


def _sha256(file: Path, bar: tqdm) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while content := opened.read(8 << 20):
            digest.update(content)
            bar.update(len(content))
    return digest.hexdigest()
