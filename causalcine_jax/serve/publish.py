"""From a director's chunks to media in the project's folder and in the clients' outboxes.

Encoding leaves the event loop, one chunk of a session at a time, while the device makes the next.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.film.chunk import frame_of_latent, most_retrieved
from causalcine_jax.serve.media import encoded, mime, streaming_scale
from causalcine_jax.serve.parts import ChunkInfo, ModelInfo, Retrieved
from causalcine_jax.serve.playback import DRY
from causalcine_jax.serve.project import Project
from causalcine_jax.serve.resources import DeskResources
from causalcine_jax.serve.server_messages import MediaChunk, MediaInit, ShotApplied

MOST_RETRIEVED = 8
RECENT = 4  # chunks over which speed is measured
LATELY = 8  # chunks, whose times say how early the next must begin


@dataclass(frozen=True)
class Published:
    """A chunk that was sent: when, and the seconds from asking for it to its media."""

    info: ChunkInfo
    when: float
    spent: float


class Publisher:
    """Takes chunks by `put`; `tell` sends a message, and media, to all clients."""

    def __init__(
        self,
        resources: DeskResources,
        project: Project,
        model: ModelInfo,
        tell: Callable[..., None],
    ):
        self._resources, self._project, self._model, self._tell = resources, project, model, tell
        self._scale = streaming_scale(model.height)
        self._made: asyncio.Queue = asyncio.Queue(1)
        self._open = 0  # chunks that were put and are not published
        self._lately: deque[Published] = deque(maxlen=LATELY)
        self._header = project.header.read_bytes() if project.header.is_file() else None
        self.events: dict[str, str | None] = {}  # by shot: the event that queued it

    def start(self, ended: Callable[[], None]) -> None:
        """Begins to publish; `ended` is called when it fails."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(lambda _: ended())

    def check(self) -> None:
        """Raises what encoding or disk have raised."""
        if self._task.done():
            self._task.result()

    def close(self) -> None:
        self._task.cancel()

    async def put(self, chunk: Any, spent: float) -> None:
        """Queues a chunk of the current take that took `spent` seconds, waiting included.

        Raises as `check`.
        """
        self._open += 1
        await self._unless_failed(self._made.put((self._project.take_id, chunk, spent)))

    @property
    def idle(self) -> bool:
        """Everything that was put is published."""
        return self._open == 0

    async def drained(self) -> None:
        """Waits until everything is published. Raises as `check`."""
        await self._unless_failed(self._made.join())

    async def _unless_failed(self, waiting: Coroutine[Any, Any, None]) -> None:
        """After a failure nothing takes from the queue, so waiting for it would never end."""
        work = asyncio.ensure_future(waiting)
        await asyncio.wait({work, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            self.check()
        await work

    def init(self) -> tuple[MediaInit, bytes] | None:
        """The media's header; None before the first chunk."""
        return None if self._header is None else self._init(self._header)

    def _init(self, header: bytes) -> tuple[MediaInit, bytes]:
        told = MediaInit(
            mime=mime(header),
            width=self._model.width * self._scale,
            height=self._model.height * self._scale,
            fps=self._model.fps,
            bytes=len(header),
        )
        return told, header

    @property
    def fps(self) -> float:
        """Video frames a second of the last chunks; 0 before there are two."""
        recent = list(self._lately)[-RECENT:]
        if len(recent) < 2:
            return 0.0
        frames = sum(each.info.frames for each in recent[1:])
        return round(frames / max(recent[-1].when - recent[0].when, 1e-9), 2)

    def late(self, position_s: float) -> float:
        """Seconds since the newest media were sent, if a player stands still for want of them.

        0 where it stands elsewhere: there it wants older media, after a seek to what it dropped.

        position_s  of the current take, where the player has no more film
        """
        if not self._lately or self._lately[-1].info.take_id != self._project.take_id:
            return 0.0
        newest = self._lately[-1]
        begins_s = newest.info.time_s
        stands_there = begins_s <= position_s + DRY < begins_s + newest.info.seconds
        return time.monotonic() - newest.when if stands_there else 0.0

    @property
    def chunk_seconds(self) -> float:
        """Seconds from asking for a chunk to its media: the second slowest of the last ones.

        So a single slow chunk does not delay orders for as long as it is among the last ones.
        """
        spent = sorted(each.spent for each in self._lately)
        if len(spent) < 3:  # too few to call one an exception
            return max(spent, default=math.inf)
        return spent[-2]

    async def _run(self) -> None:
        """Publishes what is put, in order, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            take_id, chunk, spent = await self._made.get()
            try:
                info = self._info(take_id, chunk, spent)
                if chunk.index == chunk.shot.first_chunk:
                    self._tell(self._applied(info))
                before = self._project.digest(take_id, chunk.index)
                info, header, media, digest = await loop.run_in_executor(
                    self._resources.encoders, self._encode, info, chunk.frames, before
                )
                self._project.add_chunk(info, header, media, digest)
                if self._header is None:
                    self._header = header
                    self._tell(*self._init(header))
                self._tell(MediaChunk(**info.model_dump()), media)
                self._resources.metrics.chunk(info)
                spent += info.timings["encode"]
                self._lately.append(Published(info, time.monotonic(), spent))
            finally:
                self._made.task_done()
                self._open -= 1

    def _applied(self, info: ChunkInfo) -> ShotApplied:
        return ShotApplied(
            event_id=self.events.pop(info.shot_id, None),
            shot_id=info.shot_id,
            take_id=info.take_id,
            chunk=info.chunk,
            frame=info.first_frame,
            time_s=info.time_s,
        )

    def _info(self, take_id: str, chunk: Any, spent: float) -> ChunkInfo:
        fps, frames = self._model.fps, len(chunk.frames)
        latent_frames = self._model.latent_frames
        first = first_frame_of_chunk(chunk.index, latent_frames)
        timings = {name: round(value, 4) for name, value in chunk.seconds.items()}
        timings["wait"] = round(max(0.0, spent - sum(chunk.seconds.values())), 4)
        return ChunkInfo(
            take_id=take_id,
            chunk=chunk.index,
            first_frame=first,
            frames=frames,
            time_s=first / fps,
            seconds=frames / fps,
            shot_id=chunk.shot.id,
            is_cut=chunk.is_cut,
            retrieved=self._retrieved(take_id, chunk.retrieved),
            timings=timings,
        )

    def _retrieved(self, take_id: str, retrieved) -> tuple[Retrieved, ...]:
        """Latent frames that most layers retrieved, as the video frames that stand for them."""
        line = self._project.line(take_id)
        per_chunk = self._model.latent_frames
        return tuple(
            Retrieved(
                frame=frame_of_latent(latent),
                time_s=frame_of_latent(latent) / self._model.fps,
                shot_id=line[latent // per_chunk].shot_id,
                share=share,
            )
            for latent, share in most_retrieved(retrieved, MOST_RETRIEVED)
            if latent // per_chunk < len(line)
        )

    def _encode(self, info: ChunkInfo, frames, before) -> tuple[ChunkInfo, bytes, bytes, Any]:
        """The chunk's info, header and media, and the digest of the film up to its end."""
        begun = time.perf_counter()
        header, media = encoded(frames, info.first_frame, self._model.fps, self._scale)
        timings = {**info.timings, "encode": round(time.perf_counter() - begun, 4)}
        info = info.model_copy(update={"timings": timings, "bytes": len(media)})
        digest = None if before is None else before.copy()
        if digest is not None:
            digest.add(frames)
        return info, header, media, digest
