"""launch/plan.py memory, against Wan's published sizes and a small model's arrays; refusals."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from repository import ROOT
from tiny_checkpoints import wan_folder
from tiny_models import tiny_folder, tiny_model

from causalcine_jax.commands import plan
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.rollout import embed_prompt
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.planning.memory_model import planned_model
from causalcine_jax.planning.memory_plan import MemoryRequest, memory_plan
from causalcine_jax.presets import preset


def by_name(plan):
    return {line.name: line for line in plan.lines}


@pytest.mark.parametrize(
    ("name", "kv", "parameters"),
    [("wan-1.3b", 287_539_200, 1_418_996_800), ("wan-14b", 1_277_952_000, 14_288_491_584)],
)
def test_wan_at_its_own_size(name, kv, parameters):
    plan = memory_plan(MemoryRequest(name, pool_frames=60))
    lines = by_name(plan)
    assert (plan.tokens_per_frame, plan.histories, plan.kv_per_frame) == (1560, 2, kv)
    # Two bytes each, but four of norms, modulation, time embedding and head.
    assert lines["transformer"].parameters == parameters
    assert 2 * parameters < lines["transformer"].bytes < 2.07 * parameters
    assert (
        lines["vae"].parameters == 126_892_531 and lines["text encoder"].bytes == 2 * 5_680_910_336
    )
    descriptors = lines["pool of history"].bytes - 2 * 60 * kv
    assert 0 < descriptors < 0.002 * 60 * kv
    assert plan.total() == sum(line.bytes for line in plan.lines) == plan.total(device=True)


def test_a_family_brings_its_own_memory():
    plan = memory_plan(MemoryRequest("self-forcing"))
    assert (plan.request.pool_frames, plan.histories, plan.kv_per_frame) == (21, 1, 287_539_200)
    assert memory_plan(MemoryRequest("krea-realtime-14b")).kv_per_frame == 1_277_952_000


def test_without_guidance_there_is_one_history_and_float32_is_twice_bfloat16():
    small = {"pool_frames": 18, "height": 96, "width": 160}
    guided, alone = (
        memory_plan(MemoryRequest("storyworld", **small, guidance=g)) for g in (3.0, 1.0)
    )
    wide = memory_plan(MemoryRequest("storyworld", **small, guidance=1.0, dtype="float32"))
    pool = "pool of history"
    times = (4 + 4) * 18 // 3  # each slot's chunk index and use are shared by all histories
    assert by_name(guided)[pool].bytes - times == 2 * (by_name(alone)[pool].bytes - times)
    assert wide.kv_per_frame == 2 * alone.kv_per_frame
    assert by_name(wide)["text encoder"].bytes == 2 * by_name(alone)["text encoder"].bytes


def test_float8_halves_the_blocks_matrices_and_nothing_else():
    plans = {
        dtype: by_name(memory_plan(MemoryRequest("wan-14b", dtype=dtype)))
        for dtype in ("bfloat16", "float8")
    }
    sizes = preset("wan-14b").transformer
    matrices = sizes.num_layers * (8 * sizes.dim**2 + 2 * sizes.dim * sizes.ffn_dim)
    # In float32, one for each column.
    scales = 4 * sizes.num_layers * (9 * sizes.dim + sizes.ffn_dim)
    saved = {
        name: line.bytes - plans["float8"][name].bytes for name, line in plans["bfloat16"].items()
    }
    assert saved.pop("transformer") == matrices - scales and set(saved.values()) == {0}


@pytest.mark.parametrize("weights", ["gathered", "sharded"])
def test_devices_share_what_a_film_shares(weights):
    whole, shared = (
        memory_plan(MemoryRequest("wan-14b", devices=d, rollout_weights=weights)) for d in (1, 8)
    )
    for name, line in by_name(shared).items():
        assert line.bytes == by_name(whole)[name].bytes
        if name == "transformer" and weights == "gathered":
            assert line.device_bytes == line.bytes
        elif line.estimated:
            assert line.bytes / 8 <= line.device_bytes < line.bytes
        else:
            assert line.bytes / 8 <= line.device_bytes < 1.01 * line.bytes / 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


def test_the_exact_lines_are_the_bytes_of_the_real_arrays(folder):
    model = tiny_model()
    lines = by_name(memory_plan(MemoryRequest(str(folder), pool_frames=9, dtype="float32")))
    size = lambda tree: sum(4 * leaf.size for leaf in jax.tree.leaves(tree))
    assert lines["transformer"].bytes == size(model.transformer)
    assert (
        lines["pool of history"].bytes == KVCache.empty(model.transformer.config, 2, 9, 8, 3).bytes
    )
    assert lines["prompt's keys and values"].bytes == size(
        jax.eval_shape(embed_prompt, model.transformer, jnp.zeros((2, 24, 16)))
    )
    _, cache = jax.eval_shape(type(model.vae).decode_first, model.vae, jnp.zeros((1, 3, 4, 8, 16)))
    assert lines["VAE cache"].bytes == size(cache)


def test_a_model_on_disk_is_read_by_its_headers(tmp_path):
    plan = memory_plan(MemoryRequest(str(wan_folder(tmp_path / "wan")), height=64, width=96))
    assert (
        set(by_name(plan)) > {"transformer", "vae", "text encoder"}
        and plan.tokens_per_frame == 4 * 6
    )
    (tmp_path / "wan" / "Wan2.1_VAE.pth").unlink()
    assert not {"vae", "VAE cache"} & set(
        by_name(memory_plan(MemoryRequest(str(tmp_path / "wan"), height=64, width=96)))
    )


@pytest.mark.parametrize(
    ("request_", "faults"),
    [
        (MemoryRequest("wan-1.3"), ["did you mean 'wan-1.3b'?"]),
        (
            MemoryRequest("wan-14b", devices=7),
            ["7 devices cannot share 40 heads", "1, 2, 4, 5, 8, 10, 20, 40 can"],
        ),
        (
            MemoryRequest("wan-14b", height=490, width=840, pool_frames=20),
            ["nearest: 480 or 496", "nearest: 832 or 848", "not 20"],
        ),
    ],
)
def test_impossible_requests_name_legal_values(request_, faults):
    with pytest.raises(UsageError) as caught:
        memory_plan(request_)
    assert all(fault in str(caught.value) for fault in faults), caught.value


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no transformer"):
        memory_plan(MemoryRequest(str(tmp_path)))


def test_the_command_prints_a_table_or_json(folder, capsys):
    arguments = ["memory", "--model", str(folder), "--pool-frames", "9"]
    plan.main(arguments)
    table = capsys.readouterr().out
    assert "keys and values of one latent frame" in table and "pool of history" in table
    command = [sys.executable, str(ROOT / "launch" / "plan.py"), *arguments, "--json"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["total_bytes"] == sum(line["bytes"] for line in report["lines"])


def test_a_model_whose_metadata_has_no_size_is_planned_at_wans(tmp_path):
    folder = tiny_folder(tmp_path / "model")
    said = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps(said | {"video": {"fps": 24}}))
    video = planned_model(str(folder)).video
    assert (video.fps, *video.size) == (24, 480, 832)


def test_an_empty_name_is_not_the_current_folder():
    with pytest.raises(UsageError, match="--model must be a preset, a family or a path"):
        plan.main(["memory", "--model", " "])
