"""A film's journal on disk, from which it resumes after a crash.

    FOLDER/journal.json          story, sampler, memory, pool and model of the film
    FOLDER/latents/000012.npy    the committed latents, one file per chunk
    FOLDER/start.npy             the latents of the film's start, if it has one

Files are written atomically. Chunks that a retake discards are removed.
"""

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.convert.formats import open_part
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError, raise_faults
from causalcine_jax.film.model_folder import Model, load_model
from causalcine_jax.film.record_schema import field_faults
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.story import Story
from causalcine_jax.utils.atomic_file import atomic_file
from causalcine_jax.utils.plain_data import read_plain

SCHEMA = "causalcine/journal@1"
FILE, LATENTS, START = "journal.json", "latents", "start.npy"
SAMPLED = 64  # values of each tensor that are hashed to identify a model's weights
SHOWN = 12  # digits of a hash: enough to tell two apart


class Journal:
    """Writes one film's folder. An OSError becomes a `DataError` that names the file."""

    def __init__(self, folder: str | Path, model: Model, start: Float[Array, "1 f h w z"] | None):
        self.folder = Path(folder)
        self._model = {"chunk_frames": model.chunk_frames, **_model_of(model)}
        if start is not None:
            self._save(self.folder / START, start)

    def tell(self, story: Story, settings: FilmSettings) -> None:
        """Writes what the film is made with from now on."""
        told = {
            "schema": SCHEMA,
            "story": story.to_dict(),
            "sampler": dataclasses.asdict(settings.sampler),
            "memory": dataclasses.asdict(settings.memory),
            "pool": dataclasses.asdict(settings.pool),
            **self._model,
        }
        with atomic_file(self.folder / FILE) as partial:
            partial.write_text(json.dumps(told, indent=2, ensure_ascii=False), encoding="utf-8")

    def add(self, chunk: int, latents: Float[np.ndarray, "1 c h w z"]) -> None:
        self._save(_of_chunk(self.folder, chunk), latents)

    def cut(self, chunk: int) -> None:
        """Removes that chunk and those after it."""
        for file in (self.folder / LATENTS).glob("*.npy"):
            if int(file.stem) >= chunk:
                file.unlink()

    @staticmethod
    def _save(path: Path, latents) -> None:
        with atomic_file(path) as partial, open(partial, "wb") as file:
            np.save(file, np.asarray(latents), allow_pickle=False)


@dataclasses.dataclass(frozen=True)
class Journalled:
    """The content of a journal: a film's first chunks, and everything that resumes it."""

    model: Model
    story: Story
    sampler: SamplerConfig
    memory: MemoryConfig
    pool: PoolConfig
    latents: tuple[Float[np.ndarray, "1 c h w z"], ...]
    start: Float[np.ndarray, "1 f h w z"] | None


def read_journal(folder: str | Path, model: Model | str | Path | None = None) -> Journalled:
    """The film of the journal in `folder`, up to its first missing or damaged chunk.

    model  replaces the folder that the film was begun with; must have the same weights

    Raises:
      DataError: there is no journal, or its model is missing.
      UsageError: the journal is faulty, or the model's weights differ.
    """
    folder = Path(folder)
    if not (folder / FILE).is_file():
        raise DataError(f"no film was begun in {folder}: it has no {FILE}")
    told = read_plain(folder / FILE)
    kinds = {"sampler": SamplerConfig, "memory": MemoryConfig, "pool": PoolConfig}
    what = str(folder / FILE)
    if not isinstance(told, dict) or told.get("schema") != SCHEMA:
        raise UsageError(f"{what} is no journal of a film: its schema is not {SCHEMA}")
    raise_faults(
        what,
        [
            fault
            for name, kind in kinds.items()
            for fault in field_faults(kind, told.get(name), name)
        ],
    )
    if model is None:
        if told.get("model") is None:
            raise UsageError(f"{what} names no model folder: name the model that goes on with it")
        model = told["model"]
    if not isinstance(model, Model):
        model = load_model(model, told.get("dtype"))
    model = dataclasses.replace(model, chunk_frames=told.get("chunk_frames", model.chunk_frames))
    found = _model_of(model)["weights"]
    if None not in (found, told.get("weights")) and found != told["weights"]:
        raise UsageError(
            f"the film in {folder} was begun with other weights "
            f"({told['weights']}, these are {found})"
        )
    start = _latents(folder / START)
    return Journalled(
        model,
        Story.from_dict(told["story"], what=what),
        *(kind(**told[name]) for name, kind in kinds.items()),
        tuple(_chunks(folder)),
        start,
    )


def weights_sample(folder: Path, part: str) -> str:
    """The beginning of a SHA-256 over a network's settings, tensor shapes and first values.

    It takes seconds; hashing the files of 14B takes a minute.
    """
    with open_part(folder, part) as tensors:
        told = json.dumps([tensors.settings, tensors.dtypes], sort_keys=True, default=str)
        digest = hashlib.sha256(told.encode())
        for key, shape in sorted(tensors.shapes.items()):
            corner = (*(slice(1) for _ in shape[:-1]), slice(SAMPLED))[: len(shape)]
            numbers = np.ascontiguousarray(tensors.read_slice(key, corner)).tobytes()
            digest.update(f"{key} {shape}".encode() + numbers)
    return digest.hexdigest()[:SHOWN]


def _model_of(model: Model) -> dict[str, Any]:
    """The model's folder, dtype and a sample of its transformer's weights.

    Folder and sample are None for a model without a folder.
    """
    sample = None if model.folder is None else weights_sample(model.folder, "transformer")
    folder = None if model.folder is None else str(model.folder)
    return {"model": folder, "dtype": model.dtype, "weights": sample}


def _of_chunk(folder: Path, chunk: int) -> Path:
    return folder / LATENTS / f"{chunk:06}.npy"


def _chunks(folder: Path):
    for chunk in itertools.count():
        latents = _latents(_of_chunk(folder, chunk))
        if latents is None:
            return
        yield latents


def _latents(file: Path) -> Float[np.ndarray, "1 f h w z"] | None:
    """The array in a file; None where it is missing or damaged."""
    try:
        return np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
