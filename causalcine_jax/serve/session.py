"""A session: one film, its director, and the clients that direct or watch it.

    orders.py --> queue, turns between chunks --> _run: a chunk a turn --> publish.py --> clients
                                   worker.turn --^

Runs on the event loop; only `worker.turn` and encoding leave it. The film's story holds only shots
that have begun: each turn lengthens the last one by a chunk or begins the next queued one. So
queued shots can be changed, and a cut can fall at any chunk.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.errors import UsageError
from causalcine_jax.serve import server_messages as messages
from causalcine_jax.serve.age import Age
from causalcine_jax.serve.engine import FilmDirector
from causalcine_jax.serve.outbox import Outbox
from causalcine_jax.serve.parts import FromServer, ModelInfo, QueuedShot
from causalcine_jax.serve.playback import Playback
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.publish import Publisher
from causalcine_jax.serve.resources import DeskResources
from causalcine_jax.serve.timeline import session_state
from causalcine_jax.serve.turns import Seen, in_words, next_chunk

log = logging.getLogger("causalcine.desk")


class Session:
    """Begins with `start`; `done` is set when it has ended and its memory is free.

    cut, stopping  the shot that is being filmed, or the session, ends with its current chunk
    history_bytes  reserved for it
    head      the story without shots, with the size and negative prompt in use
    turns     what is done between two chunks, retakes and branches, each with its event
    """

    def __init__(
        self, resources: DeskResources, project: Project, director: FilmDirector, history_bytes: int
    ):
        video = director.story.video
        size = {"width": video.width, "height": video.height, "fps": video.fps}
        self.resources, self.project, self.history_bytes = resources, project, history_bytes
        self._director: FilmDirector | None = director
        self.model: ModelInfo = resources.engine.info.model_copy(update=size)
        self.publisher = Publisher(resources, project, self.model, self.tell)
        self.playback, self.exporting = Playback(), asyncio.Lock()
        self.directing: Outbox | None = None
        self.viewers: set[Outbox] = set()
        self.head = replace(director.story, shots=())
        self.look()
        self.paused, self.cut = False, False
        self.status: messages.Status = "starved"
        self.turns: deque[tuple[str | None, Callable[[], Awaitable[None]]]] = deque()
        self.done, self.ended = asyncio.Event(), messages.SessionDone(reason="stopped")
        self._changed, self.stopping = asyncio.Event(), False
        self._age, self._measured = Age(), time.monotonic()

    @property
    def director(self) -> FilmDirector:
        """Of the current take. `Refused` while another take is being opened."""
        if self._director is None:
            raise Refused("refused", "another take is being opened", "take", retryable=True)
        return self._director

    @director.setter
    def director(self, director: FilmDirector) -> None:
        self._director = director

    async def close_director(self) -> None:
        """Closes it and frees its history."""
        director, self._director = self._director, None
        if director is not None:
            await self.resources.worker.turn(self.project.session_id, director.close)

    def look(self) -> None:
        """Notes where the director is, after a turn: during one, asking it would wait."""
        self.seen = Seen.of(self.director)

    # --- clients ---

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    def change(self) -> None:
        """Looks again at what to do."""
        self._changed.set()

    def stop(self, reason: messages.EndReason, message: str = "") -> None:
        """Ends after the current chunk; the film stays in its folder."""
        self.ended = messages.SessionDone(
            reason=reason, take_id=self.project.take_id, message=message
        )
        self.stopping = True
        self.change()

    def join(self, client: Outbox, directs: bool) -> None:
        if directs:
            self.directing = client
            self.playback.joined(self._made_s)
        else:
            self.viewers.add(client)
        client.put(self.state())
        if (header := self.publisher.init()) is not None:
            client.put(*header)
        self.change()

    def leave(self, client: Outbox) -> None:
        self.viewers.discard(client)
        if self.directing is client:
            self.directing = None
            self.playback.left(self._made_s)
        self._age.seen()

    def tell(self, message: FromServer, media: bytes | None = None) -> None:
        """Sends to all clients."""
        for client in self._clients():
            client.put(message, media)

    def tell_director(self, message: FromServer) -> None:
        if self.directing is not None:
            self.directing.put(message)

    def _clients(self) -> list[Outbox]:
        return [client for client in (self.directing, *self.viewers) if client is not None]

    # --- what there is ---

    def time_of(self, chunk: int) -> float:
        """Where a chunk begins, in seconds of film."""
        return first_frame_of_chunk(chunk, self.model.latent_frames) / self.model.fps

    @property
    def _made_s(self) -> float:
        """Seconds of film made."""
        return self.time_of(self.seen.next_chunk)

    def state(self, event_id: str | None = None) -> messages.SessionState:
        return session_state(self.project, self.status, event_id)

    def requeue(self, shots: tuple[QueuedShot, ...], event_id: str | None = None) -> None:
        """Replaces the queue, keeps it, and tells all clients."""
        self.project.queue = shots
        self.project.save()
        self.tell(messages.Queue(event_id=event_id, beginning=self.project.beginning, shots=shots))
        self.change()

    async def _run(self) -> None:
        self.publisher.start(self.change)
        try:
            while not self._outlived():
                self.publisher.check()
                if self.turns:
                    await self.publisher.drained()
                    await self._refusing(*self.turns.popleft())
                elif (status := self.say_status()) == "making":
                    await self._make()
                else:
                    if status == "limit":  # the last shot ends here
                        self._keep_length()
                    soon = status == "ahead" or not self.publisher.idle
                    await self._wait(0.05 if soon else 1.0)
            await self.publisher.drained()
        except Exception as error:
            log.exception("session %s failed", self.project.session_id)
            self.stop("failed", in_words(error))
        finally:
            self.publisher.close()
            with contextlib.suppress(Exception):
                await self.close_director()
            self.resources.worker.leave(self.project.session_id)
            self.tell(self.ended)
            for client in self._clients():
                client.close()
            self.done.set()

    async def _refusing(self, event_id: str | None, turn: Callable[[], Awaitable]) -> None:
        try:
            await turn()
        except Refused as refused:
            self.tell_director(refused.error.model_copy(update={"event_id": event_id}))

    def say_status(self, event_id: str | None = None) -> messages.Status:
        """What the session does now; all clients are told if it changed, or if `event_id` asked."""
        status = self._status()
        changed = status != self.status
        too_early = status in messages.OVER and not self.publisher.idle  # the last chunk goes first
        if event_id is not None or (changed and not too_early):
            self.status = status
            self.tell(messages.SessionStatus(status=status, event_id=event_id))
        if self._clients() and time.monotonic() - self._measured > 1.0:
            self._measured, made = time.monotonic(), self._made_s
            own = {self.project.session_id} if status == "making" else set()
            self.tell(
                messages.SessionMetrics(
                    fps=self.publisher.fps,
                    made_s=made,
                    lead_s=made - self.playback.position(made),
                    next_lead_s=self.lead,
                    margin_s=self.playback.margin,
                    turns_waiting=len(self.resources.worker.users | own),
                    viewers=len(self.viewers),
                )
            )
        return status

    def _status(self) -> messages.Status:
        seen, made = self.seen, self._made_s
        if self.paused or not self._clients():
            return "paused"
        holds = seen.resolved.shots and self.project.choices["on_empty"] == "hold"
        planned = seen.next_chunk < seen.resolved.chunks
        work = planned or self._unfinished() or self.project.queue or holds
        if made >= self.resources.limits.film_s:
            return "limit"
        if not work:
            return "starved"
        near = made - self.playback.position(made) < self.lead
        return "making" if near or self.project.choices["pace"] == "free" else "ahead"

    @property
    def lead(self) -> float:
        """Seconds of film that are left to play when the next chunk begins."""
        most = self.resources.limits.lead_chunks * self.model.chunk_frames / self.model.fps
        return min(most, self.playback.lead(self.publisher.chunk_seconds))

    def _unfinished(self) -> bool:
        """The last shot is shorter than asked for, and no cut was asked for."""
        if self.cut or not self.seen.resolved.shots:
            return False
        last = self.seen.resolved.shots[-1]
        return last.chunks < self.project.take.shots[last.id].chunks

    def _outlived(self) -> bool:
        """Whether the session stops."""
        if self._clients():
            self._age.seen()
        lasts = self.directing is not None and self.directing.lasts
        if not self.stopping and (over := self._age.over(self.resources.limits, lasts)):
            self.stop(*over)
        return self.stopping

    async def _wait(self, at_most: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), at_most)
        self._changed.clear()

    def _keep_length(self, more: int = 0) -> None:
        """Keeps the last shot's true length, and `more`: it may have been cut, or held."""
        for last in self.seen.resolved.shots[-1:]:
            if (length := last.chunks + more) != self.project.take.shots[last.id].chunks:
                self.tell(self.project.resize(last.id, length, self.model))

    async def _make(self) -> None:
        """One chunk: of the last shot, or the first of the next."""
        director, shot = self.director, None
        planned = self.seen.next_chunk < self.seen.resolved.chunks
        if not planned and not self._unfinished():
            self._keep_length(more=not self.project.queue)
            if self.project.queue:
                self.cut, shot = False, self.project.begin_shot()
                self.requeue(self.project.queue)
        begun = time.perf_counter()
        try:
            chunk = await self.resources.worker.turn(
                self.project.session_id, lambda: next_chunk(director, shot)
            )
        except UsageError as error:
            if shot is None:
                raise
            self.project.beginning = None
            self.requeue(self.project.queue)
            event = self.publisher.events.pop(shot.shot_id, None)
            refused = Refused("refused", str(error), "shot", event_id=event)
            return self.tell_director(refused.error)
        self.look()
        await self.publisher.put(chunk, time.perf_counter() - begun)
        self.playback.ease()
