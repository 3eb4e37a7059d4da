"""Who may open a film now, and who waits.

A session is admitted when there are fewer than `limits.sessions` and its history fits into the room
that the engine has for all of them. Those who wait are admitted in the order they came.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.serve.engine import Engine
from causalcine_jax.serve.limits import SessionLimits
from causalcine_jax.serve.protocol import Refused
from causalcine_jax.serve.server_messages import SessionQueued
from causalcine_jax.story import Story

RETRY_S = 30.0


@dataclass(eq=False)
class _Waiting:
    bytes: int
    tell: Callable[[SessionQueued], None]
    admitted: asyncio.Event = field(default_factory=asyncio.Event)


class Admission:
    """Admits sessions by number and by bytes of history. `close` refuses waiting and new ones."""

    def __init__(self, engine: Engine, limits: SessionLimits):
        self._engine, self._limits = engine, limits
        self._reserved: dict[object, int] = {}  # bytes, by session that is open or opening
        self._waiting: list[_Waiting] = []
        self.closed = False

    @property
    def open(self) -> int:
        """Sessions that are open or opening."""
        return len(self._reserved)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def bytes(self) -> int:
        return sum(self._reserved.values())

    def reserved(self, key: object) -> int:
        """Bytes of the place that `admitted` returned as `key`."""
        return self._reserved[key]

    @property
    def full(self) -> bool:
        """Whether a new client is refused."""
        return len(self._waiting) >= self._limits.waiting

    async def admitted(
        self, story: Story, tell: Callable[[SessionQueued], None], folder: Path | None = None
    ) -> object:
        """Reserves a place and bytes; returns what `release` takes.

        folder  of the film that is resumed
        """
        engine = self._engine
        try:
            needed = engine.pool_bytes(story, folder)
        except UsageError as error:
            raise Refused("refused", str(error), "story.video") from None
        except DataError as error:
            raise Refused("refused", str(error), "resume_token", retryable=True) from None
        if needed > engine.room_bytes:
            raise Refused(
                "limit",
                f"this film's history takes {needed:,} bytes, and all films together have "
                f"{engine.room_bytes:,}: ask for smaller frames",
                "story.video",
            )
        waiting = _Waiting(needed, tell)
        if self.closed:
            raise _stopping()
        if self._waiting or not self._fits(needed):
            if self.full:
                raise Refused(
                    "full",
                    f"{len(self._reserved)} films are open and {len(self._waiting)} wait",
                    "type",
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
                self.release(waiting)  # those behind it may now fit
                raise
            if waiting not in self._reserved:
                raise _stopping()
        self._reserved[waiting] = needed
        return waiting

    def release(self, key: object) -> None:
        self._reserved.pop(key, None)
        while self._waiting and self._fits(self._waiting[0].bytes):
            first = self._waiting.pop(0)
            self._reserved[first] = first.bytes
            first.admitted.set()
        self._tell_positions()

    def close(self) -> None:
        self.closed = True
        for waiting in self._waiting:
            waiting.admitted.set()
        self._waiting.clear()

    def _fits(self, needed: int) -> bool:
        room = self._engine.room_bytes - self.bytes
        return len(self._reserved) < self._limits.sessions and needed <= room

    def _tell_positions(self) -> None:
        open_ = f"{len(self._reserved)} films are open"
        for position, waiting in enumerate(self._waiting, start=1):
            waiting.tell(SessionQueued(position=position, reason=open_))


def _stopping() -> Refused:
    told = "this server stops: its films go on when it starts again, or at another"
    return Refused("full", told, "type", retryable=True, retry_after_s=RETRY_S)
