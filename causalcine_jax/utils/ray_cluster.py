"""A Ray cluster to run on, which needs the extra [ray]. Ray is imported when one is asked for."""

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator

from causalcine_jax.errors import DataError, UsageError, first_line

LOCAL = "local"  # the address that starts a cluster on this machine
ANSWERS_S = 10.0  # Ray itself tries for minutes


@contextlib.contextmanager
def needs_ray() -> Iterator[None]:
    """Inside, a failed import of Ray is a `UsageError` that names the extra."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        yield
    except ImportError as error:
        raise UsageError(
            f"Ray cannot be imported ({error}): pip install 'causalcine-jax[ray]'"
        ) from None


def join(address: str) -> None:
    """Joins the cluster at `address` (auto: that of this machine), or starts one (LOCAL).

    Raises:
      UsageError: Ray is not installed.
      DataError: none answers, or none can be started.
    """
    with needs_ray():
        import ray
    alone = {"include_dashboard": False} if address == LOCAL else {}
    try:
        host, _, port = address.rpartition(":")
        if host and port.isdecimal() and "://" not in address:
            socket.create_connection((host, int(port)), ANSWERS_S).close()
        ray.init(address, log_to_driver=False, logging_level=logging.WARNING, **alone)
    except (
        Exception
    ) as error:  # of many kinds: ConnectionError, ValueError, RuntimeError, Exception
        if address == LOCAL:
            raise DataError(f"no Ray cluster can be started here: {first_line(error)}") from error
        raise DataError(
            f"no Ray cluster answers at {address} ({first_line(error)}): start one with ray start "
            "--head, or correct the address; if it asks for a token, set RAY_AUTH_MODE=token, and "
            "RAY_AUTH_TOKEN or ~/.ray/auth_token"
        ) from error


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Inside, this process is a driver of the cluster (`join`), and hears SIGTERM as before.

    A process that has joined one already stays with it.
    """
    with needs_ray():
        import ray
    if ray.is_initialized():
        yield
        return
    with _own_sigterm():
        join(address)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray replaces the handler of SIGTERM: ours, which keeps what was made, comes back."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
