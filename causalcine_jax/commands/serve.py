"""The director's desk: a server where films are directed in a browser while they are made.

    causalcine serve                           the embedded student; prints an address and opens it
    causalcine serve --model models/wan-1.3b
    causalcine serve --mock                    drawn pictures in place of a model

The address holds a token: who has it may direct. Films are kept under --projects, take by take, so
a server that was stopped or killed goes on where it was.
"""

import argparse
import secrets
import sys
import threading
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from causalcine_jax.cli import ArgumentParser, whole_number
from causalcine_jax.commands.model_flags import NETWORK_CHOICES, model_flag, network_flags
from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.utils.compile_cache import compile_cache_flags, keep_compiled

if TYPE_CHECKING:
    from causalcine_jax.film_folder.loaded_model import LoadedModel
    from causalcine_jax.serve.desk import Desk
    from causalcine_jax.serve.engine import Engine

PORT, POOL_FRAMES = 8765, 240
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Of a model, so without effect on a mock.
OF_MODEL = ("pool_frames", "compile_cache", "no_compile_cache", *NETWORK_CHOICES)
MOCK_SECONDS = 0.3  # of a mock's chunk, which lasts 0.75 s


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(prog="causalcine serve", description=__doc__)
    desk_flags(parser)
    parser.add_argument("--port", type=whole_number, default=PORT, help=f"default {PORT}; 0: any")
    parser.add_argument(
        "--no-browser", action="store_true", help="do not open the address in a browser"
    )
    return parser.parse_args(arguments)


def desk_flags(parser: ArgumentParser) -> None:
    """Adds the flags that `causalcine ray_serve` takes too; `refuse_faults` checks them."""
    model_flag(parser)
    network_flags(parser)
    parser.add_argument("--mock", action="store_true", help="no model: drawn pictures")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a host name under which browsers reach this server; may be repeated",
    )
    parser.add_argument(
        "--token", help="secret of at least 16 characters that clients send (default: random)"
    )
    parser.add_argument(
        "--projects",
        type=Path,
        default=Path("outputs/desk"),
        metavar="DIR",
        help="folder of the films (default outputs/desk)",
    )
    parser.add_argument(
        "--max-sessions", type=whole_number, default=4, help="films at once (default 4)"
    )
    parser.add_argument(
        "--viewers", type=whole_number, default=20, help="viewers of one film (default 20)"
    )
    parser.add_argument(
        "--pool-frames",
        type=whole_number,
        default=POOL_FRAMES,
        metavar="FRAMES",
        help=f"latent frames of history that each film keeps (default {POOL_FRAMES}, a minute)",
    )
    compile_cache_flags(parser)


def refuse_faults(flags: argparse.Namespace) -> None:
    """`UsageError` for flags of `desk_flags` that cannot be."""
    if flags.token is not None and len(flags.token) < 16:
        raise UsageError("--token must have at least 16 characters: leave it out for a random one")
    if flags.token is not None and not flags.token.isascii():
        raise UsageError("--token must be of ASCII characters: it is sent in headers")
    there = next(place for place in (flags.projects, *flags.projects.parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"--projects: {there} is a file, and films need a folder: choose another")
    if flags.max_sessions < 1 or flags.viewers < 0:
        raise UsageError("--max-sessions must be at least 1, and --viewers at least 0")
    if flags.mock and flags.model:
        raise UsageError("--mock films without a model: leave out --model")
    unset = {"pool_frames": POOL_FRAMES, "compile_cache": None, "no_compile_cache": False}
    given = [name for name in OF_MODEL if getattr(flags, name) != unset.get(name)]
    if flags.mock and given:
        raise UsageError(f"--mock films without a model: leave out --{given[0].replace('_', '-')}")


def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    refuse_faults(flags)
    # After the flags are understood: a wrong one should not wait for jax.
    import uvicorn

    from causalcine_jax.serve.app import desk_app
    from causalcine_jax.serve.server import listening, server_config

    token = flags.token or secrets.token_urlsafe(24)
    bound = listening(flags.host, flags.port)
    port = bound.getsockname()[1]
    app = desk_app(desk_of(flags), token, (*flags.allow_host, flags.host))
    url = address(flags.host, port, token)
    print(url, flush=True)
    if sys.stdout.isatty() and flags.host in LOOPBACK and not flags.no_browser:
        # In a thread: it answers once the server runs. Without a screen there is nothing to open.
        threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
    uvicorn.Server(server_config(app)).run([bound])


def address(host: str, port: int, token: str) -> str:
    """What a browser opens."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={quote(token, safe='')}"


def desk_of(flags: argparse.Namespace) -> "Desk":
    """The desk that `desk_flags` describe."""
    from causalcine_jax.serve.desk import Desk
    from causalcine_jax.serve.limits import SessionLimits

    limits = SessionLimits(sessions=flags.max_sessions, viewers=flags.viewers)
    return Desk(_engine(flags), flags.projects, limits)


def _engine(flags: argparse.Namespace) -> "Engine":
    if flags.mock:
        from causalcine_jax.serve.mock import MockEngine

        return MockEngine(MOCK_SECONDS)
    return film_engine(flags)


def film_engine(flags: argparse.Namespace) -> "Engine":
    """The engine of --model, --pool-frames (None for POOL_FRAMES) and the networks' flags."""
    from causalcine_jax.config import PoolConfig
    from causalcine_jax.serve.film_engine import FilmEngine

    asked = load_for_directing(flags)
    frames = POOL_FRAMES if flags.pool_frames is None else flags.pool_frames
    return FilmEngine(asked, PoolConfig(frames))


def load_for_directing(flags: argparse.Namespace) -> "LoadedModel":
    """The model of --model and the networks' flags. Imports jax."""
    from causalcine_jax.film.chosen_model import chosen_model
    from causalcine_jax.film.host_memory import allow_all_host_memory
    from causalcine_jax.film_folder.choices import Choices
    from causalcine_jax.film_folder.loaded_model import film_mesh, load_with_choices

    allow_all_host_memory()
    keep_compiled(flags.compile_cache, flags.no_compile_cache)
    choices = Choices(**{name: getattr(flags, name) for name in NETWORK_CHOICES})
    raise_faults("flags", choices.faults())
    return load_with_choices(chosen_model(flags.model), choices, film_mesh(choices))
