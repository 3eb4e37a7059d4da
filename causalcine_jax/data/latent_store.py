"""Films on disk as latents and token ids, in a folder of zarr3 arrays that any window of chunks is readable from.

    STORE/store.json             what is inside: a `StoreSpec`
    STORE/latents/               float16 [films, F, h, w, z], normalised by the VAE's mean and std
    STORE/token_ids/             int32 [films, S, T], one row per shot, 0 beyond a prompt's tokens and in unused shots
    STORE/shot_of_chunk/         int32 [films, N]
    STORE/captions/000000.jsonl  the prompts as text, one film per line; one file per shard

A shard is one file of `films_per_shard` films. Inside it one chunk of one film is the smallest unit: read alone, and guarded by its
own CRC-32C, so that damage is noticed when it is read and costs one record. A store is written under STORE.partial (latent_writer.py),
shard by shard with its captions last, and renamed when whole: a folder of the final name is a complete store.
"""

import dataclasses
import json
import operator
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from causalcine_jax.errors import DataError, UsageError, raise_faults, shown

SCHEMA = 1
SPEC_FILE = "store.json"
CACHE_BYTES = 64 << 20  # shard indices and recently read chunks

Record = dict[str, np.ndarray]


class CorruptRecord(DataError):
    """One record cannot be read: its checksum does not match, or it is not there."""


@dataclass(frozen=True)
class StoreSpec:
    """What a store holds: sizes, and everything that its content follows from.

    height, width   of the latents
    shots, text_len S and T: rows of token ids per film, and tokens per row
    source          where the films come from, as JSON; StoryWorld: {"world", "seed", ...}
    vae, tokenizer  hashes of what made the latents and the token ids
    """

    films: int
    latent_frames: int
    height: int
    width: int
    shots: int
    text_len: int
    source: dict[str, Any]
    vae: str
    tokenizer: str
    channels: int = 16
    chunk_frames: int = 3
    films_per_shard: int = 32
    schema: int = SCHEMA

    def __post_init__(self):
        sizes = (
            "films",
            "latent_frames",
            "height",
            "width",
            "shots",
            "text_len",
            "channels",
            "chunk_frames",
            "films_per_shard",
        )
        faults = [
            f"{name} must be positive, not {getattr(self, name)}"
            for name in sizes
            if getattr(self, name) <= 0
        ]
        if not faults and self.latent_frames % self.chunk_frames:
            faults.append(
                f"latent_frames {self.latent_frames} is not a multiple of chunk_frames {self.chunk_frames}"
            )
        raise_faults("latent store", faults)

    @property
    def chunks(self) -> int:
        return self.latent_frames // self.chunk_frames

    @property
    def shards(self) -> int:
        return -(-self.films // self.films_per_shard)

    def films_of(self, shard: int) -> range:
        """The films of one shard; the last one may hold fewer."""
        first = shard * self.films_per_shard
        return range(first, min(first + self.films_per_shard, self.films))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one film in each array."""
        return {
            "latents": (self.latent_frames, self.height, self.width, self.channels),
            "token_ids": (self.shots, self.text_len),
            "shot_of_chunk": (self.chunks,),
        }


def open_arrays(path: Path, spec: StoreSpec, *, create: bool = False) -> dict[str, ts.TensorStore]:
    """The arrays of the store in folder `path`; `create` makes those that are missing and opens all for writing."""
    context = ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})
    futures = {}
    for name, shape in spec.shapes().items():
        inner = (spec.chunk_frames, *shape[1:]) if name == "latents" else shape
        futures[name] = ts.open(
            _array_spec(
                path / name, spec, shape, inner, "float16" if name == "latents" else "int32"
            ),
            open=True,
            create=create,
            read=True,
            write=create,
            context=context,
        )
    return {name: future.result() for name, future in futures.items()}


def _array_spec(
    path: Path, spec: StoreSpec, shape: tuple[int, ...], inner: tuple[int, ...], dtype: str
) -> dict:
    checked = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
    sharding = {"chunk_shape": [1, *inner], "codecs": checked, "index_codecs": checked}
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        # Zarr takes a missing chunk for zeros. Here it is damage, and a chunk of zeros is data.
        "fill_missing_data_reads": False,
        "store_data_equal_to_fill_value": True,
        "recheck_cached_data": False,
        "metadata": {
            "shape": [spec.films, *shape],
            "data_type": dtype,
            "fill_value": 0,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": [spec.films_per_shard, *shape]},
            },
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        },
    }


def captions_file(path: Path, shard: int) -> Path:
    return path / "captions" / f"{shard:06d}.jsonl"


def partial_path(path: Path) -> Path:
    """Where the store `path` is while it is being written."""
    return path.with_name(path.name + ".partial")


def read_spec(path: Path) -> StoreSpec:
    """The spec of the store in folder `path`; `DataError` if there is none that this version reads."""
    file = path / SPEC_FILE
    try:
        fields = json.loads(file.read_text(encoding="utf-8-sig"))
        if fields.get("schema") != SCHEMA:
            raise DataError(
                f"{path}: schema {shown(fields.get('schema'))}, this version reads {SCHEMA}; encode the films again"
            )
        return StoreSpec(**fields)
    except FileNotFoundError:
        raise DataError(
            f"{path} is not a latent store: it has no {SPEC_FILE}; `causalcine encode --out {path}` makes one"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file} cannot be read ({error}); delete the store and encode the films again"
        ) from error


def write_spec(path: Path, spec: StoreSpec) -> None:
    temporary = path / f"{SPEC_FILE}.{os.getpid()}"
    temporary.write_text(json.dumps(dataclasses.asdict(spec), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path / SPEC_FILE)


def missing_shards(path: Path, spec: StoreSpec) -> list[int]:
    """The shards that are not yet written: a shard's captions are written last."""
    folder = path / "captions"
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    return [shard for shard in range(spec.shards) if captions_file(path, shard).name not in there]


class LatentStore:
    """A complete store, open for reading: a sequence of records. Can be sent to other processes; threads may share it."""

    def __init__(self, path: Path, spec: StoreSpec, arrays: dict[str, ts.TensorStore]):
        self.path = path
        self.spec = spec
        self._arrays = arrays

    @classmethod
    def open(cls, path: str | os.PathLike) -> "LatentStore":
        """Opens the store in folder `path`; `DataError` if it is missing, incomplete or of another version."""
        path = Path(path)
        partial = path if path.name.endswith(".partial") else partial_path(path)
        if partial.is_dir() and (path == partial or not path.exists()):
            raise DataError(_incomplete(path, partial))
        spec = read_spec(path)
        missing = missing_shards(path, spec)
        if missing:
            raise DataError(
                f"{path}: {len(missing)} of {spec.shards} shards are missing (the first: {missing[0]}); copy the store again or encode it again"
            )
        try:
            return cls(path, spec, open_arrays(path, spec))
        except ValueError as error:
            raise DataError(
                f"{path} cannot be opened; copy it again or encode it again ({_first_line(error)})"
            ) from error

    def __reduce__(self):
        return LatentStore.open, (self.path,)

    def __len__(self) -> int:
        return self.spec.films

    def __getitem__(self, index: int) -> Record:
        """Film `index` whole: {"latents" float32 [F,h,w,z], "token_ids" int32 [S,T], "shot_of_chunk" int32 [N], "index" int64}.

        Raises `CorruptRecord` if any part of it is damaged or missing.
        """
        return self.window(index, 0, self.spec.chunks)

    def window(self, index: int, first_chunk: int, chunks: int) -> Record:
        """A record cut to `chunks` chunks from `first_chunk` on; reads and checks no other latents. Token ids are those of all shots."""
        index = self._index(index)
        if not 0 <= first_chunk < first_chunk + chunks <= self.spec.chunks:
            raise UsageError(
                f"chunks {first_chunk + 1} to {first_chunk + chunks}, counted from 1, are not all in a "
                f"film of {self.spec.chunks} chunks"
            )
        cut = slice(first_chunk, first_chunk + chunks)
        frames = slice(cut.start * self.spec.chunk_frames, cut.stop * self.spec.chunk_frames)
        reads = {
            "latents": self._arrays["latents"][index, frames].read(),
            "token_ids": self._arrays["token_ids"][index].read(),
            "shot_of_chunk": self._arrays["shot_of_chunk"][index].read(),
        }
        try:
            record = {name: np.asarray(future.result()) for name, future in reads.items()}
        except (
            ValueError
        ) as error:  # tensorstore reports everything as ValueError: DATA_LOSS, NOT_FOUND, ...
            raise CorruptRecord(
                f"{self.path}: record {index} cannot be read ({_first_line(error)})"
            ) from error
        return {
            "latents": record["latents"].astype(np.float32),
            "token_ids": record["token_ids"],
            "shot_of_chunk": record["shot_of_chunk"][cut],
            "index": np.int64(index),
        }

    def prompts(self, index: int) -> list[str]:
        """The prompts of film `index`, one per shot, as text."""
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
    """The message for a store that is still being written."""
    spec = read_spec(partial)
    done = spec.films - sum(len(spec.films_of(shard)) for shard in missing_shards(partial, spec))
    return (
        f"{path} is not whole: {done} of {spec.films} films are encoded; "
        f"run causalcine encode again with the same arguments, it goes on where it stopped"
    )


def _first_line(error: Exception) -> str:
    """tensorstore appends its source locations and specs after the message."""
    return (
        str(error)
        .split("[source locations")[0]
        .split(" [tensorstore_spec")[0]
        .splitlines()[0]
        .strip()
    )
