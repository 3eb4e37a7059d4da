"""Meshes of eight devices (made of one CPU) compute what one device computes; weights travel, activations do not; what cannot be cut is refused."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import mesh_of_nothing

from causalcine_jax.config import preset
from causalcine_jax.errors import UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import Param, WholeParam
from causalcine_jax.models.umt5 import UMT5Encoder
from causalcine_jax.models.vae import VAE
from causalcine_jax.parallel import sharding
from causalcine_jax.parallel.mesh import AXES, check_cut, make_mesh
from causalcine_jax.parallel.sharding import path_of, spec_of, state_shardings

ROOT = Path(__file__).parents[1]
MESHES = ("2x4", *(pytest.param(mesh, marks=pytest.mark.slow) for mesh in ("8x1", "4x2", "1x8")))


def on_eight_devices(*parts: str) -> dict:
    environment = {
        **os.environ,
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8",
        "NPROC": "32",  # threads: with as many as devices, collectives taken in different orders wait for each other for ever
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}",
    }
    command = [sys.executable, ROOT / "tests" / "on_eight_devices.py", *parts]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=MESHES)
def mesh(request):
    return request.param


@pytest.fixture(scope="module")
def report(mesh):
    return on_eight_devices(mesh)


def test_loss_gradient_and_rollout_are_those_of_one_device(report, mesh):
    found = report["training"][mesh]
    assert found["loss"] < 1e-6
    assert found["gradient"] < 1e-5
    assert found["film"] < 1e-5 and found["pool"] < 1e-5


def test_a_pool_is_cut_by_films_and_heads_and_gradients_as_their_weights(report, mesh):
    data, seq = map(int, mesh.split("x"))
    layers, films, _, _, heads, _ = report["training"][mesh]["pool_of_one_device"]
    assert (layers, films, heads) == (2, 8 // data, 8 // seq)
    assert report["training"][mesh]["gradients_cut"]


def test_weights_are_gathered_and_activations_never_summed(report, mesh):
    """Of the training step as compiled. Activations are the larger here: on every mesh, a device has 7 segments of 144 tokens of 48 channels.

    What is summed are weights' gradients and, where "seq" is all the mesh, the gradients of the text encoder's few tokens, which it does not cut.
    """
    found, largest_matrix = report["training"][mesh]["collectives"], report["largest_matrix"]
    sizes = lambda *kinds: [math.prod(shape) for kind, shapes in found if kind in kinds for shape in shapes]
    activations = 7 * 144 * 48
    assert largest_matrix < activations / 2
    assert max(sizes("all-reduce", "reduce-scatter")) <= (activations / 2 if mesh == "1x8" else largest_matrix)
    gathered = [shape[-2:] for kind, shapes in found if kind == "all-gather" for shape in shapes]
    assert all(weight in gathered for weight in ([48, 48], [48, 64], [64, 48], [48, 288]))
    # q, k, v and the output: forward, recomputed, and backward; each device's share of them.
    exchanged = [shapes for kind, shapes in found if kind == "all-to-all"]
    assert len(exchanged) == (0 if mesh == "8x1" else 12)
    assert sum(sizes("all-to-all")) == len(exchanged) * 7 * 144 * 48


def test_a_rollout_gathers_each_layers_weights_once(report, mesh):
    """Of two layers, however many passes it makes (here 12): q, k, v and o of both attentions, and the feed-forward's two."""
    found = report["training"][mesh]["gathered_by_rollout"]
    assert [found[f"f32[1,{rows},{columns}]"] for rows, columns in ((48, 48), (48, 64), (64, 48))] == [2 * 8, 2, 2]


@pytest.mark.slow
def test_every_stage_of_a_student_is_that_of_one_device():
    distances = on_eight_devices("distillation")["distillation"]
    assert set(distances) == {"ode_init", "generator", "critic"}
    assert max(distances.values()) < 1e-4


@pytest.mark.slow
def test_a_streamed_film_is_that_of_one_device():
    """Text encoder, guided rollout and decoder on (2, 2), to a level of 255 where rounding meets a boundary."""
    film = on_eight_devices("film")["film"]
    assert film["spread"] > 10
    assert film["pool"] == [2, 1, 9, 8, 1, 12]  # of two histories and two heads
    assert film["largest"] <= 1 and film["differing"] < 1e-3


def test_the_autoencoder_is_cut_along_its_frames():
    found = on_eight_devices("autoencoder")["autoencoder"]
    assert found["equal"] < 1e-5
    assert found["of_one_device"] == [1, 5, 16, 4, 3]


def test_what_a_mesh_does_not_divide_is_refused_with_what_it_would():
    assert on_eight_devices("refused")["refused"] == (
        "mesh of data=2, seq=4: 3 films cannot be split over data=2 (make them a multiple of 2); "
        "seq=4 does not divide both 3 heads and a chunk's 144 tokens; 1 or 3 would"
    )
    with pytest.raises(UsageError, match=r"seq=8 does not divide both 12 heads and a chunk's 4680 tokens; 1, 2, 3, 4, 6 or 12 would"):
        check_cut(mesh_of_nothing(1, 8), films=1, heads=12, chunk_tokens=4680)
    check_cut(mesh_of_nothing(8, 8), films=8, heads=40, chunk_tokens=4680)
    with pytest.raises(UsageError, match=r"1 devices are not enough for groups of seq=2: seq can be 1"):
        make_mesh(2, jax.devices()[:1])
    with pytest.raises(UsageError, match=r"8 devices cannot be split into groups of seq=3: seq can be 1, 2, 4 or 8"):
        make_mesh(3, range(8))


@pytest.mark.parametrize("devices", [8, 64])
@pytest.mark.parametrize("part, make", [("transformer", Transformer), ("text_encoder", UMT5Encoder), ("vae", VAE)])
def test_the_table_cuts_all_that_is_large_of_wan_and_never_the_layers(part, make, devices):
    shapes = jax.eval_shape(lambda: make(getattr(preset("wan-14b"), part), key=jax.random.key(0)))
    held = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    mine = 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        spec = spec_of(path_of(path), leaf.shape, devices)
        assert all(axis is None for axis in spec[: leaf.ndim - 2])
        mine += math.prod(leaf.shape) // (devices if any(spec) else 1)
    # What is whole everywhere: norms, biases, modulation; a VAE's first and last layers too.
    assert mine < held / devices + (0.001 if part != "vae" else 0.04) * held


def test_an_average_and_an_optimizer_are_cut_as_their_parameters():
    leaf = jax.ShapeDtypeStruct((2, 256, 512), np.float32)
    state = {"ema": {"student": {"blocks": {"q": {"weight": leaf}}}}, "opt_state": ({"mu": {"blocks": {"q": {"weight": leaf}}}},)}
    specs = {cut.spec for cut in jax.tree.leaves(state_shardings(mesh_of_nothing(4, 2), state))}
    assert [tuple(spec) for spec in specs] == [(None, None, AXES)]


def test_for_tpus_a_weight_is_gathered_along_one_axis_after_the_other(monkeypatch):
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    weight = {"q": {"weight": jax.ShapeDtypeStruct((256, 512), np.float32)}}
    with jax.sharding.use_abstract_mesh(mesh_of_nothing(4, 2)):
        program = jax.jit(sharding.gathered).trace(weight).jaxpr
    assert way(program) == [(None, "data"), ()]


def way(program) -> list[tuple]:
    """How the one array of `gathered` is asked to lie, one step after the other."""
    return [tuple(eqn.params["sharding"].spec) for eqn in program.jaxpr.eqns[0].params["call_jaxpr"].eqns]


def test_weights_held_whole_are_not_gathered_again_on_any_hardware(monkeypatch):
    """On a TPU the way to whole leads over a cut, which would be one more gathering."""
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    weight = {"q": {"weight": Param(jnp.zeros((2, 256, 512)))}}
    with jax.sharding.use_abstract_mesh(mesh_of_nothing(4, 2)):
        held = jax.eval_shape(lambda net: sharding.for_many_passes(net, "gathered"), weight)
        program = jax.jit(sharding.gathered).trace(held).jaxpr
    assert isinstance(held["q"]["weight"], WholeParam) and set(way(program)) == {()}
    assert type(sharding.for_many_passes(weight, "gathered")["q"]["weight"]) is Param  # one device: as it was
