"""A desk in a process of its own, and its clients: directors with a simulated player, viewers."""

import asyncio
import contextlib
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import REPOSITORY
from causalcine_jax.errors import DataError
from causalcine_jax.serve.client import AsyncDeskClient
from causalcine_jax.serve.server_messages import SessionMetrics, ShotApplied

REPORT_S = 0.5
LONGEST_S = 600.0  # for anything to happen


class Served:
    """`causalcine serve`, its films in `folder`; a context. `DataError` if it does not start."""

    def __init__(self, folder: Path, *flags: str):
        command = [sys.executable, "-m", "causalcine_jax", "serve", "--port", "0", "--no-browser"]
        command += ["--projects", str(folder / "films"), *flags]
        self._process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Served":
        begun = time.perf_counter()
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        self.ready_s = time.perf_counter() - begun
        if not self.url.startswith("http"):
            raise DataError(f"the desk ended with code {self._process.wait()}")
        return self

    def __exit__(self, *error: Any) -> None:
        self._process.terminate()
        self._process.wait()

    def memory(self) -> int:
        """Resident bytes of the server. `DataError` if it has ended."""
        if (code := self._process.poll()) is not None:
            raise DataError(f"the desk ended with code {code}")
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return 1024 * int(line.split()[1])
        raise DataError("this system does not tell a process's memory")


class Arrivals:
    """The chunks that came, by take; lost are those that were dropped, or that lack in between."""

    def __init__(self):
        self._came: dict[str, set[int]] = defaultdict(set)
        self._dropped: dict[str, set[int]] = defaultdict(set)

    def read(self, told: Any) -> None:
        if told.type == "media.chunk":
            self._came[told.take_id].add(told.chunk)
        elif told.type == "media.dropped":
            self._dropped[told.take_id].update(told.chunks)

    @property
    def chunks(self) -> int:
        return sum(map(len, self._came.values()))

    @property
    def lost(self) -> int:
        between = {take: {*range(min(came), max(came))} - came for take, came in self._came.items()}
        takes = {*between, *self._dropped}
        return sum(len(between.get(take, set()) | self._dropped[take]) for take in takes)


class Player:
    """Plays a film in real time from its first media on; stands still where it has no more."""

    def __init__(self):
        self._at = self.end = 0.0
        self._since: float | None = None
        self.stood_still = 0.0

    def position(self) -> float:
        now = time.monotonic()
        if self._since is None:
            return self._at
        at = self._at + now - self._since
        self.stood_still += max(0.0, at - self.end)
        self._at, self._since = min(at, self.end), now
        return self._at

    def jump(self, time_s: float) -> None:
        """Another take goes on from there. Until its media come, waiting is no standing still."""
        self.position()
        self._at = self.end = time_s
        self._since = None

    def media(self, end_s: float) -> None:
        self.position()
        self.end = max(self.end, end_s)
        self._since = self._since or time.monotonic()

    @property
    def left(self) -> float:
        return max(0.0, self.end - self.position())


@dataclass(frozen=True)
class Cut:
    """An order to cut, in seconds.

    made    from the order to the new shot's media
    shown   from the order to its first frame in the player
    lead    of film left to play at which the server began chunks
    margin  the part of `lead` for media to reach the player
    """

    made: float
    shown: float
    lead: float
    margin: float


class Director:
    """A client with a film. What comes is read by `listen`; the rest waits for it."""

    def __init__(self, desk: AsyncDeskClient, started: Any, opened: float):
        self._desk, self._opened = desk, opened
        self.watch_token = started.watch_token
        self._fps = started.model.fps
        self.chunk_s = started.model.chunk_frames / self._fps
        self.player = Player()
        self.media: dict[tuple[str, int], tuple[float, Any]] = {}  # take, chunk: when, what
        self.receipts: list[float] = []
        self.arrivals = Arrivals()
        self._asked = 0
        self._sent: dict[str, float] = {}
        self._applied: dict[str, ShotApplied] = {}
        self._shot, self._done = "", False
        self._metrics: SessionMetrics | None = None
        self._taken: dict[str, str] = {}  # event: the take that it began
        self._changed = asyncio.Condition()

    async def listen(self) -> None:
        async for told, _ in self._desk:
            self._read(told)
            async with self._changed:
                self._changed.notify_all()

    def _read(self, told: Any) -> None:
        now = time.monotonic()
        self.arrivals.read(told)
        if told.type == "media.chunk":
            self.media[told.take_id, told.chunk] = now, told
            self.player.media(told.time_s + told.seconds)
        elif told.type == "shot.received" and told.event_id in self._sent:
            self.receipts.append(now - self._sent[told.event_id])
        elif told.type == "shot.applied":
            self._shot, self._applied[told.event_id or ""] = told.shot_id, told
        elif told.type == "session.metrics":
            self._metrics = told
        elif told.type == "error":
            raise DataError(f"the desk refused: {told.message}")
        if told.type == "take.begun":
            self._taken[told.event_id or ""] = told.take.take_id
            self.player.jump(told.time_s)
        self._done = told.type == "session.done"

    async def reports(self) -> None:
        while True:
            await self._desk.report(self.player.position(), self.player.left, playing=True)
            await asyncio.sleep(REPORT_S)

    async def _until(self, condition) -> Any:
        async with asyncio.timeout(LONGEST_S), self._changed:
            while not (found := condition()):
                await self._changed.wait()
            return found

    def _event(self) -> str:
        self._asked += 1
        event = f"e{self._asked}"
        self._sent[event] = time.monotonic()
        return event

    async def shot(self, caption: str, chunks: int) -> None:
        """Queues a shot, and waits for the receipt."""
        event, known = self._event(), len(self.receipts)
        await self._desk.shot(caption, chunks=chunks, event_id=event)
        await self._until(lambda: len(self.receipts) > known)

    async def first_frame(self) -> float:
        """Seconds from opening the socket to the first chunk's media."""
        await self._until(lambda: self.media)
        return min(when for when, _ in self.media.values()) - self._opened

    async def cut(self, caption: str) -> Cut:
        """Cuts to a shot, and waits until the player shows it."""
        metrics = await self._until(lambda: self._metrics)
        event = self._event()
        await self._desk.cut(caption, chunks=8, event_id=event)
        applied = await self._until(lambda: self._applied.get(event))
        key = applied.take_id, applied.chunk
        await self._until(lambda: key in self.media)
        while self.player.position() < applied.time_s:
            await asyncio.sleep(0.005)
        now, sent = time.monotonic(), self._sent[event]
        made = self.media[key][0] - sent
        return Cut(made, now - sent, metrics.next_lead_s, metrics.margin_s)

    async def retake(self) -> float:
        """Seconds from asking for the last shot again to its first media."""
        await self._until(lambda: self._shot)
        event = self._event()
        await self._desk.retake(self._shot, event_id=event)
        return await self._first_of(event)

    async def branch(self, caption: str) -> float:
        """Seconds from branching at the first shot, with another queued, to the first media."""
        first = min((told for _, told in self.media.values()), key=lambda told: told.chunk)
        event = self._event()
        await self._desk.branch(first.shot_id, event_id=event)
        await self._desk.shot(caption, chunks=2, event_id=self._event())
        return await self._first_of(event)

    async def _first_of(self, event: str) -> float:
        take = await self._until(lambda: self._taken.get(event))
        found = await self._until(
            lambda: next((when for (of, _), (when, _) in self.media.items() if of == take), None)
        )
        return found - self._sent[event]

    async def stop(self) -> None:
        """Ends the session, and waits for its end."""
        await self._desk.stop()
        await self._until(lambda: self._done)

    async def played(self, seconds: float) -> None:
        while self.player.position() < seconds:
            await asyncio.sleep(0.1)

    async def made(self, seconds: float) -> None:
        await self._until(lambda: self.player.end >= seconds)

    def fps(self) -> float:
        """Video frames a second, from the first media to the last."""
        times = sorted((when, told.frames) for when, told in self.media.values())
        frames = sum(frames for _, frames in times[1:])
        return frames / max(times[-1][0] - times[0][0], 1e-9)


@contextlib.asynccontextmanager
async def directing(url: str, **start: Any) -> AsyncIterator[Director]:
    """A director with a session, begun with those fields of session.start."""
    opened = time.monotonic()
    async with AsyncDeskClient.open(url) as desk:
        await desk.start(**start)
        started = await _until(desk, "session.started")
        director = Director(desk, started, opened)
        tasks = [asyncio.create_task(each) for each in (director.listen(), director.reports())]
        try:
            yield director
        finally:
            for task in tasks:
                task.cancel()
            failed = await asyncio.gather(*tasks, return_exceptions=True)
            for error in failed:
                if isinstance(error, DataError):
                    raise error


async def watch(url: str, token: str, end: float) -> Arrivals:
    """A viewer, to the film's end or that time."""
    arrivals = Arrivals()
    async with AsyncDeskClient.open(url) as desk:
        await desk.watch(token)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(end - time.monotonic()):
                async for told, _ in desk:
                    arrivals.read(told)
    return arrivals


async def _until(desk: AsyncDeskClient, kind: str) -> Any:
    async with asyncio.timeout(LONGEST_S):
        async for told, _ in desk:
            if told.type == kind:
                return told
    raise DataError(f"the session ended before {kind}")
