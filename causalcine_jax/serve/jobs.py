"""Films as jobs, without a director: /v1/videos, in the shapes of OpenAI's video API.

    POST {"prompt" or "story", "seconds", "size", "seed"} -> queued -> in_progress -> completed

A job is a session whose one client is the job itself. So it is admitted and takes turns as all
others do, and its film is a project's first take. A server that starts again goes on with the jobs
that it had.
"""

import asyncio
import contextlib
import json
import re
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from causalcine_jax.errors import DataError, UsageError, printable
from causalcine_jax.serve.admission import RETRY_S
from causalcine_jax.serve.client_messages import SessionStart
from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.export import take_files
from causalcine_jax.serve.outbox import Outbox
from causalcine_jax.serve.parts import Caption, FromClient, FromServer, Seed
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.server_messages import (
    OVER,
    Error,
    MediaChunk,
    SessionDone,
    SessionStarted,
    SessionState,
    SessionStatus,
)
from causalcine_jax.serve.session import Session
from causalcine_jax.story_schema import LONGEST_SHOT, SCHEMA
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.plain_data import read_plain

JOB_ID = re.compile(r"video_[0-9a-f]{32}")
SIZE = r"^[1-9]\d{0,4}x[1-9]\d{0,4}$"
DEFAULT_SECONDS = 4.0
FILM = Path("takes", "t1", "export", "film.mp4")


class NewVideo(FromClient):
    """The body of POST /v1/videos."""

    prompt: Caption | None = None
    """Of a film of one shot."""
    story: dict[str, Any] | None = None
    """A story (schema causalcine/story@1), in place of the prompt."""
    model: str | None = None
    """Must be this server's model, if given."""
    seconds: str | float | None = None
    """Of the prompt's shot; also as text, as OpenAI's clients send it."""
    size: str | None = Field(None, pattern=SIZE)
    """Width and height in pixels, such as 832x480."""
    seed: Seed | None = None

    @model_validator(mode="after")
    def one_film(self):
        if (self.prompt is None) == (self.story is None):
            raise ValueError("give a prompt or a story")
        if self.story is not None and (self.seconds is not None or self.size is not None):
            raise ValueError("seconds and size are part of the story")
        return self

    def as_story(self) -> dict[str, Any]:
        if self.story is not None:
            return self.story
        try:
            seconds = DEFAULT_SECONDS if self.seconds is None else float(self.seconds)
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= LONGEST_SHOT:
            told = f"seconds must be a number above 0 and at most {LONGEST_SHOT:g}"
            raise Refused("bad_message", told, "seconds")
        shot = {"caption": self.prompt, "seconds": seconds}
        video = {}
        if self.size is not None:
            video["width"], video["height"] = map(int, self.size.split("x"))
        return {"schema": SCHEMA, "shots": [shot], "video": video}


@dataclass
class Job:
    """A film that is made, or was; its fields but `folder` and `start` are those of the API.

    folder  of its project, within the desk's
    start   while it is not finished, fields of session.start: the story, then the resume token
    """

    id: str
    model: str
    created_at: int
    prompt: str
    object: str = "video"
    status: str = "queued"
    progress: int = 0
    completed_at: int | None = None
    error: dict[str, str] | None = None
    folder: str | None = None
    start: dict[str, Any] | None = None

    def as_video(self) -> dict[str, Any]:
        own = ("folder", "start")
        return {name: value for name, value in asdict(self).items() if name not in own}

    @property
    def open(self) -> bool:
        return self.status in ("queued", "in_progress")

    def end(self, status: str) -> None:
        self.status, self.start = status, None

    def fail(self, code: str, message: str) -> None:
        self.error = {"code": code, "message": message}
        self.end("failed")


class _Client(Outbox):
    """A session's only client, which notes how far the film is.

    token    opens the session again
    stopped  the server stops: the film is not whole, and goes on when it starts again
    """

    lasts = True

    def __init__(self, job: Job):
        super().__init__()
        self._job, self._chunks, self.done = job, 1, asyncio.Event()
        self.token: str | None = None
        self.stopped = False

    def put(self, message: FromServer, media: bytes | None = None) -> None:
        if isinstance(message, SessionStarted):
            self.token = message.resume_token
        elif isinstance(message, SessionState):
            self._see(message)
        elif isinstance(message, MediaChunk):
            self._job.progress = min(99, 100 * (message.chunk + 1) // self._chunks)
        elif isinstance(message, SessionDone):
            self.stopped = message.reason == "server"
            if not self.stopped:
                code = "failed" if message.reason == "failed" else "stopped"
                self._job.fail(code, message.message)
            self.done.set()
        elif isinstance(message, Error):  # a shot that cannot be filmed
            self._job.fail(message.code, message.message)
            self.done.set()
        elif isinstance(message, SessionStatus) and message.status in OVER:
            self.done.set()

    def _see(self, state: SessionState) -> None:
        """Counts the film's chunks. A film that was whole before a restart has no other status."""
        begun = sum(shot.asked_chunks for shot in state.shots)
        self._chunks = begun + sum(shot.chunks for shot in (state.beginning, *state.queue) if shot)
        if len(state.chunks) >= self._chunks:
            self.done.set()


class Jobs:
    """The jobs of a desk, found again after a restart; `go_on` films those that were open."""

    def __init__(self, desk: Desk, folder: str):
        self._desk, self._folder = desk, desk.projects / folder
        self._tasks: dict[str, asyncio.Task] = {}
        self.all: dict[str, Job] = {}
        for file in sorted(self._folder.glob("video_*.json")):
            with contextlib.suppress(Exception):
                job = Job(**read_plain(file))
                self.all[job.id] = job

    def go_on(self) -> None:
        """Films the jobs that a stop or a crash left open."""
        for job in self.all.values():
            if job.open:
                self._begin(job, again=True)

    def begin(self, asked: NewVideo) -> Job:
        """A new job. `Refused` if it cannot be made, or too many wait."""
        name = self._desk.resources.engine.info.name
        if asked.model not in (None, name):
            raise Refused("refused", f"this server's model is {name}, not {asked.model}", "model")
        if self._desk.admission.full:
            field = "prompt" if asked.story is None else "story"
            told = f"at most {self._desk.resources.limits.waiting} films wait"
            raise Refused("full", told, field, retryable=True, retry_after_s=RETRY_S)
        start = {"story": asked.as_story(), "seed": asked.seed}
        _, shots = self._desk.read_story(_start(start))  # faults are told at once
        job = Job(f"video_{secrets.token_hex(16)}", name, int(time.time()), shots[0].caption)
        job.start = start
        self._save(job)
        self.all[job.id] = job
        self._begin(job)
        return job

    def _begin(self, job: Job, again: bool = False) -> None:
        self._tasks[job.id] = asyncio.create_task(self._film(job, again))

    def known(self, job_id: str) -> Job:
        if JOB_ID.fullmatch(job_id) is None or job_id not in self.all:
            raise Refused("unknown_take", "there is no video of this id", "id")
        return self.all[job_id]

    def content(self, job_id: str) -> Path:
        """The film of a completed job."""
        job = self.known(job_id)
        if job.status != "completed" or job.folder is None:
            raise Refused("unknown_take", f"the video is {job.status}, not completed", "id")
        return self._desk.projects / job.folder / FILM

    async def delete(self, job_id: str) -> None:
        """Stops a job, and removes its film."""
        job = self.known(job_id)
        del self.all[job_id]  # first: another request must not delete it too
        if (task := self._tasks.pop(job_id, None)) is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):  # it is told in the job
                await task
        if job.folder is not None:
            folder = self._desk.projects / job.folder
            await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
        (self._folder / f"{job_id}.json").unlink(missing_ok=True)

    async def _film(self, job: Job, again: bool) -> None:
        session, client = None, _Client(job)
        try:
            session = await self._opened(job, client, again)
            job.status, job.folder = "in_progress", session.project.session_id
            job.start = {"resume_token": client.token}
            self._save(job)  # so that its film is found after a crash
            await client.done.wait()
            if job.open and not client.stopped:
                chunk_frames = session.model.latent_frames
                take = session.project.take_id
                files = take_files(session.project, take, session.head, chunk_frames)
                await asyncio.to_thread(files.write, FILM.name, {})
                job.progress, job.completed_at = 100, int(time.time())
                job.end("completed")
                self._save(job)  # before it can be seen: another server may start any time
        except Refused as refused:
            if not self._desk.admission.closed:  # else it is filmed when the server starts again
                job.fail(refused.error.code, refused.error.message)
        except (DataError, UsageError) as error:
            job.fail("failed", printable(str(error)))
        except Exception as error:
            job.fail("failed", type(error).__name__)
            raise
        finally:
            if session is not None:
                session.leave(client)
                if not session.stopping:  # else it keeps the reason that it has
                    session.stop("stopped")
                await session.done.wait()
            if job.id in self.all:
                self._save(job)

    async def _opened(self, job: Job, client: _Client, again: bool) -> Session:
        """Its session. One that is filmed again waits where the desk is full."""
        while True:
            try:
                return await self._desk.open(_start(job.start or {}), client)
            except Refused as refused:
                full = refused.error.code == "full" and not self._desk.admission.closed
                if not (again and full):
                    raise
            await asyncio.sleep(RETRY_S)

    def _save(self, job: Job) -> None:
        write_text(self._folder / f"{job.id}.json", json.dumps(asdict(job)))


def _start(fields: dict[str, Any]) -> SessionStart:
    return SessionStart(type="session.start", pace="free", **fields)
