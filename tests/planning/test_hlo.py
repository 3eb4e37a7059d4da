"""Collectives, memory traffic and FLOPs read from compiled programs, against counts by hand.

The programs in hlo/ are short and handwritten, in the compilers' notation.
"""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from repository import ROOT

from causalcine_jax.planning.hardware import target
from causalcine_jax.planning.hlo.collectives import Collective, by_kind, collectives, first_group
from causalcine_jax.planning.hlo.program import parse_hlo
from causalcine_jax.planning.hlo.traffic import host_copies, largest_buffers, memory_traffic
from causalcine_jax.planning.jaxpr_flops import flops_by_kind
from causalcine_jax.planning.roofline import peaks, roofline, speed

PROGRAMS = ROOT / "tests" / "planning" / "hlo"


def read_hlo(name: str) -> str:
    return (PROGRAMS / f"{name}.hlo").read_text()


HLO = read_hlo("sharded_step")


def test_collectives_count_once_per_round_with_the_bytes_that_a_device_sends():
    found = collectives(parse_hlo(HLO), devices=8, domain=4)
    assert {
        (one.kind, one.source, one.devices, one.far, one.count, one.bytes) for one in found
    } == {
        ("all-gather", "layer/gather", 8, True, 5, 5 * 7 * 64 * 128 * 2),
        ("all-reduce", "layer/sum", 2, False, 5, 5 * 8 * 128 * 4),
        ("reduce-scatter", "", 8, True, 1, 16 * 128 * 4 * 7 // 8),
        ("collective-permute", "", 2, True, 1, 16 * 128 * 4),
    }
    assert next(iter(by_kind(found).items())) == ("all-gather", (5, 5 * 7 * 64 * 128 * 2))


@pytest.mark.parametrize("trips", ["backend_config", "condition", "fused condition", "unknown"])
def test_a_trip_count_is_the_compilers_or_from_the_condition_or_given(trips):
    text = HLO
    if trips != "backend_config":
        text = text.replace(', backend_config={"known_trip_count":{"n":"5"}}', "")
    if trips == "fused condition":
        text = text.replace("%five = s32[] constant(5)\n", "").replace(
            "%less = pred[] compare(%i.1, %five), direction=LT",
            "%less = pred[] fusion(%i.1), calls=%under",
        )
        text += read_hlo("fused_condition")
    if trips == "unknown":
        text = text.replace("direction=LT", "direction=NE")
    count = by_kind(collectives(parse_hlo(text), 8, 8, unknown_trips=3))["all-gather"][0]
    assert count == (3 if trips == "unknown" else 5)


@pytest.mark.parametrize(
    ("attributes", "group"),
    [
        ("replica_groups=[2,4]<=[8]", [0, 1, 2, 3]),
        ("replica_groups=[4,2]<=[2,4]T(1,0), more", [0, 4]),
        ("replica_groups=mesh['data'=4,'seq'=2] {'data'}", [0, 2, 4, 6]),
        ("replica_groups=mesh['data'=8,'seq'=1] {'data':(2)2}", [0, 2]),
        ("replica_groups={}", [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_groups_are_read_however_they_are_written(attributes, group):
    assert first_group(attributes, 8) == group


def test_traffic_counts_slices_and_leaves_out_on_chip_memory():
    small, long, out = 8 * 128 * 4, 16 * 128 * 4, 2 * 128 * 4
    one_layer = 2 * 64 * 128 * 2 + 4 + (64 + 512) * 128 * 2 + 64 * 128 * 2 + 2 * small + small
    # Permute, all-to-all, the costlier branch's reduce-scatter.
    entry = 2 * long + 2 * long + (long + out)
    assert memory_traffic(parse_hlo(HLO)) == 5 * one_layer + entry
    largest = largest_buffers(parse_hlo(HLO), 1)[0]
    assert (largest.bytes, largest.shape, largest.source) == (
        512 * 128 * 2,
        "bf16[512,128]",
        "layer/gather",
    )


def test_traffic_of_fusions_within_fusions_as_tpus_have_them():
    """A product that slices a layer's weights from a stack; a layer's result put into a stack."""
    program = read_hlo("nested_fusions")
    index, weights, x, y = 4, 64 * 128 * 2, 8 * 64 * 2, 8 * 128 * 2
    assert memory_traffic(parse_hlo(program)) == (index + weights + x + y) + (y + index + y)


def test_a_fusion_that_runs_beside_others_counts_once_as_a_fusion():
    """Of jax 0.11 and newer: its type holds its operands too, its fusion-done the results again."""
    traffic = lambda text: memory_traffic(parse_hlo(text))
    program = """
%sliced (stack: bf16[30,64,64], i: s32[]) -> bf16[1,64,64] {
  %stack = bf16[30,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %part = bf16[1,64,64]{2,1,0} dynamic-slice(%stack, %i, %zero, %zero)
}

ENTRY %main (w: bf16[30,64,64], i: s32[]) -> bf16[1,64,64] {
  %w = bf16[30,64,64]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  START
}
"""
    kinds = "((bf16[30,64,64]{2,1,0}, s32[]), bf16[1,64,64]{2,1,0}, u32[])"
    beside = f"""%begun = {kinds} fusion-start(%w, %i), kind=kLoop, calls=%sliced
  ROOT %done = bf16[1,64,64]{{2,1,0}} fusion-done(%begun)"""
    alone = "ROOT %done = bf16[1,64,64]{2,1,0} fusion(%w, %i), kind=kLoop, calls=%sliced"
    read_and_written = 2 * 64 * 64 * 2 + 4
    assert traffic(program.replace("START", beside)) == read_and_written
    assert traffic(program.replace("START", alone)) == read_and_written


def test_traffic_of_the_kernel_that_takes_frames_out_of_a_pool():
    program = read_hlo("frame_gather")
    assert memory_traffic(parse_hlo(program)) == 2 * (2 * 8 * 128 * 2)


def test_tpu_async_collectives_count_once_and_all_reduce_scatter_is_a_reduce_scatter():
    """In the notation of v5e's compiler.

    An all-gather is started, runs beside a product, and is waited for. One operand list has a
    comment.
    """
    program = read_hlo("async_collectives")
    part, whole, product = 64 * 128 * 2, 512 * 128 * 2, 32 * 32 * 4
    assert by_kind(collectives(parse_hlo(program), 8, 8)) == {
        "all-reduce": (1, 2 * 2 * whole * 7 // 8),
        "all-gather": (1, 7 * part),
        "reduce-scatter": (1, whole * 7 // 8),
    }
    started = part + (part + whole + 2 * 4)
    assert memory_traffic(parse_hlo(program)) == started + 2 * product + 2 * (2 * whole) + (
        whole + part
    )


def test_copies_from_and_to_host_memory_are_counted_apart():
    program = read_hlo("host_copies")
    assert host_copies(parse_hlo(program), unknown_trips=10) == (
        10 * 64 * 2 + 8 * 64 * 4,
        3 * 64 * 2,
    )
    line = roofline(target("h200"), flops=0.0, traffic=0, found=[], copied=(64 * 10**9, 32 * 10**9))
    assert (line.copies, line.bound, line.serial, line.limit) == (1.0, 1.0, 1.0, "copies")
    unknown = roofline(target("v6e"), flops=0.0, traffic=1640 * 10**9, found=[], copied=(1, 0))
    assert (unknown.copies, unknown.bound) == (None, 1.0)
    assert "an unknown speed to the host" in peaks(target("v6e"))
    assert "64 GB/s to the host" in peaks(target("h100"))


def test_flops_of_loops_recomputation_choices_and_convolutions():
    weights, x = (
        jax.ShapeDtypeStruct((5, 32, 32), jnp.float32),
        jax.ShapeDtypeStruct((4, 32), jnp.float32),
    )
    layer = 2 * 4 * 32 * 32

    def net(weights, x):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None), prevent_cse=False)
        return jnp.sum(jax.lax.scan(body, x, weights)[0])

    count = lambda f, *args, **how: sum(flops_by_kind(jax.make_jaxpr(f)(*args), **how).values())
    assert count(net, weights, x) == 5 * layer
    # Forward, recomputed, and two products backward.
    assert count(jax.grad(net, argnums=(0, 1)), weights, x) == 5 * layer * 4
    until = lambda x, n: jax.lax.fori_loop(0, n, lambda _, x: jnp.sin(x) @ jnp.ones((32, 32)), x)
    assert count(until, x, jax.ShapeDtypeStruct((), jnp.int32), unknown_trips=3) == 3 * layer
    choose = lambda p, x: jax.lax.cond(p, lambda x: x @ jnp.ones((32, 32)), lambda x: x, x)
    assert count(choose, jax.ShapeDtypeStruct((), bool), x) == layer
    # What nothing reads stays in a trace. The compiler drops it.
    assert count(lambda x: (jnp.sin(x @ jnp.ones((32, 32))), x)[1], x) == 0
    image, kernel = (
        jax.ShapeDtypeStruct((1, 8, 8, 6), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, 6, 10), jnp.float32),
    )
    convolve = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    assert count(convolve, image, kernel) == 2 * (4 * 4 * 10) * 9 * 6


def test_roofline_by_hand():
    gpus, chips = target("h200:8x8"), target("v6e:8x8")
    near = Collective("all-gather", "", 8, False, 1, 45 * 10**9)
    far = Collective("all-gather", "", 64, True, 1, 40 * 10**9)
    crossed = Collective("all-to-all", "", 16, True, 1, 5 * 10**9)
    assert [speed(gpus, one) for one in (near, far, crossed)] == [450e9, 400e9, 50e9]
    line = roofline(gpus, flops=64 * 989e12 / 2, traffic=4_800_000_000, found=[near, far, crossed])
    assert (line.arithmetic, line.memory, line.collectives, line.bound, line.limit) == (
        0.5,
        pytest.approx(0.001),
        pytest.approx(0.3),
        0.5,
        "arithmetic",
    )
    assert line.serial == pytest.approx(0.801)
    assert (
        chips.fabric == 2 * 90e9
        and target("v6e:16x16").fabric == 4 * 90e9
        and target("v5p:4x4x4").fabric == 6 * 90e9
        and target("v5p:2x4x4").fabric == 3 * 90e9  # no whole cube closes to a torus
    )
    assert "180 GB/s to other devices" in peaks(chips) and "beyond" not in peaks(chips)
    assert "450 GB/s to other devices, 50 GB/s beyond a node" in peaks(gpus)


SHARDED = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from causalcine_jax.planning.hlo.program import parse_hlo
from causalcine_jax.planning.hlo.collectives import by_kind, collectives

mesh = Mesh(np.asarray(jax.devices()), ("data",))
on = lambda *spec: NamedSharding(mesh, P(*spec))
put = lambda shape, *spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=on(*spec))
gathered = lambda w: jax.lax.with_sharding_constraint(w, on())
net = lambda w, x: jax.lax.scan(lambda x, w: (jnp.tanh(x @ gathered(w)), None), x, w)[0]
compiled = jax.jit(net).lower(put((7, 64, 64), None, "data"), put((8, 64), "data")).compile()
print(json.dumps(by_kind(collectives(parse_hlo(compiled.as_text()), 4, 4))))
"""


def test_a_real_program_gathers_each_layers_weights_once():
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"all-gather": [7, 7 * 3 * (16 * 64 * 4)]}
