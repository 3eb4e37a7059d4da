"""All sessions of a server: opened, found again by their tokens, watched, and ended."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.serve import shot_queue
from causalcine_jax.serve.admission import RETRY_S, Admission
from causalcine_jax.serve.client_messages import SessionStart
from causalcine_jax.serve.engine import Engine, FilmDirector
from causalcine_jax.serve.limits import SessionLimits
from causalcine_jax.serve.metrics import Metrics
from causalcine_jax.serve.outbox import Outbox
from causalcine_jax.serve.parts import MOST_SHOTS, NewShot
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.rate import ClientRates
from causalcine_jax.serve.reopen import go_to_take, reopened
from causalcine_jax.serve.resources import DeskResources
from causalcine_jax.serve.server_messages import SessionDone, SessionStarted
from causalcine_jax.serve.session import Session
from causalcine_jax.serve.worker import Worker
from causalcine_jax.story import Story
from causalcine_jax.story_schema import MAX_SEED
from causalcine_jax.utils.output import one_writer

STOPS = "the server stops: the resume token opens this film again"
log = logging.getLogger("causalcine.desk")


class Desk:
    """The sessions of one engine, whose films are in folders under `projects`."""

    def __init__(self, engine: Engine, projects: Path, limits: SessionLimits = SessionLimits()):
        encoders = ThreadPoolExecutor(2, "encoder")
        self.resources = DeskResources(
            engine, Worker(engine.device_context), encoders, limits, Metrics()
        )
        self.projects = Path(projects)
        self.sessions: dict[str, Session] = {}
        self.admission = Admission(engine, limits)
        self.requests = ClientRates(limits.rate)
        self.ready = False
        self._tasks: set[asyncio.Task] = set()
        self._opening: set[str] = set()  # ids of sessions that are being opened from their folders

    async def warm_up(self) -> None:
        """Prepares the engine; sessions that open meanwhile wait for it."""
        try:
            await self.resources.worker.turn("the engine", self.resources.engine.warm_up)
            self.ready = True
        except Exception:
            log.exception("the model could not film a first chunk")
        self.resources.worker.leave("the engine")

    async def drain(self) -> None:
        """Admits nobody more, and ends all sessions after their current chunk; films are kept."""
        self.admission.close()
        for session in self.sessions.values():
            session.stop("server", STOPS)
        while self.admission.open:  # sessions that are being opened end too
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """`drain`, and the device's thread ends."""
        await self.drain()
        await asyncio.to_thread(self.resources.worker.close)
        self.resources.encoders.shutdown()

    async def open(self, start: SessionStart, client: Outbox) -> Session:
        """The session that a client asks for: a new one, a live one, or one kept in its folder.

        Waits until it is admitted, and tells the client its position. `Refused` says why not.
        """
        shots: tuple[NewShot, ...] = ()
        if start.resume_token is not None:
            live = self.sessions.get(start.resume_token.partition("-")[0])
            if live is not None and live.project.opened_by(start.resume_token):
                if not live.stopping:
                    return self._take_over(live, start, client)
                await live.done.wait()  # then it is opened from its folder
                await asyncio.sleep(0)  # after `_forget`
            project, token = Project.open(self.projects, start.resume_token), start.resume_token
            resumed = True
        else:
            story, shots = self.read_story(start)
            choices = {"pace": "playback", "on_empty": "wait", **start.choices}
            project, token = Project.create(self.projects, story, choices)
            resumed = False
        if project.session_id in self._opening:
            raise Refused(
                "refused",
                "this session is being opened by another client",
                "resume_token",
                retryable=True,
            )
        self._opening.add(project.session_id)
        try:
            with contextlib.ExitStack() as held:
                held.enter_context(_the_only_server(project))
                if resumed:  # again: another server may have filmed on before it gave it up
                    project = Project.open(self.projects, token)
                    project.choices.update(start.choices)
                key = await self.admission.admitted(project.story, client.put, project.kept)
                session = await self._admit(project, resumed, key, held)
        finally:
            self._opening.discard(project.session_id)
        try:
            for shot in shots:
                new = shot_queue.queued(project.new_shot_id(), shot, session.model)
                project.queue = shot_queue.with_shot(project.queue, new)
            project.save()
        except BaseException as error:  # it never runs, so it is ended here
            session.ended = SessionDone(reason="failed", message=str(error))
            await session.close_director()
            session.done.set()
            raise
        client.put(self.started(session, start.event_id, token, resumed))
        session.join(client, directs=True)
        session.start()
        return session

    async def _admit(
        self, project: Project, resumed: bool, key: object, held: contextlib.ExitStack
    ) -> Session:
        """Opens the session in the room that `key` reserves and with what is `held`, to its end."""
        try:
            session = await self._opened(project, resumed, self.admission.reserved(key))
        except (UsageError, DataError) as error:
            self.admission.release(key)
            field, again = "resume_token" if resumed else "story", isinstance(error, DataError)
            raise Refused("refused", str(error), field, retryable=again) from None
        except BaseException:
            self.admission.release(key)
            raise
        self.sessions[project.session_id] = session
        if self.admission.closed:
            session.stop("server", STOPS)
        task = asyncio.create_task(self._forget(session, key, held.pop_all()))
        self._tasks.add(task)  # the loop itself keeps no strong reference
        task.add_done_callback(self._tasks.discard)
        return session

    def watch(self, watch_token: str, event_id: str | None, client: Outbox) -> Session:
        """The live session that the token lets others watch. `Refused` if there is none."""
        session = self.sessions.get(watch_token.partition("-")[0])
        if session is None or not secrets.compare_digest(
            session.project.watch_token.encode(), watch_token.encode()
        ):
            raise Refused("bad_token", "no session is open that this token watches", "watch_token")
        if len(session.viewers) >= self.resources.limits.viewers:
            most = self.resources.limits.viewers
            told = f"at most {most} viewers watch a film"
            raise Refused("full", told, "watch_token", retryable=True, retry_after_s=RETRY_S)
        client.put(self.started(session, event_id, None, resumed=True))
        session.join(client, directs=False)
        return session

    def measured(self) -> bytes:
        """What Prometheus reads."""
        metrics = self.resources.metrics
        metrics.sessions.set(len(self.sessions))
        metrics.waiting.set(self.admission.waiting)
        metrics.turns.set(self.resources.worker.waiting)
        metrics.reserved.set(self.admission.bytes)
        return metrics.text()

    def session(self, session_id: str) -> Session:
        """A live session. `Refused` if there is none."""
        if session_id not in self.sessions:
            raise Refused("not_started", "no session of this id is open", "session_id")
        return self.sessions[session_id]

    def started(
        self, session: Session, event_id: str | None, token: str | None, resumed: bool
    ) -> SessionStarted:
        project, limits = session.project, self.resources.limits
        return SessionStarted(
            event_id=event_id,
            session_id=project.session_id,
            resume_token=token,
            watch_token=project.watch_token,
            directs=token is not None,
            resumed=resumed,
            seed=project.story.seed,
            model=session.model,
            limits=limits.as_message(session.history_bytes),
            **project.choices,
        )

    # --- opening ---

    def read_story(self, start: SessionStart) -> tuple[Story, tuple[NewShot, ...]]:
        """The story's head, and its shots. `Refused` for whatever is wrong with them."""
        engine, field = self.resources.engine, "story" if start.story is not None else "record"
        told = start.story if start.record is None else start.record.get("story")
        try:
            if start.story is None and start.record is None:
                story, field = Story((), start.global_caption), "global_caption"
            else:
                check_shots(told, field)
                story = Story.from_dict(told, what=field)
            seed = start.seed if start.seed is not None else story.seed
            if start.seed is None and told is None:
                seed = secrets.randbelow(MAX_SEED + 1)
            head = replace(story, shots=(), seed=seed)
            resolved = story.resolve(engine.info.latent_frames).shots
            engine.check([(f"shot {shot.id}", shot.prompt) for shot in resolved], story)
            if (seconds := sum(shot.seconds for shot in resolved)) > self.resources.limits.film_s:
                most = self.resources.limits.film_s
                raise UsageError(f"{field}: {seconds:g} s, and a film has at most {most:g} s")
            shots = tuple(
                NewShot(caption=of.caption, chunks=of.chunks, seed=shot.seed)
                for shot, of in zip(story.shots, resolved)
            )
        except ValueError as error:  # pydantic's and UsageError
            raise Refused("refused", str(error), field) from None
        return head, shots

    async def _opened(self, project: Project, resumed: bool, history_bytes: int) -> Session:
        if resumed:
            director = await reopened(self.resources, project, project.take_id)
            go_to_take(project, project.take_id, director)
            return Session(self.resources, project, director, history_bytes)
        take_id, story = project.new_take_id(), project.story
        engine, folder = self.resources.engine, project.folder_of(take_id)

        def begin() -> FilmDirector:
            director = engine.begin(story)
            director.keep_in(folder)
            return director

        director = await self.resources.worker.turn(project.session_id, begin)
        project.begin_take(take_id, "start")
        return Session(self.resources, project, director, history_bytes)

    def _take_over(self, session: Session, start: SessionStart, client: Outbox) -> Session:
        if (before := session.directing) is not None:
            before.put(SessionDone(reason="replaced", message="another client directs this film"))
            before.close()
        session.project.choices.update(start.choices)
        session.project.save()
        client.put(self.started(session, start.event_id, start.resume_token, resumed=True))
        session.join(client, directs=True)
        return session

    async def _forget(self, session: Session, key: object, held: contextlib.ExitStack) -> None:
        await session.done.wait()
        self.sessions.pop(session.project.session_id, None)
        held.close()
        self.resources.metrics.ended.labels(session.ended.reason).inc()
        self.admission.release(key)


def check_shots(told: Any, what: str = "story") -> None:
    """`UsageError` if a story in plain data has too many shots; before the work that each costs."""
    shots = told.get("shots") if isinstance(told, dict) else None
    if isinstance(shots, list) and len(shots) > MOST_SHOTS:
        raise UsageError(f"{what}: at most {MOST_SHOTS} shots, not {len(shots)}")


@contextlib.contextmanager
def _the_only_server(project: Project) -> Iterator[None]:
    """Holds a session's folder. `Refused` while another server that shares the disk has it open."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(one_writer(project.folder))
        except (UsageError, DataError) as error:
            log.warning("%s", error)  # it names folders, which are not for clients
            told = "another server has this film open, or its folder cannot be written"
            raise Refused(
                "full", told, "resume_token", retryable=True, retry_after_s=RETRY_S
            ) from None
        yield
