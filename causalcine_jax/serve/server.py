"""The web server that serves the desk's app."""

import socket

import uvicorn
from starlette.types import ASGIApp

from causalcine_jax.errors import UsageError
from causalcine_jax.serve.limits import MESSAGE_BYTES

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
