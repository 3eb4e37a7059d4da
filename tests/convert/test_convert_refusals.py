"""launch/convert.py: bad input gives one error, and nothing is written."""

import json
import shutil

import numpy as np
import pytest
from conversions import run
from safetensors.numpy import load_file, save_file
from tiny_checkpoints import (
    save_torch,
    tensors,
)

from causalcine_jax.convert import (
    writing,
)
from causalcine_jax.errors import DataError, UsageError


def test_not_enough_room(wan, tmp_path, monkeypatch):
    monkeypatch.setattr(
        writing.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1000)
    )
    for to in ("model", "diffusers", "orbax"):
        with pytest.raises(
            DataError,
            match=r"not enough room on the disk: .*out needs up to 0\.\d+ MB, .* has 0\.001 MB",
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


def lose_bin_shards(wan):
    for file in wan.glob("diffusion_pytorch_model*"):
        file.unlink()
    save_torch(wan / "pytorch_model-00001-of-00002.bin", **tensors("transformer"))


def lose_a_block(wan):
    """The index lists a block that no shard has; the others are a shorter network."""
    (wan / "config.json").unlink()
    for file in wan.glob("*.safetensors"):
        kept = {key: t for key, t in load_file(file).items() if not key.startswith("blocks.2.")}
        save_file(kept, file)


def local_attention(wan):
    config = json.loads((wan / "config.json").read_text())
    (wan / "config.json").write_text(json.dumps({**config, "window_size": [6, 6]}))


def a_key_twice(wan):
    text = (wan / "config.json").read_text()
    (wan / "config.json").write_text(text.replace("{", '{"num_heads": 1, ', 1))


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
    single(wan)
    file = wan / "diffusion_pytorch_model.safetensors"
    embedding = {"patch_embedding.weight": np.zeros((3072, 48, 1, 2, 2), np.float32)}
    save_file({**load_file(file), **embedding}, file)


def image_to_video(wan):
    single(wan, in_dim=36)


def clip_image(wan):
    single(wan)
    file = wan / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "img_emb.proj.0.weight": np.zeros(3, np.float32)}, file)


def wan22_vae(wan):
    config = {"mean": (0.0,) * 48, "std": (1.0,) * 48}
    resampling = {"decoder.upsamples.0.upsamples.0.residual.0.gamma": np.zeros(3, np.float32)}
    save_torch(wan / "Wan2.2_VAE.pth", **tensors("vae", z_dim=48, **config), **resampling)


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
            lose_bin_shards,
            r"shards missing in .*wan: pytorch_model-00002-of-00002\.bin; copy",
        ),
        (lose_a_block, r"(?s)27 of its tensors do not fit.*missing    blocks\.2\..*, by the index"),
        (local_attention, r"says window_size \[6, 6\]: it attends to neighbours alone"),
        (a_key_twice, r"config\.json: the key 'num_heads' is given twice"),
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
        (not_json, r"config\.json: not valid JSON"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(wan, tmp_path, damage, message):
    damage(wan)
    with pytest.raises(DataError, match=message):
        run(wan, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["wan"]


def test_a_shard_or_an_index_by_itself(wan, tmp_path):
    for name, message in (
        ("diffusion_pytorch_model-00002-of-00003.safetensors", r"is one of 3 shards"),
        ("diffusion_pytorch_model.safetensors.index.json", "is an index of shards"),
    ):
        with pytest.raises(DataError, match=rf"{message}: name its folder, .*wan"):
            run(wan / name, tmp_path / "out")


def test_a_mark_in_front_of_json_is_read(wan, tmp_path):
    for name in ("config.json", "diffusion_pytorch_model.safetensors.index.json"):
        (wan / name).write_bytes(b"\xef\xbb\xbf" + (wan / name).read_bytes())
    run(wan, tmp_path / "out")
    assert json.loads((tmp_path / "out/transformer/config.json").read_text())["num_heads"] == 2


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
        UsageError, match=r"file is a file, and --out is a folder: choose another --out"
    ):
        run(wan, tmp_path / "file/out", to=to)
