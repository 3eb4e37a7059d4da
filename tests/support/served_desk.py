"""A desk on the mock behind a real server, and a client that reads what comes."""

import contextlib
import json
import threading
import time

import httpx2
import uvicorn
from websockets.sync.client import connect

from causalcine_jax.serve.app import desk_app
from causalcine_jax.serve.protocol import FROM_SERVER
from causalcine_jax.serve.server import listening, server_config

TOKEN = "a-token-for-the-tests"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
SECONDS = 60  # in which every message comes, also where other work keeps the cores


class ServedDesk:
    """A running server. `get` asks by HTTP, `connect` opens a socket."""

    def __init__(self, desk):
        self.desk, listens = desk, listening("127.0.0.1", 0)
        self.host = f"127.0.0.1:{listens.getsockname()[1]}"
        self.url = f"http://{self.host}"
        self._server = uvicorn.Server(server_config(desk_app(desk, TOKEN)))
        self._thread = threading.Thread(target=self._server.run, args=([listens],))
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        self._open = contextlib.ExitStack()
        self._http = self._open.enter_context(httpx2.Client(base_url=self.url, headers=BEARER))

    def get(self, path, **options):
        return self._http.get(path, **options)

    def connect(self, begin="session.start", **start):
        """A socket; begins a session with the given fields of session.start."""
        free = begin == "session.start" and "resume_token" not in start
        client = DeskSocket(self._open.enter_context(socket(self.host)))
        if begin:
            client.say(begin, **{**({"pace": "free"} if free else {}), **start})
        return client

    def close(self):
        self._open.close()
        self._server.should_exit = True
        self._thread.join()


def socket(host, headers=BEARER, close_timeout=1, **options):
    """A socket of the desk. A server that never answers its close is waited for a second."""
    return connect(
        f"ws://{host}/v1/stream",
        subprotocols=["causalcine.v1"],
        additional_headers=headers,
        max_size=None,
        close_timeout=close_timeout,
        **options,
    )


class DeskSocket:
    """One socket: `say` sends a message, `until` reads to a message of that type."""

    def __init__(self, socket):
        self.socket, self.seen, self.media = socket, [], {}

    def say(self, type, **fields):
        self.socket.send(json.dumps({"type": type, **fields}))

    def shot(self, caption, chunks=1, **fields):
        self.say("shot.append", shot={"caption": caption, "chunks": chunks}, **fields)

    def read(self):
        message = FROM_SERVER.validate_json(self.socket.recv(SECONDS))
        self.seen.append(message)
        if message.type in ("media.init", "media.chunk"):
            media = self.socket.recv(SECONDS)
            assert len(media) == message.bytes
            if message.type == "media.chunk":
                self.media[message.take_id, message.chunk] = media
        return message

    def until(self, type, **fields):
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            message = self.read()
            if message.type == type and all(getattr(message, k) == v for k, v in fields.items()):
                return message
        raise TimeoutError(f"no {type} {fields} after {[m.type for m in self.seen]}")

    def chunks(self, count):
        return [self.until("media.chunk") for _ in range(count)]
