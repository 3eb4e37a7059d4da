"""Reads a latent store (its files: store_layout.py), whole films or any window of their chunks."""

import json
import operator
import os
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import tensorstore as ts
from jaxtyping import Float, Float32, Int32

from causalcine_jax.data.store_layout import (
    StoreSpec,
    captions_file,
    missing_shards,
    open_arrays,
    partial_path,
    read_spec,
)
from causalcine_jax.errors import DataError, UsageError, first_line, shown

LONGEST_REASON = 300  # characters of tensorstore's in a message
# How tensorstore's messages begin where bytes are wrong or missing. What else stops a read, such as
# UNAVAILABLE, says nothing of the record.
DAMAGE = ("DATA_LOSS", "NOT_FOUND", "FAILED_PRECONDITION", "OUT_OF_RANGE", "INVALID_ARGUMENT")
WAITS = (0.5, 2.0, 8.0)  # seconds before another try


class StoreRecord(TypedDict):
    """A film, or a part of one (`first_chunk`, film_parts.py).

    Retelling adds `chunk_weight`, prompt_embeddings.py `text` and `null_text`.
    """

    latents: Float32[np.ndarray, "f h w z"]
    token_ids: Int32[np.ndarray, "s t"]
    shot_of_chunk: Int32[np.ndarray, " n"]
    index: np.int64
    first_chunk: NotRequired[np.int32]
    chunk_weight: NotRequired[Float32[np.ndarray, " n"]]
    text: NotRequired[Float[np.ndarray, "s t d"]]
    null_text: NotRequired[Float[np.ndarray, "t d"]]


class CorruptRecord(DataError):
    """One record cannot be read: its checksum does not match, or it is not there."""


class LatentStore:
    """A complete store, open for reading: a sequence of records.

    It can be pickled to other processes, and threads may share it.
    """

    def __init__(self, path: Path, spec: StoreSpec, arrays: dict[str, ts.TensorStore]):
        self.path = path
        self.folders = [path]
        self.spec = spec
        self.sizes = [spec]  # as of several stores, mixed_store.py
        self.alike = [range(spec.films)]
        self._arrays = arrays

    @classmethod
    def open(cls, path: str | os.PathLike) -> "LatentStore":
        """Opens the store in folder `path`.

        Raises:
          DataError: it is missing, incomplete or of another version.
          UsageError: the name of its folder is not UTF-8.
        """
        path = Path(path)
        partial = path if path.name.endswith(".partial") else partial_path(path)
        if partial.is_dir() and (path == partial or not path.exists()):
            raise DataError(_incomplete(path, partial))
        spec = read_spec(path)
        missing = missing_shards(path, spec)
        if missing:
            raise DataError(
                f"{path}: {len(missing)} of {spec.shards} shards are missing "
                f"(the first: {missing[0]}); copy the store again or encode it again"
            )
        try:
            return cls(path, spec, open_arrays(path, spec))
        except UsageError:  # also a ValueError, as tensorstore's errors are
            raise
        except ValueError as error:
            raise DataError(
                f"{path} cannot be opened; copy it again or encode it again ({_reason(error)})"
            ) from error

    def __reduce__(self):
        return LatentStore.open, (self.path,)

    def __len__(self) -> int:
        return self.spec.films

    def __getitem__(self, index: int) -> StoreRecord:
        """Reads a whole film; raises as `window` does."""
        return self.window(index, 0, self.spec.chunks)

    def window(self, index: int, first_chunk: int, chunks: int) -> StoreRecord:
        """Reads `chunks` chunks of a film from `first_chunk` on, and checks no other latents.

        Token ids are those of all shots. A read that fails for another reason than damage is tried
        again.

        Raises:
          CorruptRecord: any part of it is damaged or missing.
          DataError: the storage cannot be read.
        """
        index = self._index(index)
        if not 0 <= first_chunk < first_chunk + chunks <= self.spec.chunks:
            raise UsageError(
                f"chunks {first_chunk + 1} to {first_chunk + chunks}, counted from 1, "
                f"are not all in a film of {self.spec.chunks} chunks"
            )
        kept = slice(first_chunk, first_chunk + chunks)
        frames = slice(kept.start * self.spec.chunk_frames, kept.stop * self.spec.chunk_frames)
        record = self._read(index, {"latents": frames, "token_ids": ..., "shot_of_chunk": ...})
        return {
            "latents": record["latents"].astype(np.float32),
            "token_ids": record["token_ids"],
            "shot_of_chunk": record["shot_of_chunk"][kept],
            "index": np.int64(index),
        }

    def token_ids(self, index: int) -> Int32[np.ndarray, "s t"]:
        """Reads a film's token ids alone. Raises as `window` does."""
        return self._read(self._index(index), {"token_ids": ...})["token_ids"]

    def _read(self, index: int, parts: dict[str, Any]) -> dict[str, np.ndarray]:
        """Name of an array -> the part of the film's entry that `parts` asks for."""
        waits = iter(WAITS)
        while True:
            reads = {name: self._arrays[name][index, part].read() for name, part in parts.items()}
            try:
                return {name: np.asarray(future.result()) for name, future in reads.items()}
            except ValueError as error:  # all of tensorstore's errors
                said = f"{self.path}: record {index} cannot be read ({_reason(error)})"
                if str(error).startswith(DAMAGE):
                    raise CorruptRecord(said) from error
                if (wait := next(waits, None)) is None:
                    raise DataError(
                        f"{said}, in {len(WAITS) + 1} tries: the storage fails, and the record may "
                        "be sound; run again when it can be read"
                    ) from error
            time.sleep(wait)

    def prompts(self, index: int) -> list[str]:
        """Returns the prompts of film `index`, one per shot, as text."""
        index = self._index(index)
        shard, row = divmod(index, self.spec.films_per_shard)
        try:
            prompts = json.loads(
                captions_file(self.path, shard).read_text(encoding="utf-8").splitlines()[row]
            )["prompts"]
            if not isinstance(prompts, list) or not all(
                isinstance(prompt, str) for prompt in prompts
            ):
                raise ValueError(f"prompts must be a list of texts, not {shown(prompts)}")
            return prompts
        except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
            raise CorruptRecord(
                f"{self.path}: captions of record {index} cannot be read ({error})"
            ) from error

    def _index(self, index: int) -> int:
        index = operator.index(index)
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} records, there is no record {index}")
        return index


def _incomplete(path: Path, partial: Path) -> str:
    """Returns the message for a store that is still being written."""
    spec = read_spec(partial)
    done = spec.films - sum(len(spec.films_of(shard)) for shard in missing_shards(partial, spec))
    return (
        f"{path} is not whole: {done} of {spec.films} films are encoded; "
        f"run causalcine encode again with the same arguments, it goes on where it stopped"
    )


def _reason(error: Exception) -> str:
    """Drops the source locations, specs and long values that tensorstore appends to a message."""
    said = first_line(str(error).split("[source locations")[0].split(" [tensorstore_spec")[0])
    return said if len(said) <= LONGEST_REASON else f"{said[:LONGEST_REASON]}..."
