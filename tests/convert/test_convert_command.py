"""launch/convert.py: every format in and out, interrupted runs, and the command itself."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conversions import assert_equal_bytes, only, run
from repository import ROOT
from safetensors.numpy import load_file, save_file
from small_networks import assert_same
from tiny_checkpoints import (
    TEXT_ENCODER,
    TRANSFORMER,
    VAE_CONFIG,
    read_all,
    tensors,
)
from tiny_loras import BASE, RANK, peft_folder, read

from causalcine_jax.commands.convert import parse
from causalcine_jax.convert import (
    load_metadata,
    load_text_encoder,
    load_transformer,
    load_vae,
    writing,
)
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.errors import StoppedEarly, UsageError
from causalcine_jax.models.text.tokenizer import Tokenizer

LOADERS = {"transformer": load_transformer, "vae": load_vae, "text_encoder": load_text_encoder}


def test_original_to_diffusers_and_back_gives_equal_bytes(made):
    model, back, diffusers = (read_all(made / name) for name in ("model", "back", "diffusers"))
    assert_equal_bytes(model, back)
    for part, dtype in (
        ("transformer", np.float32),
        ("vae", np.float32),
        ("text_encoder", ml_dtypes.bfloat16),
    ):
        assert_equal_bytes(
            {f"{part}:{key}": tensor for key, tensor in tensors(part, dtype).items()},
            only(model, part),
        )
    assert len(diffusers) == len(model)
    assert sorted(t.tobytes() for t in diffusers.values()) == sorted(
        t.tobytes() for t in model.values()
    )


def test_some_names_by_hand(made):
    theirs, ours = read_all(made / "diffusers"), read_all(made / "model")
    up = "decoder.up_blocks"
    attention = "text_encoder:encoder.block.1.layer.0.SelfAttention"
    gate = "text_encoder:encoder.block.0.layer.1.DenseReluDense"
    for key, original in {
        "transformer:blocks.2.attn1.to_out.0.weight": "blocks.2.self_attn.o.weight",
        "transformer:blocks.0.norm2.bias": "blocks.0.norm3.bias",
        "transformer:blocks.1.scale_shift_table": "blocks.1.modulation",
        "transformer:scale_shift_table": "head.modulation",
        "transformer:condition_embedder.time_proj.weight": "time_projection.1.weight",
        f"vae:{up}.1.resnets.0.conv_shortcut.weight": "decoder.upsamples.4.shortcut.weight",
        f"vae:{up}.3.resnets.2.conv2.bias": "decoder.upsamples.14.residual.6.bias",
        f"vae:{up}.2.upsamplers.0.resample.1.weight": "decoder.upsamples.11.resample.1.weight",
        "vae:quant_conv.bias": "conv1.bias",
        f"{attention}.relative_attention_bias.weight": "blocks.1.pos_embedding.embedding.weight",
        f"{gate}.wi_0.weight": "blocks.0.ffn.gate.0.weight",
    }.items():
        assert theirs[key].tobytes() == ours[f"{key.split(':')[0]}:{original}"].tobytes(), key


@pytest.mark.parametrize("part", LOADERS)
def test_every_format_loads_directly_as_the_same_network(made, part):
    load = LOADERS[part]
    network = load(made / "model")
    config = getattr(network, "config", None) or network.cfg
    assert (
        config
        == {"transformer": TRANSFORMER, "vae": VAE_CONFIG, "text_encoder": TEXT_ENCODER}[part]
    )
    for other in ("wan", "diffusers", "back", f"diffusers/{part}"):
        loaded = load(made / other)
        assert_same(loaded, network)
        assert (getattr(loaded, "config", None) or loaded.cfg) == config


def test_the_tokenizer_is_converted_too(made):
    for folder in ("wan", "model", "diffusers", "diffusers/text_encoder", "back"):
        assert Tokenizer.load(made / folder).known_words() == ["a", "fox"]


def test_shards_index_and_manifest(made):
    folder = made / "diffusers"
    index = json.loads(
        (folder / "transformer/diffusion_pytorch_model.safetensors.index.json").read_text()
    )
    shards = sorted(set(index["weight_map"].values()))
    assert (
        len(shards) > 2
        and shards[0] == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    )
    for shard in shards:
        there = load_file(folder / "transformer" / shard)
        assert {key for key, file in index["weight_map"].items() if file == shard} == there.keys()
        assert len(there) == 1 or sum(t.nbytes for t in there.values()) <= 20_000
    manifest = json.loads((folder / "manifest.json").read_text())
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} - {
        "manifest.json"
    }
    assert manifest["files"].keys() == files
    for name, line in manifest["files"].items():
        content = (folder / name).read_bytes()
        assert line == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    source = {line["file"]: line["sha256"] for line in manifest["source"]}
    assert (
        source["Wan2.1_VAE.pth"]
        == hashlib.sha256((made / "wan/Wan2.1_VAE.pth").read_bytes()).hexdigest()
    )
    assert len(source) == 5


def test_the_requested_dtype(made, tmp_path):
    run(made / "diffusers/transformer", tmp_path / "half", dtype="bf16")
    half, whole = read_all(tmp_path / "half"), only(read_all(made / "model"), "transformer")
    assert_equal_bytes(
        half, {key: tensor.astype(ml_dtypes.bfloat16) for key, tensor in whole.items()}
    )


def test_tensors_are_read_in_blocks(made, tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "BLOCK_BYTES", 100)
    run(made / "model/transformer", tmp_path / "model")
    assert_equal_bytes(read_all(tmp_path / "model"), only(read_all(made / "model"), "transformer"))


def test_parts_from_several_places(made, tmp_path):
    run(
        made / "model/transformer",
        tmp_path / "mixed",
        vae=made / "wan",
        text_encoder=made / "diffusers/text_encoder",
    )
    assert_equal_bytes(read_all(tmp_path / "mixed"), read_all(made / "model"))
    run(made / "wan/Wan2.1_VAE.pth", tmp_path / "vae")
    assert_equal_bytes(read_all(tmp_path / "vae"), only(read_all(made / "model"), "vae"))


def test_an_orbax_copy_loads_as_the_same_networks(made, tmp_path):
    run(made / "wan", tmp_path / "copy", to="orbax")
    for load in LOADERS.values():
        assert_same(load(tmp_path / "copy"), load(made / "model"))
    assert Tokenizer.load(tmp_path / "copy").known_words() == ["a", "fox"]
    assert (
        "transformer/config.json"
        in json.loads((tmp_path / "copy/manifest.json").read_text())["files"]
    )
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_the_table_of_a_dry_run(made, tmp_path, capsys):
    run(made / "diffusers", tmp_path / "out", dtype="bf16", dry_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["source", "key", "target", "key", "shape", "dtype"]
    total = len(read_all(made / "model"))
    assert (
        len(lines) == total + 2
        and lines[-1].startswith(f"{total} tensors")
        and lines[-1].endswith("nothing was written")
    )
    line = next(line for line in lines if line.startswith("blocks.1.attn2.to_q.weight"))
    assert (
        line.endswith("  F32 -> BF16")
        and "blocks.1.cross_attn.q.weight" in line
        and "(24, 24)" in line
    )
    run(made / "wan", tmp_path / "out", to="orbax", dry_run=True)
    assert "transformer: blocks.cross_attn.q.weight[1]" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_killed_conversion_continues(made, tmp_path, monkeypatch):
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    written = []
    write_shard = writing._write_shard

    def counted(folder, shard, bar, kill_at=None):
        if len(written) == kill_at:
            (folder / shard.file).parent.mkdir(parents=True, exist_ok=True)
            left = folder / f"{shard.file}.4711-0a1b2c3d.tmp"  # as a kill leaves it
            left.write_bytes(b"half a fi")
            raise KeyboardInterrupt
        written.append(shard.file)
        return write_shard(folder, shard, bar)

    monkeypatch.setattr(writing, "_write_shard", lambda *args: counted(*args, kill_at=3))
    with pytest.raises(StoppedEarly, match="the same command goes on from there"):
        run(made / "model/transformer", out, shard_gb=2e-5)
    assert not out.exists() and partial.is_dir()
    first = list(written)
    damaged = partial / first[1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    monkeypatch.setattr(writing, "_write_shard", counted)
    run(made / "model/transformer", out, shard_gb=2e-5)
    assert first[0] not in written[3:] and first[2] not in written[3:] and first[1] in written[3:]
    assert_equal_bytes(read_all(out), only(read_all(made / "model"), "transformer"))
    assert (
        not partial.exists()
        and not list(out.rglob("*.tmp"))
        and not list(out.rglob("journal.json"))
    )


def test_another_request_starts_over(made, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    write_manifest = writing._hashed
    monkeypatch.setattr(writing, "_hashed", stop)
    with pytest.raises(KeyboardInterrupt):
        run(made / "model/transformer", tmp_path / "out")
    monkeypatch.setattr(writing, "_hashed", write_manifest)
    run(made / "model/transformer", tmp_path / "out", dtype="bf16")
    assert {t.dtype for t in read_all(tmp_path / "out").values()} == {np.dtype(ml_dtypes.bfloat16)}


def test_a_corrected_scale_of_an_adapter_starts_over(tmp_path, monkeypatch):
    """Or shards of both scales would be mixed."""
    save_file(BASE, tmp_path / "base.safetensors")
    lora = peft_folder(tmp_path / "lora", lora_alpha=4.0, r=RANK)

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(writing, "_hashed", stop)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "base.safetensors", tmp_path / "out", lora=lora)
    settings = json.loads((lora / "adapter_config.json").read_text())
    (lora / "adapter_config.json").write_text(json.dumps({**settings, "lora_alpha": 12.0}))
    run(tmp_path / "base.safetensors", tmp_path / "out", lora=lora)
    assert read(tmp_path / "out") == pytest.approx(read(tmp_path / "base.safetensors", lora))


def test_the_command(wan, tmp_path):
    command = [
        sys.executable,
        str(ROOT / "launch/convert.py"),
        "--from",
        str(wan),
        "--out",
        str(tmp_path / "model"),
        "--dtype",
        "bf16",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert "transformer, text_encoder as model" in done.stdout and "100%|" in done.stderr
    assert load_metadata(tmp_path / "model")["converted_from"] == "wan"
    again = subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})
    assert (
        again.returncode == 2
        and again.stderr.startswith("error: ")
        and "already exists" in again.stderr
    )


def test_flags_and_config_agree():
    flags = vars(parse(["--from", "a", "--out", "b"]))
    progress = not flags.pop("no_progress")
    assert ConvertConfig(**flags, progress=progress) == ConvertConfig(Path("a"), Path("b"))


@pytest.mark.parametrize("size", [0.0, -1.0, 1e300])
def test_an_impossible_size_of_shards_is_refused(size, tmp_path):
    with pytest.raises(UsageError, match="--shard-gb must be more than 0 and at most 1000000, not"):
        ConvertConfig(tmp_path / "a", tmp_path / "b", shard_gb=size)
