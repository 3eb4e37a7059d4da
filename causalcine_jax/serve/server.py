"""The web server that serves the desk's app."""

import contextlib
import secrets
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from causalcine_jax.errors import UsageError
from causalcine_jax.serve.app import desk_app
from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.engine import Engine
from causalcine_jax.serve.limits import MESSAGE_BYTES, SessionLimits

STOPPING = 10  # seconds for open requests


def server_config(app: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        ws_max_size=MESSAGE_BYTES,
        ws_per_message_deflate=False,  # video does not shrink
        timeout_graceful_shutdown=STOPPING,
        log_level="warning",
        server_header=False,
    )


def listening(host: str, port: int) -> socket.socket:
    """A socket bound to that address. `UsageError` if it is taken or not of this machine."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen()  # who is quick waits until the app answers
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {getattr(error, 'strerror', None) or error}: "
            "choose another --port or --host"
        ) from error
    return bound


@contextlib.contextmanager
def running(
    engine: Engine, projects: Path, limits: SessionLimits = SessionLimits(), token: str = ""
) -> Iterator[str]:
    """Serves a desk in a thread of this process, on a free port of this machine; yields its URL."""
    token, bound = token or secrets.token_urlsafe(24), listening("127.0.0.1", 0)
    server = uvicorn.Server(server_config(desk_app(Desk(engine, projects, limits), token)))
    thread = threading.Thread(target=server.run, args=([bound],), name="desk")
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/?token={token}"
    finally:
        server.should_exit = True
        thread.join()
