"""Writes a latent store once, shard by shard, so that an interrupted writer can resume.

All work happens in STORE.partial. A shard is done once its captions exist, because they are
written last. `pending` lists the others. Processes may share the folder: they
write different shards. `finish` renames it to STORE once nothing is pending.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorstore as ts

from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.store_layout import (
    SPEC_FILE,
    StoreSpec,
    captions_file,
    missing_shards,
    open_arrays,
    partial_path,
    read_spec,
    write_spec,
)
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.utils.atomic_file import remove_partials, write_text
from causalcine_jax.utils.output import check_no_link, check_utf8


@dataclass(frozen=True)
class NewRecord:
    """One film to be written.

    latents        float [F,h,w,z], normalised
    token_ids      int32 [shots, T]
    shot_of_chunk  int32 [N]
    prompts        one per shot
    """

    latents: np.ndarray
    token_ids: np.ndarray
    shot_of_chunk: np.ndarray
    prompts: Sequence[str]


class LatentStoreWriter:
    """Writes a store of spec `spec` to `path`, or resumes one. `flag` names it in messages.

    Raises:
      UsageError: a complete or partial store of another spec exists; names the differences. Or the
        path is not UTF-8, or a link.
      DataError: writing failed.
    """

    def __init__(self, path: str | os.PathLike, spec: StoreSpec, *, flag: str = "--out"):
        self.path, self._flag = Path(path), flag
        check_utf8(self.path)  # before a folder is made
        self.spec = spec
        self._partial = partial_path(self.path)
        self._arrays: dict[str, ts.TensorStore] | None = None  # of a store that is complete
        if self.path.exists() and not _is_empty(self.path):
            if self.path.is_dir() and not (self.path / SPEC_FILE).exists():
                raise UsageError(
                    f"{self.path} holds something else than a latent store: choose another {flag}"
                )
            self._require_same(self.path, read_spec(self.path))
            return
        check_no_link(self.path)
        try:
            if (self._partial / SPEC_FILE).exists():
                self._resume()
            (self._partial / "captions").mkdir(parents=True, exist_ok=True)
            write_spec(self._partial, spec)  # first: without it there is nothing to resume
            self._arrays = open_arrays(self._partial, spec, create=True)
        except UsageError:  # also a ValueError, as tensorstore's errors are
            raise
        except (OSError, ValueError) as error:
            raise DataError(f"cannot write {self._partial}: {error}") from error

    def _resume(self) -> None:
        """Keeps a partial store of the same spec; deletes one of another spec without films."""
        there = read_spec(self._partial)
        if self._begun() == 0 and there != self.spec:
            shutil.rmtree(self._partial)
        else:
            self._require_same(self._partial, there)

    def _require_same(self, folder: Path, there: StoreSpec) -> None:
        asked = dataclasses.asdict(self.spec)
        differing = [
            f"{name} is {value!r}, asked {asked[name]!r}"
            for name, value in dataclasses.asdict(there).items()
            if value != asked[name]
        ]
        if differing:
            raise UsageError(
                f"{folder} was made with other settings: {'; '.join(differing)}. "
                f"Choose another {self._flag}, or delete it"
            )

    def fewest_bytes(self) -> int:
        """A lower bound of the bytes still to be written, without listing the shards."""
        if self._arrays is None:
            return 0
        left = self.spec.films - self._begun() * self.spec.films_per_shard
        return max(0, left) * self.spec.film_bytes

    def _begun(self) -> int:
        """The files that captions are in, or are being written to."""
        folder = self._partial / "captions"
        return len(list(folder.iterdir())) if folder.is_dir() else 0

    def pending(self) -> list[range]:
        """Returns the unwritten films, a range per shard."""
        if self._arrays is None:
            return []
        return [self.spec.films_of(shard) for shard in missing_shards(self._partial, self.spec)]

    def write(self, films: range, records: Sequence[NewRecord]) -> None:
        """Writes one shard.

        Args:
          films: one of the ranges of `pending`.
          records: its films in order.
        """
        if self._arrays is None:
            raise ValueError(f"{self.path} is complete: nothing is pending")
        arrays, shard = self._arrays, films.start // self.spec.films_per_shard
        if films != self.spec.films_of(shard) or len(records) != len(films):
            raise ValueError(f"{len(records)} records for {films}: write a whole shard at once")
        stacked = {
            "latents": np.stack(
                [
                    as_float16(np.asarray(record.latents), f"film {film}: ")
                    for film, record in zip(films, records, strict=True)
                ]
            ),
            "token_ids": np.stack(
                [_padded(record.token_ids, self.spec.shots) for record in records]
            ).astype(np.int32),
            "shot_of_chunk": np.stack([record.shot_of_chunk for record in records]).astype(
                np.int32
            ),
        }
        for name, shape in self.spec.shapes().items():  # tensorstore would broadcast
            if stacked[name].shape[1:] != shape:
                raise ValueError(f"{name} of shape {stacked[name].shape[1:]}, not {shape}")
        lines = (
            json.dumps({"film": film, "prompts": list(record.prompts)}, ensure_ascii=False)
            for film, record in zip(films, records, strict=True)
        )
        try:
            writes = [
                arrays[name][films.start : films.stop].write(value)
                for name, value in stacked.items()
            ]
            for write in writes:
                write.result()
            write_text(captions_file(self._partial, shard), "".join(f"{line}\n" for line in lines))
        except (OSError, ValueError) as error:
            raise DataError(
                f"cannot write {self._partial} ({error}); free some disk space, "
                "then run again to resume"
            ) from error

    def finish(self) -> LatentStore:
        """Renames the partial store once every process is done, and opens it."""
        if self._arrays is not None:
            missing = missing_shards(self._partial, self.spec)
            if missing:
                raise DataError(
                    f"{self._partial}: {len(missing)} of {self.spec.shards} shards are still "
                    "missing; run the encoding again"
                )
            self._arrays = None
            remove_partials(self._partial, below=True)
            os.replace(self._partial, self.path)
        return LatentStore.open(self.path)


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())


def as_float16(latents: np.ndarray, where: str = "") -> np.ndarray:
    """Latents as stores keep them. `DataError`, which begins with `where`, if they do not fit."""
    if not np.all(np.abs(latents) <= np.finfo(np.float16).max):  # also catches NaN
        raise DataError(
            f"{where}the VAE gave latents that are not finite; "
            "check the VAE's weights and its mean and std"
        )
    return latents.astype(np.float16)


def _padded(token_ids: np.ndarray, shots: int) -> np.ndarray:
    """Pads with rows of zeros up to `shots` rows."""
    if len(token_ids) > shots:
        raise ValueError(f"a film of {len(token_ids)} shots in a store of at most {shots}")
    return np.pad(token_ids, ((0, shots - len(token_ids)), (0, 0)))
