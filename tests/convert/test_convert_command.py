"""launch/convert.py: every format in and out, errors for bad input, no partial output left."""

import hashlib
import json
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from repository import ROOT
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import (
    TEXT_ENCODER,
    TRANSFORMER,
    VAE_CONFIG,
    read_all,
    save_torch,
    tensors,
    wan_folder,
)

from causalcine_jax.convert import (
    load_metadata,
    load_text_encoder,
    load_transformer,
    load_vae,
    writing,
)
from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.text.tokenizer import Tokenizer

LOADERS = {"transformer": load_transformer, "vae": load_vae, "text_encoder": load_text_encoder}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """wan -> model, wan -> diffusers -> back: folders in all three formats."""
    root = tmp_path_factory.mktemp("made")
    run(wan_folder(root / "wan"), root / "model")
    run(root / "wan", root / "diffusers", to="diffusers", shard_gb=2e-5)
    run(root / "diffusers", root / "back")
    return root


@pytest.fixture
def wan(tmp_path):
    """Wan2.1's folder without its VAE, whose 194 layers are slow to describe."""
    return wan_folder(tmp_path / "wan", vae=False)


def run(source, out, **options):
    convert(ConvertConfig(source, out, progress=False, **options))


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert np.array_equal(np.asarray(x), np.asarray(y)), jax.tree_util.keystr(path)


def assert_equal_bytes(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert (
            a[key].dtype == b[key].dtype
            and a[key].tobytes() == b[key].tobytes()
            and a[key].shape == b[key].shape
        ), key


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


def only(everything, part):
    return {key: tensor for key, tensor in everything.items() if key.startswith(f"{part}:")}


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
            (folder / f"{shard.file}.tmp").write_bytes(b"half a fi")  # what a kill leaves
            raise KeyboardInterrupt
        written.append(shard.file)
        return write_shard(folder, shard, bar)

    monkeypatch.setattr(writing, "_write_shard", lambda *args: counted(*args, kill_at=3))
    with pytest.raises(KeyboardInterrupt):
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


def test_not_enough_room(wan, tmp_path, monkeypatch):
    monkeypatch.setattr(
        writing.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000)
    )
    for to in ("model", "diffusers", "orbax"):
        with pytest.raises(
            DataError,
            match=r"not enough room on the disk: .*out needs 0\.\d+ MB, .* has 0\.001 MB free",
        ):
            run(wan, tmp_path / "out", to=to)
    assert [p.name for p in tmp_path.iterdir()] == ["wan"]


def test_what_does_not_fit_is_listed_for_all_networks_at_once(wan, tmp_path):
    shard = wan / "diffusion_pytorch_model-00001-of-00003.safetensors"
    changed = load_file(shard)
    lost, cut = list(changed)[:2]
    del changed[lost]
    changed[cut] = changed[cut][..., :1]
    save_file({**changed, "blocks.0.extra": np.zeros(3, np.float32)}, shard)
    vae = tensors("vae")
    del vae["decoder.head.2.bias"]
    save_torch(wan / "Wan2.1_VAE.pth", **vae)
    with pytest.raises(DataError) as error:
        run(wan, tmp_path / "out")
    for line in (
        f"missing    {lost} (",
        f"misshapen  {cut} (",
        "unmatched  blocks.0.extra (3,)",
        "missing    decoder.head.2.bias (3,)",
    ):
        assert line in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["wan"]


def truncate(wan):
    file = wan / "diffusion_pytorch_model-00002-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def lose_shards(wan):
    for i in (2, 3):
        (wan / f"diffusion_pytorch_model-0000{i}-of-00003.safetensors").unlink()


def lose_shards_and_index(wan):
    lose_shards(wan)
    (wan / "diffusion_pytorch_model.safetensors.index.json").unlink()


def another_naming_among_it(wan):
    save_file(
        {"proj_out.bias": np.zeros(64, np.float32)},
        wan / "diffusion_pytorch_model-00003-of-00003.safetensors",
    )
    index = wan / "diffusion_pytorch_model.safetensors.index.json"
    there = {
        key: file
        for key, file in json.loads(index.read_text())["weight_map"].items()
        if "00003-of" not in file
    }
    index.write_text(
        json.dumps(
            {
                "weight_map": {
                    **there,
                    "proj_out.bias": "diffusion_pytorch_model-00003-of-00003.safetensors",
                }
            }
        )
    )


def two_formats(wan):
    (wan / "transformer").mkdir()


def single(wan, **changes):
    for file in wan.glob("diffusion_pytorch_model*"):
        file.unlink()
    save_file(tensors("transformer", **changes), wan / "diffusion_pytorch_model.safetensors")


def wan22_5b(wan):
    single(wan, in_dim=48, out_dim=48)


def image_to_video(wan):
    single(wan, in_dim=36)


def clip_image(wan):
    single(wan)
    file = wan / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "img_emb.proj.0.weight": np.zeros(3, np.float32)}, file)


def wan22_vae(wan):
    config = {"mean": (0.0,) * 48, "std": (1.0,) * 48}
    save_torch(wan / "Wan2.2_VAE.pth", **tensors("vae", z_dim=48, **config))


def two_experts(wan):
    for name in ("high_noise_model", "low_noise_model"):
        (wan / name).mkdir()


def eight_bits(wan):
    single(wan)
    file = wan / "diffusion_pytorch_model.safetensors"
    packed = {
        key: t.astype(np.int8) if key.endswith("q.weight") else t
        for key, t in load_file(file).items()
    }
    save_file(packed, file)


def no_tokenizer(wan):
    shutil.rmtree(wan / "google")


def not_json(wan):
    (wan / "config.json").write_text("{")


@pytest.mark.parametrize(
    "damage, message",
    [
        (truncate, r"00002-of-00003\.safetensors is damaged or incomplete.*download it again"),
        (
            lose_shards,
            r"shards missing in .*wan: diffusion_pytorch_model-00002-of-00003\.safetensors, "
            r".*-00003-of-00003\.safetensors",
        ),
        (
            lose_shards_and_index,
            r"shards missing in .*wan: diffusion_pytorch_model-00002-of-00003\.safetensors, "
            r".*-00003-of-00003\.safet",
        ),
        (
            another_naming_among_it,
            r"mixes formats: .* original Wan2\.1 keys .* Diffusers \(proj_out\.bias\)",
        ),
        (two_formats, r"holds two formats, transformer/ and diffusion_pytorch_model"),
        (wan22_5b, r"is Wan2\.2-TI2V-5B: its latents have 48 channels"),
        (image_to_video, r"is a Wan image-to-video transformer: 36 input channels"),
        (clip_image, r"is a Wan image-to-video transformer: it attends to CLIP image tokens"),
        (wan22_vae, r"is the VAE of Wan2\.2-TI2V-5B: 48 latent channels"),
        (two_experts, r"is Wan2\.2-A14B: two transformers"),
        (eight_bits, r"quantised weights \(blocks\.0\.\w+_attn\.\w*q\.weight is I8\)"),
        (no_tokenizer, r"no tokenizer beside the text encoder .* as --tokenizer"),
        (not_json, r"config\.json is not JSON"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(wan, tmp_path, damage, message):
    damage(wan)
    with pytest.raises(DataError, match=message):
        run(wan, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["wan"]


def test_impossible_requests(made, wan, tmp_path):
    with pytest.raises(DataError, match="there is no such file or folder"):
        run(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no known network"):
        run(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UsageError, match="model already exists: choose another --out"):
        run(wan, made / "model")
    with pytest.raises(UsageError, match="unknown dtype 'bf17', did you mean 'bf16'"):
        run(wan, tmp_path / "out", dtype="bf17")
    with pytest.raises(
        UsageError, match="unknown family 'self-forced', did you mean 'self-forcing'"
    ):
        run(wan, tmp_path / "out", family="self-forced")
    with pytest.raises(UsageError, match="has one set of weights and no generator"):
        run(wan, tmp_path / "out", weights="generator")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(DataError, match=r"notes\.txt is no file of tensors"):
        run(tmp_path / "notes.txt", tmp_path / "out")


@pytest.mark.parametrize("to", ["model", "diffusers", "orbax"])
def test_an_out_that_cannot_be_made_is_refused_first(wan, tmp_path, to):
    (tmp_path / "file").write_text("hello")
    with pytest.raises(
        UsageError, match=r"file/out cannot be made: .*file is no folder; choose another --out"
    ):
        run(wan, tmp_path / "file/out", to=to)


def wrapped(prefix, **changes):
    """The transformer's tensors under a wrapper's prefix, times a number."""
    return {
        f"{prefix}{key}": tensor * changes.get("times", 1)
        for key, tensor in tensors("transformer").items()
    }


PLAIN = ("model.", 2)
AVERAGED = ("model._fsdp_wrapped_module.", 3)
BOTH = {"generator": PLAIN, "generator_ema": AVERAGED}
COMPILED = {"generator": ("model._orig_mod.", 2)}
CHECKPOINTED = {"generator_ema": ("_checkpoint_wrapped_module.model.", 2)}


@pytest.mark.parametrize(
    "file, content, options, times, family",
    [
        ("self_forcing_dmd.pt", {"critic": ("model.", 9), **BOTH}, {}, 3, "self-forcing"),
        ("self_forcing_dmd.pt", BOTH, {"weights": "generator"}, 2, "self-forcing"),
        (
            "chunkwise/causal_forcing.pt",
            {"generator": PLAIN, "generator_ema": ("model.", 3)},
            {},
            2,
            "causal-forcing",
        ),
        ("autoregressive_checkpoint/model.pt", COMPILED, {}, 2, "causvid"),
        ("rolling_forcing_dmd.pt", CHECKPOINTED, {}, 2, "rolling-forcing"),
        ("other.pt", {"model": ("", 2)}, {"family": "memflow"}, 2, "memflow"),
        ("krea-realtime-video-14b.safetensors", PLAIN, {}, 2, "krea-realtime-14b"),
        ("flat.pth", ("", 2), {}, 2, None),
    ],
)
def test_causal_children(tmp_path, file, content, options, times, family):
    source = tmp_path / file
    source.parent.mkdir(exist_ok=True)
    if file.endswith(".safetensors"):
        save_file(wrapped(content[0], times=content[1]), source)
    elif isinstance(content, dict):
        save_torch(
            source, **{name: wrapped(prefix, times=by) for name, (prefix, by) in content.items()}
        )
    else:
        save_torch(source, **wrapped(content[0], times=content[1]))
    run(source, tmp_path / "out", **options)
    assert_equal_bytes(
        read_all(tmp_path / "out"),
        {f"transformer:{key}": t * times for key, t in tensors("transformer").items()},
    )
    metadata = load_metadata(tmp_path / "out")
    assert metadata.get("family") == family and metadata["converted_from"] == source.name
    assert ("sampler" in metadata) == ("memory" in metadata) == (family is not None)


def test_a_model_folders_sampling_is_converted_too(tmp_path):
    save_torch(tmp_path / "self_forcing_dmd.pt", generator=wrapped("model."))
    run(tmp_path / "self_forcing_dmd.pt", tmp_path / "causvid")
    mine = {**load_metadata(tmp_path / "causvid"), "sampler": {"solver": "euler", "shift": 7.0}}
    (tmp_path / "causvid/metadata.json").write_text(json.dumps(mine))
    run(tmp_path / "causvid", tmp_path / "again", dtype="bf16")
    assert load_metadata(tmp_path / "again") == {**mine, "converted_from": "causvid"}
    run(tmp_path / "causvid", tmp_path / "theirs", to="diffusers")
    (tmp_path / "causvid/metadata.json").write_text('{"sampler": {"shift": -1}}')
    with pytest.raises(
        DataError,
        match=r"metadata\.json describes no sampler with \{'shift': -1\}: correct it, "
        r"or give --family",
    ):
        run(tmp_path / "causvid", tmp_path / "no", to="diffusers")
    run(tmp_path / "causvid", tmp_path / "other", family="memflow")
    assert load_metadata(tmp_path / "other")["family"] == "memflow"


def test_a_base_with_its_lora_beside_it(tmp_path):
    """LongLive's two files are merged if their folder is given; the base alone is unchanged."""
    rng = np.random.default_rng(1)
    down, up = (
        rng.standard_normal((2, 24)).astype(np.float32),
        rng.standard_normal((24, 2)).astype(np.float32),
    )
    prefix = "base_model.model.model.blocks.0.self_attn.q"
    models = tmp_path / "LongLive-1.3B/models"
    models.mkdir(parents=True)
    save_torch(models / "longlive_base.pt", generator=wrapped("model."))
    adapter = {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}
    save_torch(models / "lora.pt", generator_lora=adapter, critic_lora=adapter)
    base = tensors("transformer")["blocks.0.self_attn.q.weight"]
    for source, update in (
        (models.parent, up @ down),
        (models, up @ down),
        (models / "longlive_base.pt", 0),
    ):
        run(source, tmp_path / f"from {source.name}")
        merged = read_all(tmp_path / f"from {source.name}")[
            "transformer:blocks.0.self_attn.q.weight"
        ]
        np.testing.assert_allclose(merged, base + update, rtol=1e-5, atol=1e-5)
        assert load_metadata(tmp_path / f"from {source.name}")["family"] == "longlive-1"
    with pytest.raises(DataError, match=r"lora\.pt .*name its base, and this file as --lora"):
        run(models / "lora.pt", tmp_path / "out")
    save_torch(models / "more.pt", generator=wrapped("model."))
    with pytest.raises(
        DataError,
        match=r"models holds 2 checkpoints, longlive_base\.pt, more\.pt: name the one to use",
    ):
        run(models, tmp_path / "out")


def test_a_lora_is_merged(made, tmp_path):
    rng = np.random.default_rng(0)
    down, up = (
        rng.standard_normal((4, 24)).astype(np.float32),
        rng.standard_normal((40, 4)).astype(np.float32),
    )
    adapter = {
        "base_model.model.model.blocks.1.ffn.0.lora_A.weight": down,
        "base_model.model.model.blocks.1.ffn.0.lora_B.default.weight": up,
    }
    save_file(adapter, tmp_path / "lora.safetensors")
    base = tensors("transformer")
    for alpha, scale in ((None, 1.0), (8.0, 2.0)):
        out = tmp_path / f"alpha-{alpha}"
        run(made / "model/transformer", out, lora=tmp_path / "lora.safetensors", lora_alpha=alpha)
        merged = only(read_all(out), "transformer")
        want = {f"transformer:{key}": tensor for key, tensor in base.items()}
        want["transformer:blocks.1.ffn.0.weight"] = merged["transformer:blocks.1.ffn.0.weight"]
        assert_equal_bytes(merged, want)
        expected = base["blocks.1.ffn.0.weight"] + scale * (up @ down)
        np.testing.assert_allclose(
            merged["transformer:blocks.1.ffn.0.weight"], expected, rtol=1e-5, atol=1e-5
        )
    save_file(
        {**adapter, "base_model.model.model.blocks.9.ffn.0.lora_A.weight": down},
        tmp_path / "half.safetensors",
    )
    with pytest.raises(DataError, match=r"half\.safetensors is not a LoRA .* has no other half"):
        run(made / "model/transformer", tmp_path / "out", lora=tmp_path / "half.safetensors")
    save_file(
        {key.replace("blocks.1", "blocks.7"): t for key, t in adapter.items()},
        tmp_path / "other.safetensors",
    )
    with pytest.raises(
        DataError,
        match=r"does not belong to .*: blocks\.7\.ffn\.0\.weight \(40, 24\), the base has none",
    ):
        run(made / "model/transformer", tmp_path / "out", lora=tmp_path / "other.safetensors")


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
    parse = runpy.run_path(str(ROOT / "launch/convert.py"))["parse"]
    flags = vars(parse(["--from", "a", "--out", "b"]))
    progress = not flags.pop("no_progress")
    assert ConvertConfig(**flags, progress=progress) == ConvertConfig(Path("a"), Path("b"))
