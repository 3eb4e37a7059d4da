"""`causalcine serve`: what it refuses before it starts; every route behind the token."""

import pytest
from served_desk import TOKEN
from starlette.routing import Route
from starlette.testclient import TestClient

from causalcine_jax.__main__ import command
from causalcine_jax.cli import run
from causalcine_jax.commands.ray_serve import lacking
from causalcine_jax.commands.serve import address
from causalcine_jax.errors import UsageError
from causalcine_jax.serve.app import desk_app
from causalcine_jax.serve.desk import Desk
from causalcine_jax.serve.mock import MockEngine
from causalcine_jax.serve.server import listening


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--token", "short"], "at least 16 characters"),
        (["--max-sessions", "0"], "--max-sessions must be at least 1"),
        (["--mock", "--model", "x"], "leave out --model"),
        (["--mock", "--port", "99999"], "cannot listen on 127.0.0.1:99999"),
        (["--mock", "--host", "192.0.2.1"], "choose another --port or --host"),
    ],
)
def test_invalid_flags_of_serve_are_refused_before_anything_starts(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(["serve", *flags]))
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--token", "short"], "at least 16 characters"),
        (["--replicas", "0"], "--replicas must be at least 1"),
        (["--gpus", "-1"], "--gpus and --tpus at least 0"),
        (["--address", "auto"], "--address needs --token"),
        (["--drain", "0"], "--drain needs --address"),
    ],
)
def test_invalid_flags_of_ray_serve_are_refused(flags, said, capsys):
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(["ray_serve", "--mock", *flags]))
    assert ended.value.code == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize("inside", ["", "films"])
def test_projects_that_are_a_file_are_refused_before_the_model_is_loaded(inside, tmp_path, capsys):
    (tmp_path / "taken").write_text("")
    with pytest.raises(SystemExit) as ended:
        run(lambda: command(["serve", "--projects", str(tmp_path / "taken" / inside)]))
    assert ended.value.code == 2
    assert f"--projects: {tmp_path / 'taken'} is a file" in capsys.readouterr().err


def test_devices_that_a_cluster_lacks_are_named():
    there = {"CPU": 4.0, "GPU": 8.0}
    assert lacking({"CPU": 1, "GPU": 4, "TPU": 0}, 2, there) == ""
    said = lacking({"CPU": 1, "GPU": 8, "TPU": 4}, 2, there)
    assert "2 replicas take 16 GPUs, and the cluster has 8" in said
    assert "8 TPUs, and the cluster has 0" in said and "CPU" not in said


def test_a_port_that_is_taken_is_named():
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1:{port}"):
            listening("127.0.0.1", port)


def test_the_schema_is_served(tmp_path):
    guard = desk_app(Desk(MockEngine(), tmp_path), TOKEN)
    with TestClient(guard, base_url="http://localhost") as client:
        schema = client.get("/v1/schema", headers={"Authorization": f"Bearer {TOKEN}"}).json()
    assert schema["properties"].keys() == {"client", "server"}


def test_every_route_but_those_of_probes_needs_the_token(tmp_path):
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
                open_to_probes = path in ("/healthz", "/readyz")
                assert status in (200, 503) if open_to_probes else status == 401, (method, path)


def test_a_desk_under_a_prefix_stays_there(tmp_path):
    guard = desk_app(Desk(MockEngine(), tmp_path), TOKEN)
    with TestClient(guard, base_url="http://localhost", root_path="/1") as client:
        answer = client.get(f"/1/?token={TOKEN}", follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, "/1/")
        assert client.get("/1/healthz").status_code == client.get("/1/main.js").status_code == 200


def test_the_printed_address_opens_the_desk(tmp_path):
    token = "a+token/of=letters &c"
    app = desk_app(Desk(MockEngine(), tmp_path), token, ("Desk.Example.com",))
    host, _, path = address("desk.example.com", 80, token).removeprefix("http://").partition("/")
    with TestClient(app, base_url=f"http://{host}") as client:
        assert client.get(f"/{path}", follow_redirects=False).status_code == 303
