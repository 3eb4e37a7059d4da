"""All sessions of a server: who is admitted, who waits, who is found again.

A session is admitted when there are fewer than `limits.sessions` and its history fits into the room
that the engine has for all of them. Those who wait are admitted in the order they came.
"""

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.serve import shot_queue
from causalcine_jax.serve.client_messages import SessionStart
from causalcine_jax.serve.engine import Engine, FilmDirector
from causalcine_jax.serve.house import House
from causalcine_jax.serve.limits import SessionLimits
from causalcine_jax.serve.metrics import Metrics
from causalcine_jax.serve.outbox import Outbox
from causalcine_jax.serve.parts import MOST_SHOTS, NewShot
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.reopen import reopened
from causalcine_jax.serve.server_messages import SessionDone, SessionQueued, SessionStarted
from causalcine_jax.serve.session import Session
from causalcine_jax.serve.worker import Worker
from causalcine_jax.story import Story
from causalcine_jax.story_schema import MAX_SEED

RETRY_S = 30.0
log = logging.getLogger("causalcine.desk")


@dataclass(eq=False)
class _Waiting:
    bytes: int
    tell: Callable[[SessionQueued], None]
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class Desk:
    """The sessions of one engine, whose films are in folders under `projects`."""

    def __init__(self, engine: Engine, projects: Path, limits: SessionLimits = SessionLimits()):
        encoders = ThreadPoolExecutor(2, "encoder")
        self.house = House(engine, Worker(engine.held), encoders, limits, Metrics())
        self.projects = Path(projects)
        self.sessions: dict[str, Session] = {}
        self._reserved: dict[object, int] = {}  # bytes, by session that is open or opening
        self._waiting: list[_Waiting] = []
        self.ready = False
        self._tasks: set[asyncio.Task] = set()
        self._opening: set[str] = set()  # ids of sessions that are being opened from their folders

    async def warm_up(self) -> None:
        """Prepares the engine; sessions that open meanwhile wait for it."""
        try:
            await self.house.worker.turn("the engine", self.house.engine.warm_up)
            self.ready = True
        except Exception:
            log.exception("the model could not film a first chunk")
        self.house.worker.leave("the engine")

    async def close(self) -> None:
        """Ends all sessions after their current chunk; their films are kept."""
        for session in list(self.sessions.values()):
            session.stop("server", "the server stops: the resume token opens this film again")
        for session in list(self.sessions.values()):
            await session.done.wait()
        await asyncio.to_thread(self.house.worker.close)
        self.house.encoders.shutdown()

    async def open(self, start: SessionStart, client: Outbox) -> Session:
        """The session that a client asks for: a new one, a live one, or one kept in its folder.

        Waits until it is admitted, and tells the client its position. `Refused` says why not.
        """
        shots: tuple[NewShot, ...] = ()
        if start.resume_token is not None:
            live = self.sessions.get(start.resume_token.partition("-")[0])
            if live is not None and live.project.opened_by(start.resume_token):
                return self._take_over(live, start, client)
            project, token = Project.open(self.projects, start.resume_token), start.resume_token
            story, resumed = project.story, True
        else:
            story, shots = self.read_story(start)
            choices = {"pace": start.pace, "on_empty": start.on_empty}
            project, token = Project.create(self.projects, story, choices)
            resumed = False
        if project.session_id in self._opening:
            raise Refused(
                "refused", "this session is being opened by another client", "resume_token"
            )
        self._opening.add(project.session_id)
        try:
            key = await self._admitted(story, client)
            session = await self._admit(project, story, resumed, key)
        finally:
            self._opening.discard(project.session_id)
        for shot in shots:
            new = shot_queue.queued(project.new_shot_id(), shot, session.model)
            project.queue = shot_queue.with_shot(project.queue, new)
        project.save()
        client.put(self.started(session, start.event_id, token, resumed))
        session.join(client, directs=True)
        session.start()
        return session

    async def _admit(self, project: Project, story: Story, resumed: bool, key: object) -> Session:
        """Opens the session in the room that `key` reserves, until it ends."""
        try:
            session = await self._opened(project, story, resumed)
        except (UsageError, DataError) as error:
            self._release(key)
            raise Refused("refused", str(error), retryable=isinstance(error, DataError)) from None
        except BaseException:
            self._release(key)
            raise
        self.sessions[project.session_id] = session
        task = asyncio.create_task(self._forget(session, key))
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
        if len(session.viewers) >= self.house.limits.viewers:
            most = self.house.limits.viewers
            raise Refused(
                "full", f"{most} viewers watch already", retryable=True, retry_after_s=RETRY_S
            )
        client.put(self.started(session, event_id, None, resumed=True))
        session.join(client, directs=False)
        return session

    @property
    def full(self) -> bool:
        """Whoever comes now is refused."""
        return len(self._waiting) >= self.house.limits.waiting

    def measured(self) -> bytes:
        """What Prometheus reads."""
        metrics = self.house.metrics
        metrics.sessions.set(len(self.sessions))
        metrics.waiting.set(len(self._waiting))
        metrics.turns.set(self.house.worker.waiting)
        metrics.reserved.set(sum(self._reserved.values()))
        return metrics.text()

    def session(self, session_id: str) -> Session:
        """A live session. `Refused` if there is none."""
        if session_id not in self.sessions:
            raise Refused("not_started", "no session of this id is open", "session_id")
        return self.sessions[session_id]

    def started(
        self, session: Session, event_id: str | None, token: str | None, resumed: bool
    ) -> SessionStarted:
        project, limits = session.project, self.house.limits
        return SessionStarted(
            event_id=event_id,
            session_id=project.session_id,
            resume_token=token,
            watch_token=project.watch_token,
            directs=token is not None,
            resumed=resumed,
            seed=project.story.seed,
            model=session.model,
            limits=limits.told(self.house.engine.pool_bytes(project.story)),
            **project.choices,
        )

    # --- opening ---

    def read_story(self, start: SessionStart) -> tuple[Story, tuple[NewShot, ...]]:
        """The story's head, and its shots. `Refused` for whatever is wrong with them."""
        engine, field = self.house.engine, "story" if start.story is not None else "record"
        told = start.story if start.record is None else start.record.get("story")
        try:
            if start.story is None and start.record is None:
                story, field = Story((), start.global_caption), "global_caption"
            else:
                story = Story.from_dict(told, what=field)
            seed = start.seed if start.seed is not None else story.seed
            if start.seed is None and told is None:
                seed = secrets.randbelow(MAX_SEED + 1)
            head = replace(story, shots=(), seed=seed)
            if len(story.shots) > MOST_SHOTS:
                raise UsageError(f"{field}: at most {MOST_SHOTS} shots, not {len(story.shots)}")
            resolved = story.resolve(engine.info.latent_frames).shots
            engine.check([(f"shot {shot.id}", shot.prompt) for shot in resolved])
            if (seconds := sum(shot.seconds for shot in resolved)) > self.house.limits.film_s:
                most = self.house.limits.film_s
                raise UsageError(f"{field}: {seconds:g} s, and a film has at most {most:g} s")
            shots = tuple(
                NewShot(caption=of.caption, chunks=of.chunks, seed=shot.seed)
                for shot, of in zip(story.shots, resolved)
            )
        except ValueError as error:  # pydantic's and UsageError
            raise Refused("refused", str(error), field) from None
        return head, shots

    async def _opened(self, project: Project, story: Story, resumed: bool) -> Session:
        if resumed:
            return Session(self.house, project, await reopened(self.house, project))
        take_id = project.new_take_id()
        engine, folder = self.house.engine, project.folder_of(take_id)

        def begin() -> FilmDirector:
            director = engine.begin(story)
            director.keep_in(folder)
            return director

        director = await self.house.worker.turn(project.session_id, begin)
        project.begin_take(take_id, "start")
        return Session(self.house, project, director)

    def _take_over(self, session: Session, start: SessionStart, client: Outbox) -> Session:
        if (before := session.directing) is not None:
            before.put(SessionDone(reason="replaced", message="another client directs this film"))
            before.close()
        client.put(self.started(session, start.event_id, start.resume_token, resumed=True))
        session.join(client, directs=True)
        return session

    # --- admission ---

    async def _admitted(self, story: Story, client: Outbox) -> object:
        """Reserves a place and bytes; returns what `_release` takes."""
        engine = self.house.engine
        try:
            needed = engine.pool_bytes(story)
        except UsageError as error:
            raise Refused("refused", str(error), "story.video") from None
        if needed > engine.room_bytes:
            raise Refused(
                "limit",
                f"this film's history takes {needed:,} bytes, and all films together have "
                f"{engine.room_bytes:,}: ask for smaller frames",
            )
        waiting = _Waiting(needed, client.put)
        if self._waiting or not self._fits(needed):
            if self.full:
                raise Refused(
                    "full",
                    f"{len(self._reserved)} films are open and {len(self._waiting)} wait",
                    retryable=True,
                    retry_after_s=RETRY_S,
                )
            self._waiting.append(waiting)
            self._tell_positions()
            try:
                await waiting.admitted.wait()
            except asyncio.CancelledError:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)
                    self._tell_positions()
                else:
                    self._release(waiting)
                raise
        self._reserved[waiting] = needed
        return waiting

    def _fits(self, needed: int) -> bool:
        room = self.house.engine.room_bytes - sum(self._reserved.values())
        return len(self._reserved) < self.house.limits.sessions and needed <= room

    def _release(self, key: object) -> None:
        self._reserved.pop(key, None)
        while self._waiting and self._fits(self._waiting[0].bytes):
            first = self._waiting.pop(0)
            self._reserved[first] = first.bytes
            first.admitted.set()
        self._tell_positions()

    def _tell_positions(self) -> None:
        open_ = f"{len(self._reserved)} films are open"
        for position, waiting in enumerate(self._waiting, start=1):
            waiting.tell(SessionQueued(position=position, reason=open_))

    async def _forget(self, session: Session, key: object) -> None:
        await session.done.wait()
        self.sessions.pop(session.project.session_id, None)
        self.house.metrics.ended.labels(session.ended.reason).inc()
        self._release(key)
