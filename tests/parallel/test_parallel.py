"""How meshes shard weights, checked without devices, and refusals.

test_parallel_meshes.py computes on eight devices.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from mesh_stages import KEY, MEMORY, NULL, SIZES, films, text_encoder
from tiny_models import mesh_of_nothing, random_weights

from causalcine_jax.config import PassConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import Param
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.parallel import sharding
from causalcine_jax.parallel.mesh import AXES, check_shardable, make_mesh
from causalcine_jax.parallel.sharding import (
    ReplicatedParam,
    check_sharded,
    path_of,
    spec_of,
    state_shardings,
)
from causalcine_jax.presets import preset
from causalcine_jax.training.config import TimeConfig
from causalcine_jax.training.stages.teacher_forcing import TeacherForcing, teacher_forcing_loss


def test_sizes_that_a_mesh_does_not_divide_are_refused_with_legal_ones():
    task, batch = (
        TeacherForcing(NULL, PassConfig(MEMORY), TimeConfig()),
        {name: array[:3] for name, array in films(2).items()},
    )
    three_heads = random_weights(
        lambda key: Transformer(dataclasses.replace(SIZES, num_heads=3), key=key), 0
    )
    nets = {"transformer": three_heads, "text_encoder": text_encoder(1)}
    with (
        jax.sharding.use_abstract_mesh(mesh_of_nothing(2, 4)),
        pytest.raises(
            UsageError,
            match=r"mesh of data=2, seq=4: 3 films cannot be split over data=2 "
            r"\(make them a multiple of 2\); "
            r"seq=4 does not divide both 3 heads and a chunk's 144 tokens; 1 or 3 would",
        ),
    ):
        jax.eval_shape(
            lambda nets, batch: teacher_forcing_loss(task)(nets, {}, batch, KEY), nets, batch
        )
    with pytest.raises(
        UsageError,
        match=r"seq=8 does not divide both 12 heads and a chunk's 4680 tokens; "
        r"1, 2, 3, 4, 6 or 12 would",
    ):
        check_shardable(mesh_of_nothing(1, 8), films=1, heads=12, chunk_tokens=4680)
    check_shardable(mesh_of_nothing(8, 8), films=8, heads=40, chunk_tokens=4680)
    with pytest.raises(
        UsageError, match=r"1 devices are not enough for groups of seq=2: seq can be 1"
    ):
        make_mesh(2, jax.devices()[:1])
    with pytest.raises(
        UsageError, match=r"8 devices cannot be split into groups of seq=3: seq can be 1, 2, 4 or 8"
    ):
        make_mesh(3, range(8))


@pytest.mark.parametrize("data, seq", [(1, 8), (8, 8), (3, 8), (14, 4)])
@pytest.mark.parametrize(
    "part, make", [("transformer", Transformer), ("text_encoder", UMT5Encoder), ("vae", VAE)]
)
def test_the_table_shards_all_large_weights_and_never_the_layer_axis(part, make, data, seq):
    shapes = jax.eval_shape(lambda: make(getattr(preset("wan-14b"), part), key=jax.random.key(0)))
    held = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    mesh, mine = mesh_of_nothing(data, seq), 0
    sharing = data * seq if data in (1, 8) else seq  # 24 divides no side of 5120, 56 none of 13824
    for path, leaf in jax.tree_util.tree_leaves_with_path(shapes):
        spec = spec_of(path_of(path), leaf.shape, mesh)
        assert all(axis is None for axis in spec[: leaf.ndim - 2])
        mine += math.prod(NamedSharding(mesh, spec).shard_shape(leaf.shape))
    # Replicated: norms, biases, modulation, and a VAE's first and last layers.
    assert mine < held / sharing + (0.001 if part != "vae" else 0.04) * held
    check_sharded(mesh, shapes)


def test_a_mesh_that_would_leave_weights_whole_on_every_device_is_refused():
    sizes = preset("wan-14b").transformer
    shapes = jax.eval_shape(lambda: Transformer(sizes, key=jax.random.key(0)))
    with pytest.raises(
        UsageError,
        match=r"data=24 and seq=1 divide neither side of blocks\.\S+ \[5120 x 5120\], so every "
        r"device would hold 3\d\.\d GB of 5\d\.\d GB whole: use devices, or a seq, whose number "
        "divides 5120$",
    ):
        check_sharded(mesh_of_nothing(24, 1), shapes)
    check_sharded(mesh_of_nothing(1, 1), shapes)
    small = preset("storyworld-base").transformer
    check_sharded(
        mesh_of_nothing(6, 1), jax.eval_shape(lambda: Transformer(small, key=jax.random.key(0)))
    )


def test_ema_and_optimizer_are_sharded_as_their_parameters():
    leaf = jax.ShapeDtypeStruct((2, 256, 512), np.float32)
    state = {
        "ema": {"student": {"blocks": {"q": {"weight": leaf}}}},
        "opt_state": ({"mu": {"blocks": {"q": {"weight": leaf}}}},),
    }
    specs = {leaf.spec for leaf in jax.tree.leaves(state_shardings(mesh_of_nothing(4, 2), state))}
    assert [tuple(spec) for spec in specs] == [(None, None, AXES)]


def test_for_tpus_a_weight_is_gathered_along_one_mesh_axis_at_a_time(monkeypatch):
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    weight = {"q": {"weight": jax.ShapeDtypeStruct((256, 512), np.float32)}}
    with jax.sharding.use_abstract_mesh(mesh_of_nothing(4, 2)):
        program = jax.jit(sharding.all_gather_params).trace(weight).jaxpr
    assert constraints(program) == [(None, "data"), ()]


def constraints(program) -> list[tuple]:
    """The sharding constraints on the only array of `all_gather_params`, in order."""
    return [
        tuple(eqn.params["sharding"].spec)
        for eqn in program.jaxpr.eqns[0].params["call_jaxpr"].eqns
    ]


def test_replicated_weights_are_not_gathered_again_on_any_hardware(monkeypatch):
    """On a TPU the path to replication has a sharded step, which would gather once more."""
    monkeypatch.setattr(sharding, "platform", lambda: "tpu")
    weight = {"q": {"weight": Param(jnp.zeros((2, 256, 512)))}}
    with jax.sharding.use_abstract_mesh(mesh_of_nothing(4, 2)):
        held = jax.eval_shape(lambda net: sharding.place_rollout_weights(net, "gathered"), weight)
        program = jax.jit(sharding.all_gather_params).trace(held).jaxpr
    assert isinstance(held["q"]["weight"], ReplicatedParam) and set(constraints(program)) == {()}
    # On one device the weights are unchanged.
    assert type(sharding.place_rollout_weights(weight, "gathered")["q"]["weight"]) is Param
