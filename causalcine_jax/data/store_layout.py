"""The layout of a latent store: films on disk as latents and token ids, in zarr3 arrays.

    STORE/store.json             what is inside: a `StoreSpec`
    STORE/latents/               float16 [films, F, h, w, z], normalised by the VAE's mean and std
    STORE/token_ids/             int32 [films, S, T], one row per shot; 0 after a prompt's tokens
                                 and in unused shots
    STORE/shot_of_chunk/         int32 [films, N]
    STORE/captions/000000.jsonl  the prompts as text, one film per line; one file per shard

Any window of chunks can be read alone. A shard is one file of `films_per_shard` films.
Its smallest unit is one chunk of one film, with its own CRC-32C.
Reading therefore notices damage, which costs one record.
A store is written under STORE.partial (latent_writer.py), shard by shard, captions last.
It is renamed when complete, so a folder with the final name is a complete store.
"""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorstore as ts

from causalcine_jax.errors import DataError, listed, raise_faults, shown
from causalcine_jax.utils.atomic_file import write_json
from causalcine_jax.utils.output import check_utf8

SCHEMA = 1
SPEC_FILE = "store.json"
CACHE_BYTES = 64 << 20  # shard indices and recently read chunks


@dataclass(frozen=True)
class StoreSpec:
    """What a store holds: its sizes, and everything that its content depends on.

    height, width    of the latents
    shots, text_len  S and T: rows of token ids per film, and tokens per row
    source           where the films come from, as JSON; StoryWorld: {"world", "seed", ...}
    vae, tokenizer   hashes of what made the latents and the token ids
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
                f"latent_frames {self.latent_frames} is not a multiple of "
                f"chunk_frames {self.chunk_frames}"
            )
        raise_faults("latent store", faults)

    @property
    def chunks(self) -> int:
        return self.latent_frames // self.chunk_frames

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Where the films come from: of each store, if several are read as one."""
        return self.source.get("mixed", [self.source])

    @property
    def shards(self) -> int:
        return -(-self.films // self.films_per_shard)

    def films_of(self, shard: int) -> range:
        """Returns the films of one shard; the last shard may hold fewer."""
        first = shard * self.films_per_shard
        return range(first, min(first + self.films_per_shard, self.films))

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of one film in each array."""
        return {
            "latents": (self.latent_frames, self.height, self.width, self.channels),
            "token_ids": (self.shots, self.text_len),
            "shot_of_chunk": (self.chunks,),
        }

    @property
    def film_bytes(self) -> int:
        """Bytes of one film on disk, without its captions."""
        shapes = self.shapes()
        return 2 * math.prod(shapes.pop("latents")) + 4 * sum(map(math.prod, shapes.values()))


def open_arrays(path: Path, spec: StoreSpec, *, create: bool = False) -> dict[str, ts.TensorStore]:
    """Opens the arrays of the store in folder `path`.

    `create` makes missing arrays and opens all for writing.
    """
    context = new_context()
    futures = {}
    for name, shape in spec.shapes().items():
        latents = name == "latents"
        futures[name] = open_array(
            path / name,
            (spec.films, *shape),
            "float16" if latents else "int32",
            spec.films_per_shard,
            (spec.chunk_frames, *shape[1:]) if latents else shape,
            context=context,
            create=create,
        )
    return {name: future.result() for name, future in futures.items()}


def new_context() -> ts.Context:
    """What arrays share: the cache of what was read lately."""
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


def open_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    per_file: int,
    inner: tuple[int, ...],
    *,
    compression: Sequence[dict] = (),
    context: ts.Context,
    create: bool = False,
) -> ts.Future:
    """Opens a zarr3 array of files of `per_file` rows, whose parts of shape `inner` have a CRC-32C.

    compression  codecs between a part's numbers and its checksum
    create       makes a missing array, and opens it for writing

    Raises:
      UsageError: the name of `path` is not UTF-8.
    """
    check_utf8(path)
    plain, crc = {"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}
    sharding = {
        "chunk_shape": [1, *inner],
        "codecs": [plain, *compression, crc],
        "index_codecs": [plain, crc],
    }
    grid = {"name": "regular", "configuration": {"chunk_shape": [per_file, *shape[1:]]}}
    return ts.open(
        {
            "driver": "zarr3",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            # By default zarr reads a missing chunk as zeros and does not store a chunk of zeros.
            # Here a missing chunk is damage, and zeros are data.
            "fill_missing_data_reads": False,
            "store_data_equal_to_fill_value": True,
            "recheck_cached_data": False,
            "metadata": {
                "shape": list(shape),
                "data_type": dtype,
                "fill_value": 0,
                "chunk_grid": grid,
                "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
            },
        },
        open=True,
        create=create,
        read=True,
        write=create,
        context=context,
    )


def captions_file(path: Path, shard: int) -> Path:
    return path / "captions" / f"{shard:06d}.jsonl"


def partial_path(path: Path) -> Path:
    """Returns where the store `path` is while it is written."""
    path = path.absolute()  # "." has no name
    return path.with_name(path.name + ".partial")


def read_spec(path: Path) -> StoreSpec:
    """Reads the spec of the store in folder `path`.

    Raises:
      DataError: there is no store, or this version cannot read it.
    """
    file = path / SPEC_FILE
    try:
        fields = json.loads(file.read_text(encoding="utf-8-sig"))
        if fields.get("schema") != SCHEMA:
            raise DataError(
                f"{path}: schema {shown(fields.get('schema'))}, this version reads {SCHEMA}; "
                "encode the films again"
            )
        return StoreSpec(**fields)
    except NotADirectoryError:
        raise DataError(
            f"{path} is not a latent store: it is a file, and a store a folder"
        ) from None
    except FileNotFoundError:
        inside = [str(spec.parent) for spec in sorted(path.glob(f"*/{SPEC_FILE}"))]
        raise DataError(
            f"{path} is not a latent store: it has no {SPEC_FILE}; "
            + (
                f"name one of those in it: {listed(inside)}"
                if inside
                else f"`causalcine encode --out {path}` makes one"
            )
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{file} cannot be read ({error}); delete the store and encode the films again"
        ) from error


def write_spec(path: Path, spec: StoreSpec) -> None:
    write_json(path / SPEC_FILE, dataclasses.asdict(spec))


def missing_shards(path: Path, spec: StoreSpec) -> list[int]:
    """Returns the unwritten shards: those without captions, which are written last."""
    folder = path / "captions"
    there = set(os.listdir(folder)) if folder.is_dir() else set()
    return [shard for shard in range(spec.shards) if captions_file(path, shard).name not in there]
