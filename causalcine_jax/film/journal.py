"""A film's journal on disk, from which it resumes after a crash.

    FOLDER/journal.json          story, sampler, memory, pool and model of the film
    FOLDER/latents/000012.npz    a chunk's committed latents, and what memory retrieved for it
    FOLDER/start.npy             the latents of the film's start, if it has one

Every file is written atomically, in an order that leaves a film that can resume at any moment.
"""

import contextlib
import dataclasses
import json
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from causalcine_jax.config import MemoryConfig, PoolConfig
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError, disk_faults, raise_faults
from causalcine_jax.film import journal_files as files
from causalcine_jax.film.chosen_model import EMBEDDED, STUDENT
from causalcine_jax.film.kept_film import KeptChunk
from causalcine_jax.film.model_folder import Model, latent_size, load_model
from causalcine_jax.film.record_schema import field_faults
from causalcine_jax.film.settings import FilmSettings
from causalcine_jax.film.weights_sample import TEXT, OtherWeights, loaded_sample
from causalcine_jax.parallel.processes import by_all, by_first, is_first
from causalcine_jax.story import Story
from causalcine_jax.utils.atomic_file import atomic_file, remove_partials, write_text
from causalcine_jax.utils.output import one_writer
from causalcine_jax.utils.plain_data import read_plain

SCHEMA = "causalcine/journal@1"
KINDS = {"sampler": SamplerConfig, "memory": MemoryConfig, "pool": PoolConfig}
NEEDED = ("story", *KINDS, "model", "dtype", "chunk_frames", "weights", "start", "pool_asked")
INSTALLED = {folder.name: folder for folder in (EMBEDDED, STUDENT)}


class Journal:
    """Keeps the folder of one film as the film is. Of several processes, the first one writes.

    The folder is locked until `close`, or until this journal or its process ends.
    """

    def __init__(self, folder: str | Path):
        """Locks the folder, and makes it where it is missing. `UsageError` if another holds it."""
        self.folder = Path(folder).resolve()
        self._model: dict[str, Any] = {}
        # The text of journal.json; the chunks surely kept; the end of those that may be there.
        self._written, self._kept, self._end = "", sys.maxsize, sys.maxsize
        self._chunks: tuple[KeptChunk, ...] = ()  # the content of the files, as far as it is known
        self._writing = threading.Lock()
        self._held = contextlib.ExitStack()
        weakref.finalize(self, self._held.close)  # a director that nobody holds frees its folder
        by_first(lambda: self._held.enter_context(one_writer(self.folder)))
        by_first(lambda: remove_partials(self.folder / files.LATENTS))

    @classmethod
    def new(cls, folder: str | Path, model: Model, start, pool_asked: bool) -> "Journal":
        """The journal of a film that is not kept yet. `UsageError` if the folder holds another.

        pool_asked  whether the user chose the pool's size
        """
        journal = cls(folder)
        try:
            by_first(journal._check_empty)
            journal._kept = journal._end = 0
            journal._begin(model, start, pool_asked)
        except BaseException:
            journal.close()
            raise
        return journal

    def _check_empty(self) -> None:
        kept = [self.folder / files.FILE, *files.chunk_files(self.folder)]
        if found := [file for file in kept if file.exists()]:
            raise UsageError(
                f"{self.folder} holds another film ({found[0].name}): go on with that one by "
                "Director.resume, or give this film a folder of its own"
            )

    def _begin(self, model: Model, start, pool_asked: bool) -> None:
        weights, name = loaded_sample(model), None
        if model.folder is not None:
            folder = model.folder.resolve()
            name = next((n for n, own in INSTALLED.items() if own == folder), str(folder))
        self._model = {
            "model": name,
            "dtype": model.dtype,
            "chunk_frames": model.chunk_frames,
            "weights": weights,
            "start": None if start is None else files.digest_of(start),
            "pool_asked": pool_asked,
        }
        if start is not None:
            save = lambda file: np.save(file, start, allow_pickle=False)
            by_first(lambda: self._save(self.folder / files.START, save))

    def abandon(self) -> None:
        """Removes what a journal that could not be begun has written, and frees the folder."""
        with contextlib.suppress(OSError):
            if is_first():
                files.erase(self.folder)
        self.close()

    def close(self) -> None:
        """Frees the folder. Nothing is written from now on."""
        self._chunks = ()
        self._held.close()

    def write(
        self,
        story: Story,
        settings: FilmSettings,
        chunks: tuple[KeptChunk, ...],
        earlier: "Journal | None" = None,
    ) -> None:
        """Brings the folder to the state of the film; what is there already is not written again.

        A failed write can be repeated. `DataError` in all processes if it fails.

        earlier  of the film that this one branches from: files of chunks that both have are shared
        """
        with self._writing:
            by_first(lambda: self._write(story, settings, chunks, earlier))

    def _write(
        self,
        story: Story,
        settings: FilmSettings,
        chunks: tuple[KeptChunk, ...],
        earlier: "Journal | None",
    ) -> None:
        # First what is gone, or a crash could leave old chunks behind new ones.
        if len(chunks) < self._end:
            self._truncate(len(chunks))
        fields = {
            "schema": SCHEMA,
            "story": story.to_dict(),
            **{name: dataclasses.asdict(getattr(settings, name)) for name in KINDS},
            **self._model,
        }
        text = json.dumps(fields, indent=2)  # ASCII, because paths may hold any bytes
        if text != self._written:
            self._written = ""  # unknown, if this is stopped half-way
            write_text(self.folder / files.FILE, text)
            self._written = text
        for number in range(self._kept, len(chunks)):
            kept, self._end = chunks[number], max(self._end, number + 1)
            file = files.chunk_file(self.folder, number)
            if earlier is None or not earlier._shared(number, kept, file):
                self._save(file, lambda file, kept=kept: np.savez(file, **vars(kept)))
            self._kept = number + 1
        self._chunks = chunks

    def _shared(self, number: int, chunk: KeptChunk, other: Path) -> bool:
        """Makes `other` a second name of that chunk's file here, if the file has this content."""
        with self._writing:
            same = number < len(self._chunks) and self._chunks[number] is chunk
            return same and files.linked(files.chunk_file(self.folder, number), other)

    def _truncate(self, chunk: int) -> None:
        """Removes that chunk and those after it, the earliest first."""
        self._chunks = self._chunks[:chunk]
        self._kept = min(self._kept, chunk)  # if this fails, the removed ones are written again
        for file in sorted(files.chunk_files(self.folder), key=lambda file: int(file.stem)):
            if int(file.stem) >= chunk:
                with disk_faults(f"cannot remove {file}"):
                    file.unlink(missing_ok=True)
        self._end = chunk

    @staticmethod
    def _save(path: Path, save) -> None:
        with atomic_file(path) as partial, open(partial, "wb") as file:
            save(file)

    def read(self, model: Model | str | Path | None = None) -> "Journalled":
        """The folder's film, up to its first missing or damaged chunk.

        model  replaces the folder that the film was begun with; must have the same weights

        Raises:
          DataError: there is no journal, its start is damaged, or its model is missing.
          UsageError: the journal is faulty, or the model's weights differ.
        """
        fields = by_all(lambda: _fields(self.folder))
        if model is None:
            if fields["model"] is None:
                raise UsageError(
                    f"{self.folder / files.FILE} names no model folder: name the model that goes "
                    "on with the film"
                )
            model = INSTALLED.get(fields["model"], fields["model"])
        if not isinstance(model, Model):
            model = load_model(model, fields["dtype"])
        model = dataclasses.replace(model, chunk_frames=fields["chunk_frames"])
        _check_weights(self.folder, fields["weights"], loaded_sample(model))
        self._model = {
            name: fields[name] for name in fields if name not in ("schema", "story", *KINDS)
        }
        story = Story.from_dict(fields["story"], what=str(self.folder / files.FILE), fewest_shots=0)
        model = dataclasses.replace(model, negative=story.negative)  # the one that was used
        story = model.completed(story)
        size = latent_size(model, *story.video.size)
        shape = (1, model.chunk_frames, *size, model.transformer.config.in_dim)
        layers = model.transformer.config.num_layers
        sampler, memory, pool = (kind(**fields[name]) for name, kind in KINDS.items())
        return Journalled(
            model,
            story,
            sampler,
            memory,
            pool,
            fields["pool_asked"],
            by_all(lambda: tuple(files.read_chunks(self.folder, shape, layers))),
            by_all(lambda: files.read_start(self.folder, fields["start"])),
        )


@dataclasses.dataclass(frozen=True)
class Journalled:
    """The content of a journal: a film's first chunks, and everything that resumes it.

    pool_asked  whether the user chose the pool's size
    """

    model: Model
    story: Story
    sampler: SamplerConfig
    memory: MemoryConfig
    pool: PoolConfig
    pool_asked: bool
    chunks: tuple[KeptChunk, ...]
    start: Float[np.ndarray, "1 f h w z"] | None


def kept_pool(folder: Path) -> PoolConfig:
    """The pool of the film that is kept in `folder`. `DataError` or `UsageError` as `_fields`."""
    return PoolConfig(**_fields(folder)["pool"])


def _fields(folder: Path) -> dict[str, Any]:
    """The content of journal.json, its fields checked."""
    what = str(folder / files.FILE)
    if not (folder / files.FILE).is_file():
        raise DataError(f"no film was begun in {folder}: it has no {files.FILE}")
    fields = read_plain(folder / files.FILE)
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise UsageError(f"{what} is no journal of a film: its schema is not {SCHEMA}")
    raise_faults(what, [f"{name} is missing" for name in NEEDED if name not in fields])
    faults = [
        fault for name, kind in KINDS.items() for fault in field_faults(kind, fields[name], name)
    ]
    for name in ("model", "dtype", "start"):
        if not isinstance(fields[name], str | None):
            faults.append(f"{name} must be text or nothing")
    if not isinstance(fields["pool_asked"], bool):
        faults.append("pool_asked must be true or false")
    if not isinstance(fields["weights"], dict):
        faults.append("weights must be a mapping")
    if type(fields["chunk_frames"]) is not int or fields["chunk_frames"] < 1:
        faults.append("chunk_frames must be a whole number from 1")
    raise_faults(what, faults)
    return fields


def _check_weights(folder: Path, begun: dict[str, str], found: dict[str, str]) -> None:
    """`OtherWeights` unless the networks are those that the film was begun with.

    The text encoder may be missing, because prompts can also come from a file of embeddings.
    """
    compared = (begun.keys() | found.keys()) - ({TEXT} - (begun.keys() & found.keys()))
    if other := sorted(name for name in compared if begun.get(name) != found.get(name)):
        raise OtherWeights(
            f"the film in {folder} was begun with another {', '.join(other)}: load the model as "
            "before (dtype, lora, tiny_decoder) and give it to resume"
        )
