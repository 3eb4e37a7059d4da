"""Embeddings of a latent store's prompts, so that training needs no text encoder.

    STORE/embeddings/embeddings.json  an `EmbeddingsSpec`: whose they are, and which row is where
    STORE/embeddings/rows/            [rows, T, D], a row per prompt, zero beyond its tokens

`causalcine embed` writes them (embed_command.py). A prompt's key is the hash of its token ids. The
rows are those of all films' prompts, of the null prompt, and of the model's negative prompt.
"""

# A film's embeddings have another format (film/embeddings.py), because they are read otherwise. A
# film has some prompts, wanted all at once, by their text: no tokenizer is loaded beside them. A
# store may have more prompts than memory holds, wanted row by row and by token ids, as its records
# have them. Writing takes hours, so what was written file by file must outlast a stop.

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jaxtyping import Float, Int

from causalcine_jax.data.latent_store import StoreRecord
from causalcine_jax.data.store_layout import new_context, open_array
from causalcine_jax.errors import DataError, UsageError, first_line
from causalcine_jax.film.record_schema import field_faults
from causalcine_jax.utils.atomic_file import write_json

FOLDER, SPEC_FILE, ROWS = "embeddings", "embeddings.json", "rows"
SCHEMA = "causalcine/store-embeddings@1"
DTYPES = ("bfloat16", "float32")
MOST_SIZE = 2**20  # of T and D
SHARD = 64  # rows per file: the most that an interruption costs


@dataclass(frozen=True)
class EmbeddingsSpec:
    """What a folder of embeddings holds.

    encoder_sha256  hash of the text encoder (film/embeddings.py)
    dtype           of the rows
    text_len, dim   T and D
    keys            of all rows, in their order
    """

    encoder_sha256: str
    dtype: str
    text_len: int
    dim: int
    keys: tuple[str, ...]
    schema: str = SCHEMA

    @property
    def shards(self) -> list[range]:
        """The rows of each file."""
        rows = len(self.keys)
        return [range(first, min(first + SHARD, rows)) for first in range(0, rows, SHARD)]


def key_of(ids: Int[np.ndarray, " t"]) -> str:
    """The key of a prompt's token ids; padding does not count."""
    told = np.trim_zeros(np.asarray(ids, np.int32), "b")
    return hashlib.sha256(told.astype("<i4").tobytes()).hexdigest()[:32]


def read_spec(folder: Path) -> EmbeddingsSpec | None:
    """The spec of the embeddings in `folder`; None if there are none that can be read."""
    try:
        fields = json.loads((folder / SPEC_FILE).read_text("utf-8"))
        if field_faults(EmbeddingsSpec, fields, SPEC_FILE):
            return None
        spec = EmbeddingsSpec(**{**fields, "keys": tuple(fields["keys"])})
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    sizes = 1 <= spec.text_len <= MOST_SIZE and 1 <= spec.dim <= MOST_SIZE
    return spec if spec.schema == SCHEMA and spec.dtype in DTYPES and sizes else None


def write_spec(folder: Path, spec: EmbeddingsSpec) -> None:
    write_json(folder / SPEC_FILE, dataclasses.asdict(spec))


def open_rows(folder: Path, spec: EmbeddingsSpec, *, create: bool = False) -> ts.TensorStore:
    """The array of all rows. A row is read alone, and its zeros take no room on the disk."""
    row = (spec.text_len, spec.dim)
    return open_array(
        folder / ROWS,
        (len(spec.keys), *row),
        spec.dtype,
        SHARD,
        row,
        compression=[{"name": "zstd", "configuration": {"level": 1}}],
        context=new_context(),
        create=create,
    ).result()


def missing_shards(folder: Path, spec: EmbeddingsSpec) -> list[range]:
    """The rows whose file is not there."""
    file = lambda shard: folder / ROWS / f"c/{shard.start // SHARD}/0/0"
    return [shard for shard in spec.shards if not file(shard).exists()]


class KnownPrompts:
    """Adds "text" and "null_text" to a record, looked up by its token ids: a grain random map.

    dtypes  of the embeddings on disk

    Args:
      stores: folders of the latent stores.
      encoder_sha256: hash of the text encoder that embeds the prompts otherwise.
      null_prompt: token ids [T] of the prompt whose embedding is "null_text".
      dtype: of what is added.
      command: embeds the prompts, for errors.

    Raises:
      UsageError: a store has no embeddings, or those of another text encoder or prompt.
    """

    def __init__(
        self,
        stores: Sequence[Path],
        encoder_sha256: str,
        null_prompt: Int[np.ndarray, " t"],
        dtype: str,
        command: str,
    ):
        self._command, self._dtype = command, jnp.dtype(dtype)
        self._places: dict[str, tuple[ts.TensorStore, int]] = {}
        self.dtypes: set[str] = set()
        for folder in (store / FOLDER for store in stores):
            spec = read_spec(folder)
            if spec is None:
                raise UsageError(f"{folder} holds no embeddings of prompts: run {command}")
            if spec.encoder_sha256 != encoder_sha256:
                raise UsageError(f"{folder} is of another text encoder: run {command}")
            rows = self._opened(folder, spec)
            self._places |= {key: (rows, row) for row, key in enumerate(spec.keys)}
            self._shape = (spec.text_len, spec.dim)
            self.dtypes.add(spec.dtype)
        self._null = self._rows(np.asarray(null_prompt)[None])[0]

    def __call__(self, record: StoreRecord, rng: np.random.Generator) -> StoreRecord:
        del rng  # every visit reads the same
        return record | {"text": self._rows(record["token_ids"]), "null_text": self._null}

    def _rows(self, prompts: Int[np.ndarray, "s t"]) -> Float[np.ndarray, "s t d"]:
        """The rows of prompts; zeros for an unused shot."""
        text = np.zeros((len(prompts), *self._shape), self._dtype)
        keys = {shot: key_of(ids) for shot, ids in enumerate(prompts) if ids.any()}
        if missing := [key for key in keys.values() if key not in self._places]:
            raise UsageError(f"a prompt has no embedding ({missing[0]}): run {self._command}")
        found = {shot: self._places[key] for shot, key in keys.items()}
        reads = {shot: rows[row].read() for shot, (rows, row) in found.items()}
        try:
            for shot, read in reads.items():
                text[shot] = np.asarray(read.result()).astype(self._dtype)
        except ValueError as error:  # all of tensorstore's errors
            raise self._damaged(error) from error
        return text

    def _opened(self, folder: Path, spec: EmbeddingsSpec) -> ts.TensorStore:
        try:
            return open_rows(folder, spec)
        except ValueError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> DataError:
        return DataError(
            f"embeddings of prompts cannot be read ({first_line(str(error))[:300]}): "
            f"delete {FOLDER}/ in the store, and run {self._command}"
        )
