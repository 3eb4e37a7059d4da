"""`causalcine embed`: the prompts of latent stores embedded once, so that training need not.

    token ids of all films, distinct -> text encoder, over all devices -> STORE/embeddings

Other processes may share the work, file by file (`each`): each loads the encoder once.

The rows are written under STORE/embeddings.partial, file by file, and renamed when complete. A
run that was stopped goes on with the files that are missing.
"""

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.sharding import Mesh
from jaxtyping import Int

from causalcine_jax.convert import load_text_encoder, load_tokenizer, orbax_copy
from causalcine_jax.convert.load import abstract_network
from causalcine_jax.data.encode import tokenizer_hash
from causalcine_jax.data.latent_store import CorruptRecord, LatentStore
from causalcine_jax.data.prompt_embeddings import (
    DTYPES,
    FOLDER,
    SPEC_FILE,
    EmbeddingsSpec,
    key_of,
    missing_shards,
    open_rows,
    read_spec,
    write_spec,
)
from causalcine_jax.errors import (
    DataError,
    UsageError,
    choice_faults,
    disk_faults,
    first_line,
    kept_when_stopped,
    raise_faults,
)
from causalcine_jax.film.embeddings import encode, encoder_hash
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.parallel.sharding import put_batch
from causalcine_jax.utils.output import check_disk, check_no_link, one_writer
from causalcine_jax.utils.progress import progress_bar

AT_ONCE = 8  # prompts per device


@dataclass(frozen=True)
class Shard:
    """The prompts of one file of rows.

    model, dtype  of the text encoder
    rows, folder  where their embeddings go
    places        of the prompts among the rows
    ids           token ids of each
    """

    model: Path
    dtype: str
    rows: ts.TensorStore
    folder: Path
    places: range
    ids: Sequence[Int[np.ndarray, " t"]]


# Yields every shard and what the function gave for it, in any order, or a tuple that says why not.
Each = Callable[[Callable[[Shard], int], Sequence[Shard]], Iterator[tuple[Shard, Any]]]


def in_turn(
    function: Callable[[Shard], int], shards: Sequence[Shard]
) -> Iterator[tuple[Shard, Any]]:
    """Calls the function in this process."""
    return ((shard, function(shard)) for shard in shards)


def embed_stores(
    model: Path,
    stores: Sequence[Path],
    dtype: str = DTYPES[0],
    *,
    progress: bool = True,
    each: Each = in_turn,
) -> None:
    """Embeds the prompts of the stores by the text encoder of `model`, in `dtype`.

    Embeddings of the same encoder, prompts and dtype stay as they are; others are replaced.

    Args:
      model, stores: their folders.
      dtype: of the embeddings.
      progress: whether to show it.
      each: calls a function for all shards, in this process or in others.

    Raises:
      UsageError: the request is bad, or a store is of another tokenizer or is being written.
      DataError: files of model or store are bad, or the disk is full.
      StoppedEarly: for a KeyboardInterrupt; what was embedded is kept.
    """
    raise_faults("embed", choice_faults("dtype", dtype, DTYPES))
    if copy := orbax_copy.find(model, "text_encoder"):
        raise UsageError(
            f"{copy} is an orbax copy, which has no hash: name the model that it was made from"
        )
    tokenizer, opened = load_tokenizer(model), [LatentStore.open(store) for store in stores]
    raise_faults(
        "embed",
        [
            f"the token ids of {store.path} are of another tokenizer than that of {model}"
            for store in opened
            if store.spec.tokenizer and store.spec.tokenizer != tokenizer_hash(tokenizer)
        ],
    )
    negative = model_defaults(model).get("negative", "")
    sha256, (sizes, _) = encoder_hash(model), abstract_network(model, "text_encoder")
    kept = "stopped: what was embedded is kept; the same command goes on from there"
    try:
        for store in opened:
            with one_writer(store.path / FOLDER, beside=True), kept_when_stopped(kept):
                prompts = _prompts(store, tokenizer, negative)
                spec = EmbeddingsSpec(sha256, dtype, store.spec.text_len, sizes.dim, tuple(prompts))
                count = _embed(store.path / FOLDER, spec, prompts.values(), model, progress, each)
            if progress:
                print(f"{store.path / FOLDER}: {len(prompts)} prompts, {count} of them new")
    finally:
        _text_encoder.cache_clear()


def _prompts(
    store: LatentStore, tokenizer: Tokenizer, negative: str
) -> dict[str, Int[np.ndarray, " t"]]:
    """Key -> token ids of every prompt of the store, after the null and the negative prompt.

    A negative prompt that is longer than the store's rows cannot be used with it, and is left out.
    """
    text_len = store.spec.text_len
    nulls = [text for text in ("", negative) if tokenizer.count(text) <= text_len]
    found = {key_of(ids): ids for ids in tokenizer(nulls, text_len)[0]}
    for film in range(len(store)):
        try:
            rows = store.token_ids(film)
        except CorruptRecord:  # training skips it too
            continue
        found |= {key_of(ids): ids for ids in rows if ids.any()}
    return found


def _embed(
    folder: Path,
    spec: EmbeddingsSpec,
    prompts: Iterable[Int[np.ndarray, " t"]],
    model: Path,
    progress: bool,
    each: Each,
) -> int:
    """Makes `folder` hold the embeddings of `spec`; returns how many had to be computed."""
    all_ids = [*prompts]
    if read_spec(folder) == spec and not missing_shards(folder, spec):
        return 0
    check_no_link(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    with disk_faults(f"cannot write {partial}", "; run again to go on"):
        if read_spec(partial) != spec:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_spec(partial, spec)
        missing = missing_shards(partial, spec)
        count, there = sum(map(len, missing)), len(spec.keys)
        tokens = sum(np.count_nonzero(all_ids[row]) for shard in missing for row in shard)
        check_disk(int(tokens) * spec.dim * jnp.dtype(spec.dtype).itemsize, folder)
        try:
            rows = open_rows(partial, spec, create=True)
        except ValueError as error:
            told = f"cannot write {partial}, delete it and run again: {first_line(error)}"
            raise DataError(told) from error
        with progress_bar(there, "prompt", "embed", done=there - count, shown=progress) as bar:
            shards = [
                Shard(model, spec.dtype, rows, partial, places, [all_ids[n] for n in places])
                for places in missing
            ]
            for shard, failed in each(embed_shard, shards):
                if isinstance(failed, tuple):
                    raise DataError(f"{partial}: {failed[1]}; run again to go on")
                bar.update(len(shard.places))
        (folder / SPEC_FILE).unlink(missing_ok=True)  # first: a kill leaves no part of earlier rows
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    return count


@functools.lru_cache(1)
def _text_encoder(model: Path, dtype: str, mesh: Mesh) -> UMT5Encoder:
    """Loaded once per process, at the first prompt that lacks its embedding."""
    return load_text_encoder(model, jnp.dtype(dtype), mesh=mesh)


def embed_shard(shard: Shard) -> int:
    """Writes the embeddings of a shard, by all devices of this process; returns their number."""
    mesh = make_mesh()
    made = _embedded(_text_encoder(shard.model, shard.dtype, mesh), np.stack(shard.ids), mesh)
    _write(shard.rows, shard.places, made, shard.folder)
    return len(made)


def _embedded(encoder: UMT5Encoder, ids: Int[np.ndarray, "n t"], mesh: Mesh) -> np.ndarray:
    """The embeddings of one file's prompts, some at a time, shared by the devices."""
    size = AT_ONCE * mesh.size
    made = []
    with jax.set_mesh(mesh):
        for first in range(0, len(ids), size):
            some = ids[first : first + size]
            padded = np.pad(some, ((0, size - len(some)), (0, 0)))  # one shape compiles once
            batch = put_batch(mesh, {"ids": padded, "mask": np.int32(padded != 0)})
            made.append(np.asarray(encode(encoder, batch["ids"], batch["mask"]))[: len(some)])
    return np.concatenate(made)


def _write(rows, shard: range, made: np.ndarray, partial: Path) -> None:
    try:
        rows[shard.start : shard.stop].write(made).result()
    except ValueError as error:  # all of tensorstore's errors
        raise DataError(
            f"cannot write {partial} ({error}); free some disk space, then run again to go on"
        ) from error
