"""A take of a session's tree, and its files: take.json, and chunks.jsonl with a line per chunk."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from pydantic import ValidationError

from causalcine_jax.errors import DataError
from causalcine_jax.film_folder.record import FramesHash
from causalcine_jax.serve.parts import ChunkInfo, QueuedShot
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.plain_data import read_plain


@dataclass
class Take:
    """A take of the tree.

    first_chunk  the first chunk that is its own
    own          its chunks from there on
    shots        those that have begun, as they were asked for, by id
    waiting      queued shots of it that had begun in the take that was opened instead
    digests      of its own chunks: the hash of the film's frames so far; None after a restart
    """

    take_id: str
    parent: str | None
    why: str
    shot_id: str | None
    first_chunk: int
    own: list[ChunkInfo] = field(default_factory=list)
    shots: dict[str, QueuedShot] = field(default_factory=dict)
    waiting: tuple[QueuedShot, ...] = ()
    digests: list[FramesHash | None] = field(default_factory=list)

    STORED: ClassVar = ("take_id", "parent", "why", "shot_id", "first_chunk")

    @classmethod
    def read(cls, folder: Path) -> "Take":
        kept = read_plain(folder / "take.json")
        take = cls(**{name: kept[name] for name in cls.STORED})
        take.own = list(_chunks(folder))
        take.digests = [None] * len(take.own)
        take.shots = {shot.shot_id: shot for shot in read_shots(kept["shots"])}
        take.waiting = read_shots(kept["waiting"])
        return take

    def save(self, folder: Path) -> None:
        """Writes take.json."""
        kept = {name: getattr(self, name) for name in self.STORED}
        kept["shots"] = [shot.model_dump() for shot in self.shots.values()]
        kept["waiting"] = [shot.model_dump() for shot in self.waiting]
        write_text(folder / "take.json", json.dumps(kept))

    @property
    def end(self) -> int:
        return self.first_chunk + len(self.own)


def read_shots(told: Iterable[Any]) -> tuple[QueuedShot, ...]:
    return tuple(QueuedShot.model_validate(each) for each in told)


def _chunks(folder: Path) -> Iterator[ChunkInfo]:
    """The chunks in chunks.jsonl, without a line that a crash left incomplete."""
    try:
        lines = (folder / "chunks.jsonl").read_text("utf-8").splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{folder / 'chunks.jsonl'} cannot be read: {error}") from error
    for line in lines:
        try:
            yield ChunkInfo.model_validate_json(line)
        except ValidationError:
            continue
