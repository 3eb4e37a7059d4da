"""A director's client in Python: the protocol's messages as methods.

    with DeskClient.open("http://127.0.0.1:8765/?token=...") as desk:
        desk.start(global_caption="A story about Mia the fox.")
        desk.shot("Mia waves on the beach.", chunks=4)
        for message, media in desk:
            ...

`media` is the bytes of a `media.init` or `media.chunk`; None with all other messages.
`AsyncDeskClient` is the same with `async with` and `await`.
"""

import contextlib
import ssl
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake
from websockets.sync.client import connect

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.serve import client_messages as messages
from causalcine_jax.serve.parts import PROTOCOL, NewShot
from causalcine_jax.serve.protocol import read_server, written

Received = tuple[Any, bytes | None]
WITH_MEDIA = ("media.init", "media.chunk")


@dataclass(frozen=True)
class Address:
    """A server, from the address that it printed. `UsageError` if it is none."""

    http: str
    token: str

    @classmethod
    def of(cls, url: str) -> "Address":
        try:
            parts = urlsplit(url)
            sound = parts.port != 0 and parts.scheme in ("http", "https") and bool(parts.hostname)
        except ValueError:  # brackets that do not close, or a port that is none
            sound = False
        token = parse_qs(parts.query).get("token", [""])[0] if sound else ""
        if not token:
            raise UsageError("the server's address must be http://HOST:PORT/?token=..., as printed")
        return cls(f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}", token)

    @property
    def socket(self) -> dict[str, Any]:
        """What `websockets` connects with."""
        return {
            "uri": f"{self.http.replace('http', 'ws', 1)}/v1/stream",
            "subprotocols": [PROTOCOL],
            "additional_headers": self.headers,
            "max_size": None,
            "compression": None,
        }

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def file(self, session_id: str, take_id: str, name: str) -> str:
        """The address of a take's file, such as film.mp4."""
        return f"{self.http}/v1/sessions/{quote(session_id)}/takes/{quote(take_id)}/{quote(name)}"


class Orders:
    """The messages of a client; `send` is what `DeskClient` and `AsyncDeskClient` differ in.

    Every method takes an `event_id`, which the answer repeats.
    """

    def send(self, message: Any) -> Any:
        raise NotImplementedError

    def start(self, **fields: Any) -> Any:
        """Fields of session.start: global_caption, story, record, resume_token, seed, pace, ..."""
        if record := fields.get("record"):  # whole records outgrow a message
            fields["record"] = {key: record[key] for key in ("schema", "story") if key in record}
        return self.send(messages.SessionStart(type="session.start", **fields))

    def watch(self, watch_token: str, **of: Any) -> Any:
        return self.send(messages.SessionWatch(type="session.watch", watch_token=watch_token, **of))

    def shot(
        self,
        caption: str,
        *,
        chunks: int | None = None,
        seconds: float | None = None,
        seed: int | None = None,
        before: str | None = None,
        event_id: str | None = None,
    ) -> Any:
        """Queues a shot, after all others or before the queued shot `before`."""
        shot = NewShot(caption=caption, chunks=chunks, seconds=seconds, seed=seed)
        message = messages.ShotAppend(
            type="shot.append", shot=shot, before=before, event_id=event_id
        )
        return self.send(message)

    def cut(self, caption: str | None = None, *, event_id: str | None = None, **length: Any) -> Any:
        """Cuts at the next chunk, to a new shot or to the first queued one."""
        shot = None if caption is None else NewShot(caption=caption, **length)
        return self.send(messages.ShotCutNow(type="shot.cut_now", shot=shot, event_id=event_id))

    def update(self, shot_id: str, **fields: Any) -> Any:
        return self.send(messages.ShotUpdate(type="shot.update", shot_id=shot_id, **fields))

    def reorder(self, *shot_ids: str, **of: Any) -> Any:
        return self.send(messages.ShotReorder(type="shot.reorder", shot_ids=shot_ids, **of))

    def remove(self, shot_id: str, **of: Any) -> Any:
        return self.send(messages.ShotRemove(type="shot.remove", shot_id=shot_id, **of))

    def retake(self, shot_id: str, **fields: Any) -> Any:
        return self.send(messages.Retake(type="retake", shot_id=shot_id, **fields))

    def branch(self, shot_id: str, **of: Any) -> Any:
        return self.send(messages.Branch(type="branch", shot_id=shot_id, **of))

    def open_take(self, take_id: str, **of: Any) -> Any:
        return self.send(messages.TakeOpen(type="take.open", take_id=take_id, **of))

    def pause(self, **of: Any) -> Any:
        return self.send(messages.SessionPause(type="session.pause", **of))

    def resume(self, **of: Any) -> Any:
        return self.send(messages.SessionResume(type="session.resume", **of))

    def stop(self, **of: Any) -> Any:
        return self.send(messages.SessionStop(type="session.stop", **of))

    def snapshot(self, **of: Any) -> Any:
        return self.send(messages.Snapshot(type="snapshot", **of))

    def ping(self, **of: Any) -> Any:
        return self.send(messages.Ping(type="ping", **of))

    def report(self, position_s: float, buffered_s: float = 0.0, playing: bool = False) -> Any:
        told = messages.PlaybackReport(
            type="playback.report", position_s=position_s, buffered_s=buffered_s, playing=playing
        )
        return self.send(told)


class DeskClient(Orders):
    """A socket to a server, for one thread that receives; others may send."""

    def __init__(self, socket: Any):
        self._socket = socket

    @classmethod
    @contextlib.contextmanager
    def open(cls, url: str) -> Iterator["DeskClient"]:
        """`DataError` if the server cannot be reached, or refuses the token."""
        with _reached(url), contextlib.ExitStack() as stack:
            socket = stack.enter_context(connect(**Address.of(url).socket))
            keep = stack.pop_all()
        with keep:
            yield cls(socket)

    def send(self, message: Any) -> None:
        """`DataError` if the socket is closed."""
        with _ended():
            self._socket.send(written(message))

    def receive(self, timeout: float | None = None) -> Received:
        """The next message. `TimeoutError` after so many seconds, `DataError` at the end."""
        with _ended():
            while (message := read_server(self._socket.recv(timeout))) is None:
                pass
            return message, self._socket.recv() if message.type in WITH_MEDIA else None

    def __iter__(self) -> Iterator[Received]:
        """All messages to session.done."""
        while True:
            received = self.receive()
            yield received
            if received[0].type == "session.done":
                return


class AsyncDeskClient(Orders):
    """A socket to a server, for asyncio: await its methods."""

    def __init__(self, socket: Any):
        self._socket = socket

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator["AsyncDeskClient"]:
        """`DataError` if the server cannot be reached, or refuses the token."""
        async with contextlib.AsyncExitStack() as stack:
            with _reached(url):
                socket = await stack.enter_async_context(connect_async(**Address.of(url).socket))
            yield cls(socket)

    async def send(self, message: Any) -> None:
        """`DataError` if the socket is closed."""
        with _ended():
            await self._socket.send(written(message))

    async def receive(self) -> Received:
        """The next message. `DataError` at the end."""
        with _ended():
            while (message := read_server(await self._socket.recv())) is None:
                pass
            return message, await self._socket.recv() if message.type in WITH_MEDIA else None

    async def __aiter__(self) -> AsyncIterator[Received]:
        """All messages to session.done."""
        while True:
            received = await self.receive()
            yield received
            if received[0].type == "session.done":
                return


@contextlib.contextmanager
def _reached(url: str) -> Iterator[None]:
    try:
        yield
    except (OSError, InvalidHandshake, ssl.SSLError) as error:
        raise DataError(f"no desk answers at {urlsplit(url).netloc}: {error}") from error


@contextlib.contextmanager
def _ended() -> Iterator[None]:
    try:
        yield
    except ConnectionClosed as error:
        said = error.rcvd.reason if error.rcvd else "the connection broke"
        raise DataError(f"the server ended the session: {said or 'closed'}") from error
