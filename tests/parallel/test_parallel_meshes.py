"""Meshes of eight CPU devices compute what one device does; weights travel, activations do not.

`make test` checks one mesh and what is quick to compile; `make slow` checks all meshes and stages.
"""

import fcntl
import json
import math
import os
import subprocess
import sys

import jax
import pytest
from mesh_stages import autoencoder
from repository import ROOT

QUICK, SLOW = ("2x4",), ("8x1", "4x2", "1x8")  # data x seq
MESHES = (*QUICK, *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in SLOW))
# Relative distances that count as equal in float32: of a loss, of every array, of the GAN's head.
#
# The gradient of the head's queries is a small difference of large terms. On one device it moves by
# 2.1e-5 if only the sums inside feed-forwards are reordered. All other arrays then move by less
# than 1e-6 (on_eight_devices.py ... reordered).
LOSS, ARRAY, HEAD = 1e-6, 1e-5, 5e-5


@pytest.fixture(scope="session")
def on_eight_devices(tmp_path_factory, worker_id):
    """The report of on_eight_devices.py for its arguments, made once.

    The first of pytest's processes to ask makes it; the others wait.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent

    def report(*arguments: str) -> dict:
        file = shared / f"{'_'.join(arguments)}.json"
        with open(file.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not file.exists():
                file.write_text(run(*arguments))
        return json.loads(file.read_text())

    return report


def run(*arguments: str) -> str:
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        # With only as many threads as devices, collectives started in different orders deadlock.
        "NPROC": "32",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "on_eight_devices.py", *arguments],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(params=MESHES)
def mesh(request):
    return request.param


@pytest.fixture
def report(on_eight_devices, mesh):
    """One process for all meshes of a report, so the single-device program compiles once."""
    return on_eight_devices(
        *(QUICK if mesh in QUICK else SLOW), "teacher_forcing", "rollout", "autoencoder"
    )


def assert_equal(stage: dict, mesh: str, *names: str):
    distance = stage[mesh]["distance"]
    assert set(distance) == set(names)
    assert all(distance[name] < {"loss": LOSS, "head": HEAD}.get(name, ARRAY) for name in names), (
        distance
    )


def test_training_rollout_text_and_autoencoder_are_those_of_one_device(report, mesh):
    assert_equal(report["teacher_forcing"], mesh, "loss", "transformer", "text_encoder")
    assert_equal(report["rollout"], mesh, "text", "film", "pool")
    assert_equal(report["autoencoder"], mesh, "latents", "video")


STUDENT = {
    "ode_init": ["student"],
    "dmd_generator": ["student"],
    "dmd_critic": ["fake_score", "head"],
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", QUICK + SLOW)
@pytest.mark.parametrize("stage", STUDENT)
def test_every_stage_of_a_student_is_that_of_one_device(on_eight_devices, stage, mesh):
    found = on_eight_devices(*QUICK, *SLOW, stage)[stage]
    assert_equal(found, mesh, "loss", *STUDENT[stage])
    assert found[mesh]["gradients_cut"]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", QUICK + SLOW)
def test_a_streamed_film_is_that_of_one_device(on_eight_devices, mesh):
    """Text encoder, guided rollout and decoder; pixels differ by at most one level of 255."""
    film, data = on_eight_devices(*QUICK, *SLOW, "film")["film"][mesh], int(mesh[0])
    if data > 2:  # a guided film is two histories
        assert (
            f"2 films cannot be split over data={data} (make them a multiple of {data})"
            in film["refused"]
        )
        return
    assert film["spread"] > 10
    assert film["pool"] < ARRAY
    assert film["largest"] <= 1 and film["differing"] < 1e-3
    assert film["held"] == [2, 2 // data, 9, 8, 8 // int(mesh[-1]), 6]


def test_pools_frames_and_gradients_are_sharded(report, mesh):
    """A pool over films and heads, frames over films and height, gradients as their weights.

    Frames with too few rows are sharded over width.
    """
    data, seq = map(int, mesh.split("x"))
    (layers, films, _, _, heads, _), *_ = report["rollout"][mesh]["held"]["pool"]
    assert (layers, films, heads) == (2, 8 // data, 8 // seq)
    (_, _, rows, columns, _), *_ = report["autoencoder"][mesh]["held"]["latents"]
    assert (rows, columns) == ((4, 1) if seq == 8 else (4 // seq, 8))
    assert report["autoencoder"][mesh]["held"]["video"] == [
        [8 // data, 5, 4 * rows, 4 * columns, 3]
    ]
    assert report["teacher_forcing"][mesh]["gradients_cut"]


def test_weights_are_gathered_and_activations_never_summed(report, mesh):
    """The collectives of the compiled training step.

    Activations are larger than weights here: on every mesh a device has 7 segments of 144 tokens of
    48 channels. Only weights' gradients are summed. On the mesh 1x8, so are the gradients of the
    text encoder's few tokens, which "seq" does not shard.
    """
    found, largest_matrix = report["teacher_forcing"][mesh]["collectives"], report["largest_matrix"]
    sizes = lambda *kinds: [
        math.prod(shape) for kind, shapes in found if kind in kinds for shape in shapes
    ]
    activations = 7 * 144 * 48
    assert largest_matrix < activations / 2
    assert max(sizes("all-reduce", "reduce-scatter")) <= (
        activations / 2 if mesh == "1x8" else largest_matrix
    )
    gathered = [shape[-2:] for kind, shapes in found if kind == "all-gather" for shape in shapes]
    assert all(weight in gathered for weight in ([48, 48], [48, 64], [64, 48], [48, 288]))
    # q, k, v and the output: forward, recomputed, and backward; each device's share of them.
    exchanged = [shapes for kind, shapes in found if kind == "all-to-all"]
    assert len(exchanged) == (0 if mesh == "8x1" else 12)
    assert sum(sizes("all-to-all")) == len(exchanged) * 7 * 144 * 48


def test_a_rollout_gathers_each_layers_weights_once(report, mesh):
    """Once for each of two layers, in 12 passes.

    Their weights are q, k, v and o of both attentions, and two of the feed-forward.
    """
    found = report["rollout"][mesh]["gathers"]
    assert [
        found[f"f32[1,{rows},{columns}]"] for rows, columns in ((48, 48), (48, 64), (64, 48))
    ] == [2 * 8, 2, 2]


def test_a_rollout_sums_nothing_but_routing_scores(report, mesh):
    """In denoise and in commit: for each film of a device, the scores of the pool's 12 frames."""
    found = report["rollout"][mesh]["collectives"]
    summed = [
        shape
        for kind, shapes in found
        if kind in ("all-reduce", "reduce-scatter")
        for shape in shapes
    ]
    assert summed == [[8 // int(mesh[0]), 12]] * 2


def test_an_autoencoder_exchanges_borders_and_gathers_what_its_attention_reads(report, mesh):
    """Attention reads q, k, v of 4 channels for 2 frames of 32 tokens.

    Nothing else is gathered but weights.
    """
    found, films = report["autoencoder"][mesh]["collectives"], 8 // int(mesh[0])
    assert {kind for kind, _ in found} == (
        {"all-gather"} if mesh == "8x1" else {"all-gather", "collective-permute"}
    )
    weights = [[*leaf.shape] for leaf in jax.tree.leaves(autoencoder().networks)]
    gathered = [
        shape
        for kind, shapes in found
        if kind == "all-gather"
        for shape in shapes
        if shape not in weights
    ]
    assert len(gathered) == {"8x1": 0, "1x8": 2}.get(mesh, 4)
    assert all(math.prod(shape) <= films * 2 * 32 * 3 * 4 for shape in gathered)
