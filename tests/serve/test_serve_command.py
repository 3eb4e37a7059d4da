"""`causalcine serve`: what it refuses before it starts; every route behind the token."""

import json

import pytest
from desk_house import TOKEN
from starlette.routing import Route
from starlette.testclient import TestClient

from causalcine_jax.__main__ import command
from causalcine_jax.cli import run
from causalcine_jax.errors import UsageError
from causalcine_jax.serve.app import desk_app
from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.mock import MockEngine
from causalcine_jax.serve.server import listening


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--token", "short"], "at least 16 letters"),
        (["--max-sessions", "0"], "--max-sessions must be at least 1"),
        (["--mock", "--model", "x"], "leave out --model"),
        (["--mock", "--port", "99999"], "cannot listen on 127.0.0.1:99999"),
        (["--mock", "--host", "192.0.2.1"], "choose another --port or --host"),
    ],
)
def test_flags_that_cannot_be_are_refused_before_anything_starts(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(["serve", *flags]))
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_port_that_is_taken_is_named():
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}"):
            listening("127.0.0.1", port)


def test_the_schema_is_printed(capsys):
    command(["serve", "--schema"])
    assert json.loads(capsys.readouterr().out)["properties"].keys() == {"client", "server"}


def test_every_route_but_health_needs_the_token(tmp_path):
    guard = desk_app(Desk(MockEngine(), tmp_path), TOKEN)
    routes = [route for route in guard.app.routes if isinstance(route, Route)]
    assert len(routes) > 12
    with TestClient(guard, base_url="http://localhost") as client:
        for route in routes:
            path = route.path.replace(":int", "").format(
                session="s", take="t", chunk=0, frame=0, file="film.mp4", id="video_1"
            )
            for method in route.methods:
                status = client.request(method, path).status_code
                assert status == (200 if path == "/healthz" else 401), (method, path)
