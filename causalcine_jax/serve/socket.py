"""One client's socket: its messages to orders, its outbox to the wire."""

import asyncio
import contextlib
import logging
from collections.abc import Coroutine
from typing import Any

from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.serve.client_messages import Ping, SessionStart, SessionWatch, Snapshot
from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.limits import MESSAGE_BYTES
from causalcine_jax.serve.orders import order
from causalcine_jax.serve.outbox import Outbox, Stalled
from causalcine_jax.serve.parts import PROTOCOL
from causalcine_jax.serve.protocol import Refused, read_client
from causalcine_jax.serve.rate import Rate
from causalcine_jax.serve.server_messages import Error, Pong
from causalcine_jax.serve.session import Session

POLICY, TOO_BIG, INTERNAL, TRY_LATER = 1008, 1009, 1011, 1013
MOST_WAITING = 64  # messages, before the socket is read no further
MOST_REFUSED = 50  # messages in a row


log = logging.getLogger("causalcine.desk")


class _Closed(Exception):
    """This side ends the socket; `code` is the protocol's."""

    def __init__(self, code: int, reason: str):
        super().__init__(reason)
        self.code = code


async def stream(desk: Desk, socket: WebSocket) -> None:
    """Serves a socket to its end."""
    if PROTOCOL not in socket.scope["subprotocols"]:
        return await socket.close(POLICY, f"ask for the subprotocol {PROTOCOL}")
    await socket.accept(PROTOCOL)
    outbox = Outbox()
    inbox = _Inbox(socket)
    sending = asyncio.create_task(outbox.send_all(socket.send_text, socket.send_bytes))
    reading = asyncio.create_task(_read(desk, inbox, outbox))
    filling = asyncio.create_task(inbox.fill())
    code, reason = 1000, ""
    try:
        await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
        error = reading.exception() if reading.done() else None
        if isinstance(error, _Closed):
            code, reason = error.code, str(error)
            outbox.close()
            with contextlib.suppress(Exception):
                await sending
        elif not isinstance(error, WebSocketDisconnect | None):
            log.error("a client's socket failed", exc_info=error)
            code, reason = INTERNAL, "the server failed"
        elif sending.done() and isinstance(sending.exception(), Stalled):
            code, reason = POLICY, str(sending.exception())
    finally:
        for task in (sending, reading, filling):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        with contextlib.suppress(Exception):
            await socket.close(code, reason)


async def _read(desk: Desk, inbox: "_Inbox", outbox: Outbox) -> None:
    session, directs, refused = None, False, 0
    rate = Rate(desk.resources.limits.rate)
    try:
        while True:
            message = None
            try:
                text = await inbox.text(None if session else desk.resources.limits.first_s)
                if rate.count() > 0:
                    raise _Closed(POLICY, f"more than {rate.per_second:g} messages a second")
                message = read_client(text)
                if isinstance(message, Ping):
                    outbox.put(Pong(event_id=message.event_id))
                elif session is None:
                    session, directs = await _begun(desk, message, inbox, outbox)
                else:
                    _obey(session, directs, message, outbox)
                refused = 0
            except (UsageError, DataError) as error:
                again = isinstance(error, DataError)
                failed = Refused("refused", str(error), "type", retryable=again)
                outbox.put(_answer(failed, message))
            except Refused as error:
                told = error.error
                outbox.put(_answer(error, message))
                refused += 1
                # A viewer may come before the director who opens the film again.
                waits = told.retryable or isinstance(message, SessionWatch)
                if told.code == "full" or (session is None and waits):
                    raise _Closed(TRY_LATER, told.code) from None
                if refused > MOST_REFUSED:
                    raise _Closed(POLICY, "too many refused messages") from None
    finally:
        if session is not None:
            session.leave(outbox)


def _answer(refused: Refused, message: Any) -> Error:
    """The refusal, with the message's event."""
    told, event = refused.error, getattr(message, "event_id", None)
    return told.model_copy(update={"event_id": told.event_id or event})


class _Inbox:
    """What a client sent. It is read all the time, so that a lost client is noticed at once."""

    def __init__(self, socket: WebSocket):
        self._socket, self._gone = socket, asyncio.Event()
        self._waiting: asyncio.Queue[Message] = asyncio.Queue(MOST_WAITING)

    async def fill(self) -> None:
        while True:
            received = await self._socket.receive()
            if received["type"] == "websocket.disconnect":
                self._gone.set()
            await self._waiting.put(received)
            if self._gone.is_set():
                return

    async def text(self, at_most: float | None) -> str:
        """The next message, in at most so many seconds."""
        try:
            async with asyncio.timeout(at_most):
                received = await self._waiting.get()
        except TimeoutError:
            raise _Closed(POLICY, "no session.start came") from None
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received.get("code", 1005))
        text = received.get("text")
        if text is None:
            raise Refused("bad_message", "messages to the server are text: JSON", None)
        if len(text) > MESSAGE_BYTES or len(text.encode()) > MESSAGE_BYTES:
            raise _Closed(TOO_BIG, f"a message has at most {MESSAGE_BYTES} bytes")
        return text

    async def unless_gone(self, work: Coroutine[Any, Any, Session]) -> Session:
        """The result of `work`, which is cancelled when the client is lost."""
        task, going = asyncio.create_task(work), asyncio.create_task(self._gone.wait())
        try:
            await asyncio.wait((task, going), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise WebSocketDisconnect(1005)
            return task.result()
        finally:
            going.cancel()
            task.cancel()


async def _begun(desk: Desk, message: Any, inbox: _Inbox, outbox: Outbox) -> tuple[Session, bool]:
    """The session that the first message asks for, and whether this client directs it."""
    if isinstance(message, SessionStart):
        return await inbox.unless_gone(desk.open(message, outbox)), True
    if isinstance(message, SessionWatch):
        return desk.watch(message.watch_token, message.event_id, outbox), False
    raise Refused("not_started", "begin with session.start or session.watch", "type")


def _obey(session: Session, directs: bool, message, outbox: Outbox) -> None:
    if isinstance(message, SessionStart | SessionWatch):
        raise Refused("refused", "this socket has a session: open another socket", "type")
    if isinstance(message, Snapshot):
        return outbox.put(session.state(message.event_id))
    if not directs or session.directing is not outbox:
        raise Refused("read_only", "who watches cannot direct", "type")
    order(session, message)
