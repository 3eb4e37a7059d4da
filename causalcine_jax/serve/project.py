"""A session's folder: its takes as a tree, the media of their chunks, and what was still queued.

    FOLDER/session.json                 who may open it, the story's head, current take, queue
    FOLDER/header.mp4                   the mp4 header of all media
    FOLDER/takes/TAKE/take.json         parent, and the chunk where it leaves it
    FOLDER/takes/TAKE/chunks.jsonl      a line per chunk of its own
    FOLDER/takes/TAKE/media/000012.m4s  their media
    FOLDER/takes/TAKE/...               the director's journal of the whole take (Director.keep_in)

A chunk's media is written before its line, so every line has its media, also after a crash.
"""

import hashlib
import hmac
import json
import re
import secrets
from pathlib import Path
from typing import Any

from causalcine_jax.errors import disk_faults
from causalcine_jax.film_folder.record import FramesHash
from causalcine_jax.serve.parts import ChunkInfo, ModelInfo, QueuedShot, TakeInfo
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.server_messages import ShotChanged
from causalcine_jax.serve.session_file import is_session
from causalcine_jax.serve.shot_queue import longer
from causalcine_jax.serve.take import Take, read_shots
from causalcine_jax.story import Story
from causalcine_jax.utils.atomic_file import append_line, atomic_file, write_text
from causalcine_jax.utils.plain_data import read_plain

SCHEMA = "causalcine/desk@1"
SESSION_ID = re.compile(r"[0-9a-f]{32}")


class Project:
    """The folder's content, kept in step with it. Not for several threads."""

    def __init__(self, folder: Path, session_id: str, told: dict[str, Any]):
        self.folder, self.session_id, self._told = folder, session_id, told
        self.takes: dict[str, Take] = {}
        self.take_id: str = told["take"]
        self.queue = read_shots(told["queue"])
        self.beginning: QueuedShot | None = None

    @classmethod
    def create(cls, root: Path, story: Story, choices: dict[str, Any]) -> tuple["Project", str]:
        """A new folder under `root`, and the secret that opens it again.

        story    without shots
        choices  of the session: pace, on_empty
        """
        session_id, secret = secrets.token_hex(16), secrets.token_urlsafe(24)
        told = {
            "schema": SCHEMA,
            "secret_sha256": _hash(secret),
            "watch": secrets.token_urlsafe(24),
            "story": story.to_dict(),
            "choices": choices,
            "shots": 0,
            "take": "",
            "queue": [],
        }
        return cls(root / session_id, session_id, told), f"{session_id}-{secret}"

    @classmethod
    def open(cls, root: Path, token: str) -> "Project":
        """The project that the resume token opens. `Refused` if there is none."""
        session_id, _, secret = token.partition("-")
        folder = root / session_id
        known = SESSION_ID.fullmatch(session_id) and (folder / "session.json").is_file()
        told = read_plain(folder / "session.json") if known else None
        if not is_session(told) or not hmac.compare_digest(told["secret_sha256"], _hash(secret)):
            raise Refused("bad_token", "no session has this resume token", "resume_token")
        project = cls(folder, session_id, told)
        for file in sorted(folder.glob("takes/*/take.json")):
            take = Take.read(file.parent)
            project.takes[take.take_id] = take
        return project

    def begin_shot(self) -> QueuedShot:
        """Takes the first shot from the queue; `save` keeps it in the file until it has a chunk."""
        self.beginning, *rest = self.queue
        self.queue = tuple(rest)
        self.ask(self.beginning)
        return self.beginning

    def opened_by(self, token: str) -> bool:
        secret = token.partition("-")[2]
        return hmac.compare_digest(self._told["secret_sha256"], _hash(secret))

    @property
    def watch_token(self) -> str:
        return f"{self.session_id}-{self._told['watch']}"

    @property
    def choices(self) -> dict[str, Any]:
        return self._told["choices"]

    @property
    def story(self) -> Story:
        """What holds for all takes: the global caption, seed, negative prompt and size."""
        return Story.from_dict(self._told["story"], fewest_shots=0)

    @property
    def take(self) -> Take:
        return self.takes[self.take_id]

    def new_shot_id(self) -> str:
        self._told["shots"] += 1
        return f"s{self._told['shots']}"

    def ask(self, shot: QueuedShot) -> None:
        """The current take's shot is to be like this."""
        self.take.shots[shot.shot_id] = shot
        self.save_take()

    def resize(self, shot_id: str, chunks: int, model: ModelInfo) -> ShotChanged:
        """The current take's shot is to have that length; returns what clients are told."""
        shot = longer(self.take.shots[shot_id], chunks, model)
        if self.beginning and self.beginning.shot_id == shot_id:
            self.beginning = shot
        self.ask(shot)
        return ShotChanged(shot_id=shot_id, take_id=self.take_id, asked_chunks=chunks)

    def save(self) -> None:
        """Writes session.json."""
        self._told |= {
            "take": self.take_id,
            "queue": [shot.model_dump() for shot in (self.beginning, *self.queue) if shot],
        }
        write_text(self.folder / "session.json", json.dumps(self._told, ensure_ascii=False))

    def new_take_id(self) -> str:
        """An id whose folder is new; a crash may leave the folder of a take that never began."""
        number = len(self.takes) + 1
        while self.folder_of(f"t{number}").exists():
            number += 1
        return f"t{number}"

    def begin_take(
        self, take_id: str, why: str, first_chunk: int = 0, shot_id: str | None = None
    ) -> Take:
        """A new take that leaves the current one before `first_chunk`; it becomes the current."""
        parent = self.take_id or None
        kept = {chunk.shot_id for chunk in self.line(parent)[:first_chunk]} if parent else ()
        shots = {id: shot for id, shot in self.take.shots.items() if id in kept} if kept else {}
        take = Take(take_id, parent, why, shot_id, first_chunk, shots=shots)
        self.takes[take.take_id], self.take_id = take, take.take_id
        self.save_take()
        self.save()
        return take

    def give_digests(self, take_id: str, digests: list[FramesHash]) -> None:
        """The digests of a take's chunks, from the film's beginning."""
        take: Take | None = self.takes[take_id]
        while take is not None:
            known = digests[take.first_chunk : take.end]
            take.digests[: len(known)] = known
            digests = digests[: take.first_chunk]
            take = self.takes[take.parent] if take.parent else None

    def save_take(self) -> None:
        """Writes the current take's take.json."""
        self.take.save(self.folder_of(self.take_id))

    def folder_of(self, take_id: str) -> Path:
        return self.folder / "takes" / take_id

    @property
    def kept(self) -> Path | None:
        """The folder of the current take; None before there is one."""
        return self.folder_of(self.take_id) if self.take_id else None

    @property
    def header(self) -> Path:
        return self.folder / "header.mp4"

    def line(self, take_id: str) -> list[ChunkInfo]:
        """All chunks of a take, from the film's beginning."""
        take = self.known(take_id)
        before = self.line(take.parent)[: take.first_chunk] if take.parent else []
        return [*before, *take.own]

    def media(self, take_id: str, chunk: int) -> Path:
        """The file of a chunk's media. `Refused` if the take has no such chunk."""
        take = self.known(take_id)
        while chunk < take.first_chunk and take.parent:
            take = self.takes[take.parent]
        if not take.first_chunk <= chunk < take.end:
            raise Refused("unknown_take", f"{take_id} has no chunk {chunk}", "chunk")
        return _media(self.folder_of(take.take_id), chunk)

    def digest(self, take_id: str, chunks: int) -> FramesHash | None:
        """SHA-256 of the frames of a take's first chunks; None where a restart lost it."""
        take = self.known(take_id)
        if chunks == 0:
            return FramesHash()
        if take.parent is not None and chunks <= take.first_chunk:
            return self.digest(take.parent, chunks)
        return take.digests[chunks - take.first_chunk - 1]

    def add_chunk(
        self, info: ChunkInfo, header: bytes, media: bytes, digest: FramesHash | None
    ) -> None:
        """Keeps a chunk of the take that `info` names."""
        folder = self.folder_of(info.take_id)
        lines = folder / "chunks.jsonl"
        if info.chunk == 0 and not self.header.is_file():
            _write(self.header, header)
        _write(_media(folder, info.chunk), media)
        with disk_faults(f"cannot write {lines}"):
            append_line(lines, info.model_dump_json().encode())
        self.takes[info.take_id].own.append(info)
        self.takes[info.take_id].digests.append(digest)
        if self.beginning and self.beginning.shot_id == info.shot_id:
            self.beginning = None
            self.save()

    def known(self, take_id: str) -> Take:
        if take_id not in self.takes:
            known = ", ".join(self.takes)
            raise Refused("unknown_take", f"there is no take {take_id}: {known}", "take_id")
        return self.takes[take_id]

    def infos(self) -> tuple[TakeInfo, ...]:
        return tuple(map(self.info, self.takes))

    def info(self, take_id: str) -> TakeInfo:
        take, line = self.takes[take_id], self.line(take_id)
        seconds = line[-1].time_s + line[-1].seconds if line else 0.0
        told = {name: getattr(take, name) for name in Take.STORED}
        return TakeInfo(**told, chunks=len(line), seconds=seconds)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _media(folder: Path, chunk: int) -> Path:
    return folder / "media" / f"{chunk:06}.m4s"


def _write(path: Path, data: bytes) -> None:
    with atomic_file(path) as partial:
        partial.write_bytes(data)
