"""`causalcine ray_serve` on a cluster of this machine: two replicas of the mock."""

import contextlib
import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from urllib.parse import urlsplit

import httpx2
import pytest
from desk_page import BEACH, FOREST, HEAD, MADE, MOST_MS, begin, type_shot, until
from repository import ROOT
from served_desk import BEARER, SECONDS, TOKEN, DeskSocket, socket

from causalcine_jax.serve.client import DeskClient
from causalcine_jax.serve.server import listening

STARTS = 120  # seconds, on a busy machine
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return tmp_path_factory.mktemp("films")


@pytest.fixture(scope="module")
def cluster(films):
    """Two replicas on a cluster of their own; runs the script again, with other flags."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray Serve, the extra [ray]")
    with listening("127.0.0.1", 0) as free:
        port = free.getsockname()[1]
    # Ray's Unix sockets are in this folder: their paths must be short, and pytest's are not.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        cluster = Cluster(folder, films, port)
        try:
            assert cluster.said == f"http://{cluster.host}/?token={TOKEN}\n"
            yield cluster
        finally:
            cluster.close()


class Cluster:
    def __init__(self, folder, films, port):
        self.host = f"127.0.0.1:{port}"
        self._env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RAY_TMPDIR": folder,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray keeps one in the user's home
        }
        self._flags = ["--mock", "--cpus=0", "--replicas=2", f"--token={TOKEN}", f"--port={port}"]
        self._flags += ["--projects", str(films)]
        self._serving = self._start(*self._flags)
        self.said = self._serving.stdout.readline()

    def drain(self, replica):
        self._finish("--drain", replica)

    def start_missing(self):
        self._finish(*self._flags)

    def close(self):
        self._serving.terminate()
        self._serving.communicate(timeout=STARTS)

    def _finish(self, *flags):
        command = self._start("--address=auto", *flags)
        command.communicate(timeout=STARTS)
        assert command.returncode == 0

    def _start(self, *flags):
        command = [sys.executable, "launch/ray_serve.py", *flags]
        return subprocess.Popen(command, cwd=ROOT, env=self._env, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def desk(cluster):
    """Opens sockets at the first path, or at another path."""
    with contextlib.ExitStack() as held:

        def connect(path="", **start):
            client = DeskSocket(held.enter_context(socket(f"{cluster.host}{path}")))
            pace = {} if "resume_token" in start else {"pace": "free"}
            client.say("session.start", **pace, **start)
            return client

        yield connect


def place(cluster, session_id, take="t1"):
    """The prefix of the replica that has a session, as Redirect answers."""
    with httpx2.Client(headers=BEARER, follow_redirects=True) as client:
        answer = client.get(f"http://{cluster.host}/v1/sessions/{session_id}/takes/{take}/chunks/0")
    assert answer.status_code == 200 and answer.content[4:8] == b"moof"
    return "/" + answer.url.path.split("/")[1]


def test_a_director_stays_with_a_replica_and_a_drained_one_hands_its_films_over(cluster, desk):
    first, second = desk(), desk()
    mine, other = first.until("session.started"), second.until("session.started")
    for client in (first, second):
        client.shot("Mia waves.", 2)
        assert [c.chunk for c in client.chunks(2)] == [0, 1]
    here, there = place(cluster, mine.session_id), place(cluster, other.session_id)
    assert {here, there} == {"/0", "/1"}
    # The film is open in one replica only, whatever path its token takes.
    assert desk(here, resume_token=mine.resume_token).until("session.started").resumed
    first.until("session.done", reason="replaced")
    refused = desk(there, resume_token=mine.resume_token).until("error")
    assert refused.code == "full" and "another server" in refused.message

    cluster.drain(here[1:])
    third = desk(here, resume_token=mine.resume_token)  # the prefix of the one that is gone
    assert [c.chunk for c in third.until("session.state").chunks] == [0, 1]
    third.shot("Otto sleeps.")
    assert third.chunks(1)[0].chunk == 2
    assert place(cluster, mine.session_id) == there
    second.shot("Mia and Otto meet.")
    assert second.chunks(1)[0].chunk == 2

    cluster.start_missing()
    fresh = desk()
    started = fresh.until("session.started")
    fresh.shot("Mia waves.")
    fresh.chunks(1)
    assert place(cluster, started.session_id) == here and place(cluster, mine.session_id) == there


def test_a_killed_replica_starts_again_and_its_films_go_on(cluster, desk, films):
    client = desk()
    started = client.until("session.started")
    client.shot("Mia waves.", 2)
    client.chunks(2)
    here = place(cluster, started.session_id)
    holder = (films / started.session_id / ".lock").read_text()  # "process 123 on a host"
    os.kill(int(holder.split()[1]), signal.SIGKILL)
    end = time.monotonic() + STARTS
    while True:
        try:
            again = desk(here, resume_token=started.resume_token)
            assert [c.chunk for c in again.until("session.state").chunks] == [0, 1]
            break
        except Exception:
            assert time.monotonic() < end
            time.sleep(0.5)
    again.shot("Otto sleeps.")
    assert again.chunks(1)[0].chunk == 2


def test_a_browser_comes_back_to_its_replica(cluster):
    with httpx2.Client(base_url=f"http://{cluster.host}", follow_redirects=True) as browser:
        page = browser.get(f"/?token={TOKEN}")
        assert page.status_code == 200 and page.url.path in ("/0/", "/1/")
        assert "token" not in str(page.url) and "director's desk" in page.text
        for _ in range(3):
            assert browser.get("/").url.path == page.url.path
        assert browser.get("/9/readyz").url.path == f"{page.url.path}readyz"
        assert browser.get(f"{page.url.path}main.js").status_code == 200
    with httpx2.Client(base_url=f"http://{cluster.host}") as stranger:
        assert [stranger.get(path).status_code for path in ("/", "/0/", "/9/")] == [401] * 3


def test_python_clients_take_the_first_address_or_that_of_a_replica(cluster):
    for path in ("", "/1"):
        with DeskClient.open(f"http://{cluster.host}{path}/?token={TOKEN}") as client:
            client.start(pace="free")
            assert client.receive(SECONDS)[0].type == "session.started"
            client.stop()


@pytest.mark.browser
def test_the_page_moves_with_its_film(cluster, browser):
    with browser.new_context() as context:
        context.set_default_timeout(MOST_MS)
        page = context.new_page()
        page.goto(f"http://{cluster.host}/?token={TOKEN}")
        begin(page, BEACH)
        until(page, f"{HEAD} > 0.5")
        here = urlsplit(page.url).path
        cluster.drain(here.strip("/"))
        page.wait_for_url(lambda url: urlsplit(url).path != here)
        page.wait_for_selector(".playhead")
        until(page, f"{HEAD} > 0.5")
        type_shot(page, FOREST)
        until(page, f"{MADE}.length === 2")
    cluster.start_missing()
