"""`causalcine prepare --ray` on two nodes of this machine makes the store of one process."""

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from repository import ROOT
from tiny_models import tiny_folder
from video_files import films_folder

from causalcine_jax.data.video import prepare
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.filters import Filters
from causalcine_jax.errors import DataError

pytestmark = pytest.mark.ray

FILTERS = Filters(dark=0, static=0, duplicate_bits=-1, least_size=0)
STARTS_S = 300.0  # on a busy machine
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}


class TwoNodes:
    """The cluster: a head, and a node that tests may end."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(True, head_node_args={"include_dashboard": False, **NODE})
        self._second = None
        self.address = self._cluster.address
        self.whole()

    def whole(self):
        """Starts the second node, if it is not there. It claims a GPU, so actors start there."""
        self._second = self._second or self._cluster.add_node(num_gpus=1, **NODE)

    def end_second(self):
        self._cluster.remove_node(self._second, allow_graceful=False)
        self._second = None

    def close(self):
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster():
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs Ray, the extra [ray]")
    # Ray's Unix sockets are in this folder: their paths must be short, and pytest's are not.
    with (
        pytest.MonkeyPatch.context() as patched,
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
    ):
        settings = {
            "RAY_TMPDIR": folder,
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),  # else Ray keeps one in the user's home
            "RAY_agent_register_timeout_ms": str(int(STARTS_S * 1000)),  # on a busy machine
            "RAY_worker_register_timeout_seconds": str(int(STARTS_S)),
            "RAY_worker_niceness": "0",  # 15 by default, which never ends on a busy machine
            "PYTHONPATH": str(ROOT),  # of the workers
        }
        for name, value in settings.items():
            patched.setenv(name, value)
        two = TwoNodes()
        yield two
        two.close()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = films_folder(tmp_path_factory.mktemp("films") / "videos", 5)
    (folder / "words.mp4").write_text("no video at all")
    return folder


@pytest.fixture(scope="module")
def one(videos, model, tmp_path_factory):
    """OUT as this process alone makes it."""
    out = tmp_path_factory.mktemp("one") / "out"
    prepare.prepare(config(videos, model, out), progress=False)
    return out


def config(videos, model, out, **options) -> PrepareConfig:
    return PrepareConfig(
        videos, out, model, latent_frames=12, detector="captions", filters=FILTERS, held_out=0.4,
        embeddings=True, **options,
    )  # fmt: skip


def result(out: Path) -> dict[str, bytes]:
    """The bytes of every file; the rows of stages come in any order."""
    files = [file for file in sorted(out.rglob("*")) if file.is_file()]
    rows = [file for file in files if file.suffix == ".jsonl" and file.parent.name == "work"]
    found = {str(file.relative_to(out)): file.read_bytes() for file in files if file not in rows}
    sorted_rows = {file.name: b"".join(sorted(file.open("rb"))) for file in rows}
    return found | sorted_rows


def latents(out: Path) -> list[Path]:
    return sorted((out / "work" / "latents").rglob("*.npy"))


def when_some_latents_are_there(out: Path, call) -> threading.Thread:
    def watch():
        while not latents(out):
            time.sleep(0.02)
        call()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_a_node_that_dies_costs_nothing(cluster, videos, model, one, tmp_path):
    out = tmp_path / "out"
    ended = when_some_latents_are_there(out, cluster.end_second)
    made = prepare.prepare(
        config(videos, model, out, ray=cluster.address, gpus_per_worker=0), progress=False
    )
    ended.join(STARTS_S)
    assert not ended.is_alive()
    cluster.whole()
    assert result(out) == result(one) and made.numbers["films"] == len(latents(one)) == 10
    assert made.numbers["rejects"]["probe"] == {"unreadable": 1}


def test_a_killed_run_goes_on_on_the_cluster(cluster, videos, model, one, tmp_path):
    """What it left is not made again."""
    out, filters = tmp_path / "out", tmp_path / "filters.yaml"
    filters.write_text("{dark: 0, static: 0, duplicate_bits: -1, least_size: 0}")
    words = [
        "prepare", videos, "--model", model, "--out", out, "--latent-frames", 12, "--shots",
        "captions", "--held-out", 0.4, "--filters", filters, "--ray", cluster.address,
        "--gpus-per-worker", 0, "--embeddings",
    ]  # fmt: skip
    line = [sys.executable, "-m", "causalcine_jax", *map(str, words)]
    driver = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL)
    killed = when_some_latents_are_there(out, lambda: driver.send_signal(signal.SIGKILL))
    assert driver.wait(STARTS_S) == -signal.SIGKILL
    killed.join(STARTS_S)
    assert not (out / "train").exists()
    before = {file: file.stat().st_mtime_ns for file in latents(out)}
    rows = (out / "work" / "shots.jsonl").read_bytes()
    prepare.prepare(
        config(videos, model, out, ray=cluster.address, gpus_per_worker=0), progress=False
    )
    assert before and {file: file.stat().st_mtime_ns for file in before} == before
    assert (out / "work" / "shots.jsonl").read_bytes() == rows
    assert result(out) == result(one)


def test_actors_with_gpus_encode_what_others_read(cluster, videos, model, one, tmp_path):
    """The node's GPU is a claim: jax encodes on the CPU there, so the bytes are the same."""
    out = tmp_path / "out"
    prepare.prepare(config(videos, model, out, ray=cluster.address), progress=False)
    assert result(out) == result(one)


def test_an_address_where_no_cluster_is(videos, model, tmp_path):
    pytest.importorskip("ray", reason="needs Ray, the extra [ray]")
    with pytest.raises(DataError, match=r"no Ray cluster answers at 127.0.0.1:1 \(.*refused\)"):
        prepare.prepare(config(videos, model, tmp_path / "out", ray="127.0.0.1:1"))


def _unless_five(number: int) -> int:
    if number == 5:
        os._exit(3)
    return -number


def _refuses(number: int) -> int:
    raise DataError("the disk is full")


def test_a_file_that_ends_its_worker_costs_no_other(cluster, tmp_path):
    import ray

    from causalcine_jax.data.video.ray_executor import RayExecutor, ray_executor
    from causalcine_jax.utils.ray_cluster import joined

    with joined(cluster.address):
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import it
        executor = RayExecutor(0)
        found = dict(executor.each(_unless_five, range(9)))
        assert found.pop(5)[0] == "crash"
        assert found == {number: -number for number in range(9) if number != 5}
        found = dict(RayExecutor(1).on_devices(_unless_five, range(3, 7)))
        assert found.pop(5)[0] == "crash" and found == {3: -3, 4: -4, 6: -6}
        with pytest.raises(DataError, match="the disk is full"):
            list(executor.each(_refuses, [1]))
        with pytest.raises(DataError, match=r"none is not there on .*: with --ray every host"):
            list(RayExecutor(0, (tmp_path / "none",)).each(_unless_five, [1]))
        many = config(tmp_path / "v", tmp_path, tmp_path / "out", ray="auto", gpus_per_worker=2)
        with pytest.raises(DataError, match=r"--gpus-per-worker 2, and the Ray cluster has 1"):
            ray_executor(many)
