"""What waits to be sent to one client: bounded, so that a slow client delays nobody.

Media that finds the outbox full is dropped, and the client is told which chunks it missed. A client
that reads nothing for STALLED seconds is closed.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from causalcine_jax.serve.parts import FromServer
from causalcine_jax.serve.protocol import written
from causalcine_jax.serve.server_messages import MediaChunk, MediaDropped

MOST_MEDIA = 8 * 2**20  # bytes, about 20 chunks at 832x480
MOST_MESSAGES = 2_000
STALLED = 30.0  # seconds


class Stalled(Exception):
    """The client does not read."""


class Outbox:
    """Filled from the event loop's thread by `put`; `send_all` empties it into a socket.

    lasts  a session that this client directs has no longest time
    """

    lasts = False

    def __init__(self, most_media: int = MOST_MEDIA):
        self._most_media, self._media_bytes = most_media, 0
        self._waiting: deque[tuple[FromServer, bytes | None]] = deque()
        self._dropped: list[tuple[str, int]] = []  # take, chunk
        self._filled, self._closed = asyncio.Event(), False

    def put(self, message: FromServer, media: bytes | None = None) -> None:
        """Queues a message, and the media that follows it."""
        full = self._media_bytes + len(media or b"") > self._most_media and self._media_bytes
        if isinstance(message, MediaChunk) and media is not None and full:
            self._dropped.append((message.take_id, message.chunk))
        elif len(self._waiting) >= MOST_MESSAGES:
            self._closed = True
        else:
            self._waiting.append((message, media))
            self._media_bytes += len(media or b"")
        self._filled.set()

    def close(self) -> None:
        """`send_all` returns after what is queued."""
        self._closed = True
        self._filled.set()

    async def send_all(
        self,
        send_text: Callable[[str], Awaitable[None]],
        send_bytes: Callable[[bytes], Awaitable[None]],
    ) -> None:
        """Sends until `close`. Raises `Stalled`, or what the socket raises."""
        while True:
            while self._waiting:
                message, media = self._waiting.popleft()
                try:
                    async with asyncio.timeout(STALLED):
                        await send_text(written(message))
                        if media is not None:
                            await send_bytes(media)
                except TimeoutError:
                    raise Stalled(f"nothing was read for {STALLED:g} s") from None
                self._media_bytes -= len(media or b"")
                if self._dropped and not self._media_bytes:
                    self._tell_dropped()
            if self._closed:
                return
            self._filled.clear()
            await self._filled.wait()

    def _tell_dropped(self) -> None:
        for take in dict.fromkeys(take for take, _ in self._dropped):
            chunks = tuple(chunk for of, chunk in self._dropped if of == take)
            self._waiting.append((MediaDropped(take_id=take, chunks=chunks), None))
        self._dropped.clear()
