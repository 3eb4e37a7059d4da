"""What is read of compiled programs: collectives, memory traffic and FLOPs by hand, loops counted; and of a program that XLA's own CPU compiler made."""

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
from causalcine_jax.planning.jaxpr_flops import program_flops
from causalcine_jax.planning.roofline import assumptions, roofline, speed

HLO = """
HloModule step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%slice_one (p0: bf16[5,64,128], p1: s32[]) -> bf16[64,128] {
  %p0 = bf16[5,64,128]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %p2 = bf16[5,64,128]{2,1,0} bitcast(%p0)
  %two = bf16[2,64,128]{2,1,0} dynamic-slice(%p2, %p1, %zero, %zero), dynamic_slice_sizes={2,64,128}
  ROOT %one = bf16[1,64,128]{2,1,0} slice(%two), slice={[0:1], [0:64], [0:128]}
}

%layer (state: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state = (s32[], /*index=1*/f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %weights = bf16[5,64,128]{2,1,0} constant({...})
  %mine = bf16[64,128]{1,0} fusion(%weights, %i), kind=kLoop, calls=%slice_one
  %gather-start = (bf16[64,128]{1,0}, bf16[512,128]{1,0}) all-gather-start(%mine), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}, metadata={op_name="layer/gather"}
  %gather-done = bf16[512,128]{1,0} all-gather-done(%gather-start)
  %fast = f32[8,128]{1,0:T(8,128)S(1)} add(%x, %x)
  %summed = f32[8,128]{1,0:T(8,128)} all-reduce(%fast), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add, metadata={op_name="layer/sum"}
  ROOT %out = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%i, %summed)
}

%going (state.1: (s32[], f32[8,128])) -> pred[] {
  %state.1 = (s32[], f32[8,128]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %five), direction=LT
}

%scatter (p: f32[16,128]) -> f32[2,128] {
  %p = f32[16,128]{1,0} parameter(0)
  ROOT %scattered = f32[2,128]{1,0} reduce-scatter(%p), replica_groups=mesh['data'=4,'seq'=2] {'data','seq'}, dimensions={0}, to_apply=%add
}

%none (p.1: f32[16,128]) -> f32[2,128] {
  %p.1 = f32[16,128]{1,0} parameter(0)
  ROOT %first = f32[2,128]{1,0} slice(%p.1), slice={[0:2], [0:128]}
}

ENTRY %main (arg: f32[8,128], which: pred[], long: f32[16,128]) -> f32[2,128] {
  %arg = f32[8,128]{1,0} parameter(0)
  %which = pred[] parameter(1)
  %long = f32[16,128]{1,0} parameter(2)
  %start = s32[] constant(0)
  %begin = (s32[], f32[8,128]{1,0}) tuple(%start, %arg)
  %loop = (s32[], f32[8,128]{1,0}) while(%begin), condition=%going, body=%layer, backend_config={"known_trip_count":{"n":"5"}}
  %sent = f32[16,128]{1,0} collective-permute(%long), source_target_pairs={{0,4},{4,0}}
  %itself = f32[16,128]{1,0} all-to-all(%sent), replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}
  ROOT %end = f32[2,128]{1,0} conditional(%which, %itself, %itself), true_computation=%scatter, false_computation=%none
}
"""


def test_collectives_are_counted_as_often_as_loops_run_and_by_the_bytes_that_a_device_sends():
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
def test_a_loops_length_is_the_compilers_or_its_conditions_or_given(trips):
    text = HLO
    if trips != "backend_config":
        text = text.replace(', backend_config={"known_trip_count":{"n":"5"}}', "")
    if trips == "fused condition":
        text = text.replace("%five = s32[] constant(5)\n", "").replace(
            "%less = pred[] compare(%i.1, %five), direction=LT",
            "%less = pred[] fusion(%i.1), calls=%under",
        )
        text += "\n%under (i.2: s32[]) -> pred[] {\n  %i.2 = s32[] parameter(0)\n  %five = s32[] constant(5)\n"
        text += "  ROOT %yes = pred[] compare(%i.2, %five), direction=LT\n}\n"
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
    entry = (
        2 * long + 2 * long + (long + out)
    )  # permute, all-to-all, the dearer branch's reduce-scatter
    assert memory_traffic(parse_hlo(HLO)) == 5 * one_layer + entry
    largest = largest_buffers(parse_hlo(HLO), 1)[0]
    assert (largest.bytes, largest.shape, largest.source) == (
        512 * 128 * 2,
        "bf16[512,128]",
        "layer/gather",
    )


def test_traffic_of_fusions_within_fusions_as_tpus_have_them():
    """A product that takes a layer's weights out of the stack of all; a layer's result put into a stack."""
    program = """
%layer_of (all: bf16[40,64,128], at: s32[]) -> bf16[64,128] {
  %all = bf16[40,64,128]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %sliced = bf16[1,64,128]{2,1,0} dynamic-slice(%all, %at), dynamic_slice_sizes={1,64,128}
  ROOT %layer = bf16[64,128]{1,0} bitcast(%sliced)
}

%product (at.1: s32[], all.1: bf16[40,64,128], x: bf16[8,64]) -> bf16[8,128] {
  %x = bf16[8,64]{1,0} parameter(2)
  %all.1 = bf16[40,64,128]{2,1,0} parameter(1)
  %at.1 = s32[] parameter(0)
  %weights = bf16[64,128]{1,0} fusion(%all.1, %at.1), kind=kLoop, calls=%layer_of
  ROOT %y = bf16[8,128]{1,0} convolution(%x, %weights), dim_labels=bf_io->bf
}

%put (kept: bf16[40,8,128], new: bf16[8,128], at.2: s32[]) -> bf16[40,8,128] {
  %kept = bf16[40,8,128]{2,1,0} parameter(0)
  %new = bf16[8,128]{1,0} parameter(1)
  %at.2 = s32[] parameter(2)
  %one = bf16[1,8,128]{2,1,0} bitcast(%new)
  ROOT %updated = bf16[40,8,128]{2,1,0} dynamic-update-slice(%kept, %one, %at.2)
}

%keep (kept.1: bf16[40,8,128], new.1: bf16[8,128], at.3: s32[]) -> bf16[40,1,8,128] {
  %kept.1 = bf16[40,8,128]{2,1,0} parameter(0)
  %new.1 = bf16[8,128]{1,0} parameter(1)
  %at.3 = s32[] parameter(2)
  %all.2 = bf16[40,8,128]{2,1,0} fusion(%kept.1, %new.1, %at.3), kind=kLoop, calls=%put
  ROOT %shaped = bf16[40,1,8,128]{3,2,1,0} bitcast(%all.2)
}

ENTRY %main (i: s32[], stack: bf16[40,64,128], x.1: bf16[8,64], outs: bf16[40,8,128]) -> bf16[40,1,8,128] {
  %i = s32[] parameter(0)
  %stack = bf16[40,64,128]{2,1,0} parameter(1)
  %x.1 = bf16[8,64]{1,0} parameter(2)
  %outs = bf16[40,8,128]{2,1,0} parameter(3)
  %made = bf16[8,128]{1,0} fusion(%i, %stack, %x.1), kind=kOutput, calls=%product
  ROOT %kept.2 = bf16[40,1,8,128]{3,2,1,0} fusion(%outs, %made, %i), kind=kLoop, calls=%keep
}
"""
    index, weights, x, y = 4, 64 * 128 * 2, 8 * 64 * 2, 8 * 128 * 2
    assert memory_traffic(parse_hlo(program)) == (index + weights + x + y) + (y + index + y)


def test_traffic_of_the_kernel_that_takes_frames_out_of_a_pool():
    program = """
ENTRY %main (rows: s32[2], pool: bf16[50,8,128]) -> bf16[2,8,128] {
  %rows = s32[2]{0} parameter(0)
  %pool = bf16[50,8,128]{2,1,0} parameter(1)
  ROOT %frames = bf16[2,8,128]{2,1,0} custom-call(%rows, %pool), custom_call_target="tpu_custom_call", metadata={op_name="jit(f)/gather_frames/pallas_call"}
}
"""
    assert memory_traffic(parse_hlo(program)) == 2 * (2 * 8 * 128 * 2)


def test_what_tpus_write_several_times_is_one_collective_and_an_all_reduce_kept_in_part_a_reduce_scatter():
    """As v5e's compiler writes them: an all-gather begun, run beside a product and waited for; and an operand list with its comment."""
    buffers = "bf16[64,128], bf16[512,128], s32[2]"
    gather = 'all-gather(%p0), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}, frontend_attributes={chain_id="3"}, metadata={op_name="gather"}'
    program = f"""
%begin (p0: bf16[64,128]) -> ({buffers}) {{
  %p0 = bf16[64,128] parameter(0)
  %all-gather.1 = bf16[512,128] {gather}
  ROOT %started = ({buffers}) custom-call(%all-gather.1), custom_call_target="AsyncCollectiveStart"
}}

%async_collective_fusion.1 (p0: bf16[64,128], p1: bf16[512,128], p2: f32[32,32]) -> (f32[32,32], bf16[64,128], bf16[512,128], bf16[512,128]) {{
  %p0 = bf16[64,128] parameter(0)
  %p1 = bf16[512,128] parameter(1)
  %p2 = f32[32,32] parameter(2)
  %squared = f32[32,32] convolution(%p2, %p2), dim_labels=bf_io->bf
  %all-gather.2 = bf16[512,128] {gather}
  ROOT %both = (f32[32,32], bf16[64,128], bf16[512,128], bf16[512,128]) tuple(%squared, %p0, %p1, %all-gather.2)
}}

%end (p0: bf16[64,128], p1: bf16[512,128]) -> bf16[512,128] {{
  %p0 = bf16[64,128] parameter(0)
  %p1 = bf16[512,128] parameter(1)
  %all-gather.3 = bf16[512,128] {gather}
  ROOT %done = bf16[512,128] custom-call(%p0, %p1, %all-gather.3), custom_call_target="AsyncCollectiveDone"
}}

%all-reduce-scatter.clone (p: bf16[512,128]) -> bf16[64,128] {{
  %p = bf16[512,128] parameter(0)
  %summed = bf16[512,128] all-reduce(%p), replica_groups=[1,8]<=[8], to_apply=%add
  %zero = s32[] constant(0)
  ROOT %mine = bf16[64,128] dynamic-slice(%summed, %zero, %zero), dynamic_slice_sizes={{64,128}}
}}

ENTRY %main (w: bf16[64,128], x: f32[32,32]) -> bf16[64,128] {{
  %w = bf16[64,128] parameter(0)
  %x = f32[32,32] parameter(1)
  %start = ({buffers}) fusion(%w), kind=kCustom, calls=%begin
  %mine.1 = bf16[64,128] get-tuple-element(%start), index=0
  %whole.1 = bf16[512,128] get-tuple-element(%start), index=1
  %beside = (f32[32,32], bf16[64,128], bf16[512,128], bf16[512,128]) fusion(%mine.1, %whole.1, %x), kind=kOutput, calls=%async_collective_fusion.1
  %mine.2 = bf16[64,128] get-tuple-element(%beside), index=1
  %whole.2 = bf16[512,128] get-tuple-element(%beside), index=3
  %whole = bf16[512,128] fusion(%mine.2, %whole.2), kind=kCustom, calls=%end
  %six = (bf16[512,128], bf16[512,128]) all-reduce(%whole, /*index=5*/%whole), replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %part = bf16[64,128] fusion(%whole), kind=kCustom, calls=%all-reduce-scatter.clone
}}
"""
    part, whole, product = 64 * 128 * 2, 512 * 128 * 2, 32 * 32 * 4
    assert by_kind(collectives(parse_hlo(program), 8, 8)) == {
        "all-reduce": (1, 2 * 2 * whole * 7 // 8), "all-gather": (1, 7 * part), "reduce-scatter": (1, whole * 7 // 8),
    }  # fmt: skip
    begun = part + (part + whole + 2 * 4)
    assert memory_traffic(parse_hlo(program)) == begun + 2 * product + 2 * (2 * whole) + (
        whole + part
    )


def test_copies_from_and_to_host_memory_are_counted_apart():
    program = """
%brought (state: (s32[], bf16[60,64])) -> (s32[], bf16[60,64]) {
  %state = (s32[], bf16[60,64]{1,0:S(5)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %stored = bf16[60,64]{1,0:S(5)} get-tuple-element(%state), index=1
  %begun = ((bf16[60,64]{1,0:S(5)}, s32[], s32[]), bf16[1,64]{1,0}, u32[]) dynamic-slice-start(%stored, %i, %i)
  %frame = bf16[1,64]{1,0} dynamic-slice-done(%begun)
  ROOT %again = (s32[], bf16[60,64]{1,0:S(5)}) tuple(%i, %stored)
}

%update (stored.1: bf16[60,64], new: bf16[3,64], at: s32[]) -> bf16[60,64] {
  %stored.1 = bf16[60,64]{1,0:S(5)} parameter(0)
  %new = bf16[3,64]{1,0} parameter(1)
  %at = s32[] parameter(2)
  ROOT %put = bf16[60,64]{1,0:S(5)} dynamic-update-slice(%stored.1, %new, %at, %at)
}

ENTRY %main (pool: bf16[60,64], chunk: bf16[3,64], where: s32[], whole: f32[8,64]) -> bf16[60,64] {
  %pool = bf16[60,64]{1,0:S(5)} parameter(0)
  %chunk = bf16[3,64]{1,0} parameter(1)
  %where = s32[] parameter(2)
  %whole = f32[8,64]{1,0:S(5)} parameter(3)
  %copy-start = (f32[8,64]{1,0}, f32[8,64]{1,0:S(5)}, u32[]) copy-start(%whole)
  %state.1 = (s32[], bf16[60,64]{1,0:S(5)}) tuple(%where, %pool)
  %loop = (s32[], bf16[60,64]{1,0:S(5)}) while(%state.1), condition=%until, body=%brought
  %start = ((bf16[60,64]{1,0:S(5)}, bf16[3,64]{1,0}, s32[]), bf16[60,64]{1,0:S(5)}, u32[]) fusion-start(%pool, %chunk, %where), kind=kLoop, calls=%update
  ROOT %kept = bf16[60,64]{1,0:S(5)} fusion-done(%start)
}
"""
    assert host_copies(parse_hlo(program), unknown_trips=10) == (
        10 * 64 * 2 + 8 * 64 * 4,
        3 * 64 * 2,
    )
    line = roofline(target("h200"), flops=0.0, traffic=0, found=[], copied=(64 * 10**9, 32 * 10**9))
    assert (line.copies, line.bound, line.serial, line.limit) == (1.0, 1.0, 1.0, "copies")
    unknown = roofline(target("v6e"), flops=0.0, traffic=1640 * 10**9, found=[], copied=(1, 0))
    assert (unknown.copies, unknown.bound) == (None, 1.0)
    assert any("unknown speed" in line for line in assumptions(target("v6e"), copying=True))
    assert any("64 GB/s each way" in line for line in assumptions(target("h100"), copying=True))
    assert not any("host" in line for line in assumptions(target("h200")))


def test_flops_of_loops_recomputation_choices_and_convolutions():
    weights, x = (
        jax.ShapeDtypeStruct((5, 32, 32), jnp.float32),
        jax.ShapeDtypeStruct((4, 32), jnp.float32),
    )
    layer = 2 * 4 * 32 * 32

    def net(weights, x):
        body = jax.checkpoint(lambda x, w: (jnp.tanh(x @ w), None), prevent_cse=False)
        return jnp.sum(jax.lax.scan(body, x, weights)[0])

    count = lambda f, *args, **how: program_flops(jax.make_jaxpr(f)(*args), **how)
    assert count(net, weights, x) == 5 * layer
    assert (
        count(jax.grad(net, argnums=(0, 1)), weights, x) == 5 * layer * 4
    )  # forward, again, and two products backward
    until = lambda x, n: jax.lax.fori_loop(0, n, lambda _, x: jnp.sin(x) @ jnp.ones((32, 32)), x)
    assert count(until, x, jax.ShapeDtypeStruct((), jnp.int32), unknown_trips=3) == 3 * layer
    choose = lambda p, x: jax.lax.cond(p, lambda x: x @ jnp.ones((32, 32)), lambda x: x, x)
    assert count(choose, jax.ShapeDtypeStruct((), bool), x) == layer
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
        0.5, pytest.approx(0.001), pytest.approx(0.3), 0.5, "arithmetic",
    )  # fmt: skip
    assert line.serial == pytest.approx(0.801)
    assert (
        chips.fabric == 2 * 90e9
        and target("v6e:16x16").fabric == 4 * 90e9
        and target("v5p:4x4x4").fabric == 6 * 90e9
    )
    assert any("corner" in line for line in assumptions(chips)) and any(
        "50 GB/s" in line for line in assumptions(gpus)
    )


SHARDED = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from causalcine_jax.planning.hlo.program import parse_hlo
from causalcine_jax.planning.hlo.collectives import by_kind, collectives

mesh = Mesh(np.asarray(jax.devices()), ("data",))
put = lambda shape, *spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))
whole = lambda w: jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P()))
net = lambda w, x: jax.lax.scan(lambda x, w: (jnp.tanh(x @ whole(w)), None), x, w)[0]
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
