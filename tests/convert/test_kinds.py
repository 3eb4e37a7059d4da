"""A file's kind follows from its keys.

Misleading names, wrappers, eight bits, and refused formats.
"""

import json

import ml_dtypes
import numpy as np
import pytest
from conversions import run
from safetensors.numpy import save_file
from tiny_checkpoints import CONFIG_JSON, read_all, save_torch, tensors

from causalcine_jax.convert import load_transformer
from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.convert.find import find_part, holds
from causalcine_jax.convert.formats import open_part
from causalcine_jax.convert.tensor_files import SUFFIXES
from causalcine_jax.errors import DataError, UsageError

BASE = tensors("transformer")


def assert_is_base(folder, times=1):
    found = read_all(folder)
    assert found.keys() == {f"transformer:{key}" for key in BASE}
    for key, tensor in BASE.items():
        assert np.array_equal(found[f"transformer:{key}"], tensor * times), key


@pytest.mark.parametrize(
    "name",
    [
        "checkpoint5000.safetensors",
        "vaeloss.pt",
        "umt5.pth",
        "weights.bin",
        "weights",
        "model.ckpt",
    ],
)
def test_a_name_decides_nothing(tmp_path, name):
    source = tmp_path / name
    if name.endswith((".safetensors", "weights")):
        save_file(BASE, source)
    else:
        save_torch(source, **BASE)
    run(source, tmp_path / "out")
    assert_is_base(tmp_path / "out")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_alone_in_a_folder_is_found(tmp_path, suffix):
    folder = tmp_path / "trained"
    folder.mkdir()
    save = save_file if suffix == ".safetensors" else lambda made, file: save_torch(file, **made)
    save(BASE, folder / f"step5000{suffix}")
    run(folder, tmp_path / "out")
    assert_is_base(tmp_path / "out")


def test_files_of_a_folder_are_told_apart_by_their_keys(tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    save_file(BASE, folder / "my_vae_finetune.safetensors")
    save_torch(folder / "t5_transformer.pt", **tensors("vae"))
    save_file(tensors("text_encoder"), folder / "a.safetensors")
    for part, file in (
        ("transformer", "my_vae_finetune.safetensors"),
        ("vae", "t5_transformer.pt"),
        ("text_encoder", "a.safetensors"),
    ):
        assert find_part(folder, part).weights == folder / file
    save_file(BASE, folder / "b.safetensors")
    with pytest.raises(
        DataError,
        match=r"mixed holds 2 checkpoints, b\.safetensors, my_vae_finetune\.safetensors: "
        r"name the one to use",
    ):
        find_part(folder, "transformer")


def test_a_file_named_as_another_part(tmp_path):
    save_torch(tmp_path / "vae.pt", **tensors("text_encoder"))
    assert holds(tmp_path / "vae.pt", "text_encoder") and not holds(tmp_path / "vae.pt", "vae")
    with pytest.raises(UsageError, match=r"vae\.pt is a text encoder, and .* is named as one too"):
        run(tmp_path / "vae.pt", tmp_path / "out", text_encoder=tmp_path / "vae.pt")
    save_file(BASE, tmp_path / "dit.safetensors")
    for part in ("vae", "text_encoder"):
        with pytest.raises(DataError, match="its keys are those of a transformer"):
            run(
                tmp_path / "dit.safetensors",
                tmp_path / "out",
                **{part: tmp_path / "dit.safetensors"},
            )
    save_file({"something.else": np.zeros(3, np.float32)}, tmp_path / "transformer.safetensors")
    with pytest.raises(
        DataError, match=r"holds no known network: its keys begin with something\.else"
    ):
        run(tmp_path / "transformer.safetensors", tmp_path / "out")


def test_a_config_beside_a_pt_is_read(tmp_path):
    for place in ("", "models"):
        folder = tmp_path / f"child{place}"
        (folder / place).mkdir(parents=True)
        save_torch(folder / place / "self_forcing_dmd.pt", generator=BASE)
        (folder / "config.json").write_text(
            '{"_class_name": "WanModel", "num_heads": 4, "text_len": 64}'
        )
        config = load_transformer(folder).config
        assert (config.num_heads, config.text_len) == (4, 64)
    assert load_transformer(tmp_path / "child/self_forcing_dmd.pt").config.num_heads == 4


@pytest.mark.parametrize(
    "content, options, times",
    [
        ({"module": ("", 2)}, {}, 2),
        ({"model_state_dict": ("model.", 2)}, {}, 2),
        ({"state_dict": ("net.", 2)}, {}, 2),
        ({"module": ("module.model.", 2), "optimizer": ("", 3)}, {}, 2),
        ({"model": ("", 2), "ema": ("module.", 3)}, {}, 3),
        ({"model": ("", 2), "ema": ("module.", 3)}, {"weights": "generator"}, 2),
        ({"model": ("", 2), "model_ema": ("", 3)}, {"weights": "generator_ema"}, 3),
        ({"state_dict": ("generator.model.", 2)}, {}, 2),
    ],
)
def test_dictionaries_that_hold_a_network(tmp_path, content, options, times):
    values = {
        name: {f"{prefix}{key}": t * by for key, t in BASE.items()}
        for name, (prefix, by) in content.items()
    }
    save_torch(tmp_path / "a.pt", **values)
    run(tmp_path / "a.pt", tmp_path / "out", **options)
    assert_is_base(tmp_path / "out", times)


def test_which_dictionary_is_taken_is_said(tmp_path, capsys):
    """An average that holds no weights is no choice."""
    average = {key: t * 3 for key, t in BASE.items()}
    for name, ema, taken in (
        ("whole", {"decay": np.ones(1, np.float32), "shadow_params": average}, 3),
        ("empty", {"decay": np.ones(1, np.float32)}, 1),
    ):
        save_torch(tmp_path / f"{name}.pt", model=BASE, ema=ema)
        run(tmp_path / f"{name}.pt", tmp_path / name)
        assert_is_base(tmp_path / name, taken)
        assert ("whole.pt holds ema, model: ema is taken" in capsys.readouterr().err) == (
            taken == 3
        )


def test_dictionaries_inside_each_other(tmp_path):
    save_torch(
        tmp_path / "a.pt",
        state_dict={"generator": BASE, "generator_ema": {key: t * 2 for key, t in BASE.items()}},
    )
    run(tmp_path / "a.pt", tmp_path / "out")
    assert_is_base(tmp_path / "out", 2)
    run(tmp_path / "a.pt", tmp_path / "raw", weights="generator")
    assert_is_base(tmp_path / "raw")


@pytest.mark.parametrize(
    "prefixes, options, taken",
    [
        (["generator.model."], {}, 0),
        (["net."], {}, 0),
        (["net.", "net_ema."], {}, 1),
        (["generator.", "generator_ema.", "critic."], {}, 1),
        (["generator.", "generator_ema."], {"weights": "generator"}, 0),
        (["pipe.dit."], {}, 0),
        (["model.diffusion_model."], {}, 0),
        (["transformer."], {}, 0),
        (["module.generator.", "module.generator_ema."], {}, 1),
        (["model.", "ema."], {}, 1),
    ],
)
def test_dictionaries_made_flat(tmp_path, prefixes, options, taken):
    flat = {
        f"{prefix}{key}": t * (i + 1)
        for i, prefix in enumerate(prefixes)
        for key, t in BASE.items()
    }
    step = {"step": np.zeros(1, np.int64)} if len(prefixes) > 1 else {}
    save_file({**flat, **step}, tmp_path / "a.safetensors")
    run(tmp_path / "a.safetensors", tmp_path / "out", **options)
    assert_is_base(tmp_path / "out", taken + 1)


def float8(scales, key_of_scale, shape, marker=True):
    """(ComfyUI's file of the base with float8 attention and scales, the values to read)."""
    content, expected = {}, {}
    for key, tensor in BASE.items():
        if "_attn" in key and key.endswith(".weight") and tensor.ndim == 2:
            scale = (
                np.abs(tensor).max(1 if shape == "rows" else None, keepdims=shape == "rows") / 448
                if scales
                else np.array(1, np.float32)
            )
            packed = (tensor / scale).astype(ml_dtypes.float8_e4m3fn)
            content[key] = packed
            if scales:
                content[key.replace(".weight", key_of_scale)] = np.asarray(scale, np.float32)
                content[key.replace(".weight", ".scale_input")] = np.array(1, np.float32)
            expected[key] = (packed.astype(np.float32) * scale).astype(ml_dtypes.bfloat16)
        else:
            content[key] = expected[key] = tensor
    if marker:
        content["scaled_fp8"] = np.zeros(2, ml_dtypes.float8_e4m3fn)
    return {
        f"model.diffusion_model.{k}" if k != "scaled_fp8" else k: v for k, v in content.items()
    }, expected


@pytest.mark.parametrize(
    "scales, key, shape",
    [(True, ".scale_weight", "one"), (True, ".weight_scale", "rows"), (False, None, None)],
    ids=["scaled", "rows", "plain"],
)
def test_float8_weights_are_read_with_their_scales(tmp_path, scales, key, shape):
    content, expected = float8(scales, key, shape, marker=scales)
    save_file(content, tmp_path / "fp8.safetensors")
    with open_part(tmp_path / "fp8.safetensors", "transformer") as part:
        assert "weights are float8" in part.notes[0]
        for name, tensor in expected.items():
            read = part.read_slice(name, (slice(1, None), *(slice(None),) * (tensor.ndim - 1)))
            assert read.dtype == tensor.dtype and np.array_equal(read, tensor[1:]), name
            if tensor.dtype == ml_dtypes.bfloat16:  # within float8's precision
                assert (
                    np.abs(read.astype(np.float32) - BASE[name][1:]).max()
                    < 0.07 * np.abs(BASE[name]).max()
                )
    run(tmp_path / "fp8.safetensors", tmp_path / "out")
    found = read_all(tmp_path / "out")
    assert all(
        np.array_equal(found[f"transformer:{name}"], tensor) for name, tensor in expected.items()
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale_weight": None}, r"q\.weight is float8 and its scale is missing"),
        (
            {"scale_weight": np.array(0, np.float32)},
            r"scale_weight is not a positive finite number",
        ),
        ({"scale_weight": np.array(-1, np.float32)}, r"scale_weight is not a positive finite"),
        ({"scale_weight": np.array(np.nan, np.float32)}, r"scale_weight is not a positive finite"),
        ({"scale_weight": np.ones((1, 24), np.float32)}, r"one number or 24 were expected"),
        ({"weight_scale": np.array(2, np.float32)}, r"scale_weight and .*weight_scale both scale"),
    ],
)
@pytest.mark.parametrize("marker", [True, False])
def test_scales_that_are_lost_doubled_or_impossible_are_refused(tmp_path, change, message, marker):
    content, _ = float8(True, ".scale_weight", "one", marker)
    for name, value in change.items():
        key = f"model.diffusion_model.blocks.0.self_attn.q.{name}"
        content.pop(key, None)
        content |= {} if value is None else {key: value}
    save_file(content, tmp_path / "fp8.safetensors")
    with pytest.raises(DataError, match=message):
        load_transformer(tmp_path / "fp8.safetensors")


def test_scaled_weights_that_all_lost_their_scales_are_refused(tmp_path):
    content, _ = float8(False, None, None, marker=True)
    save_file(content, tmp_path / "fp8.safetensors")
    with pytest.raises(DataError, match="is float8 and its scale is missing"):
        load_transformer(tmp_path / "fp8.safetensors")


def test_a_scale_without_its_weight_and_other_packings_are_refused(tmp_path):
    for name, tensor, message in (
        ("blocks.0.self_attn.q.scale_weight", np.array(1, np.float32), "scales no float8 weight"),
        (
            "blocks.0.self_attn.q.weight",
            np.zeros((24, 24), np.uint8),
            r"quantised weights .* is U8\): take the bf16",
        ),
    ):
        save_file({**BASE, name: tensor}, tmp_path / "a.safetensors")
        with pytest.raises(DataError, match=message):
            load_transformer(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["wan2.1-t2v-Q4_K_M.gguf", "model.safetensors"])
def test_gguf_is_refused_with_what_to_take_instead(tmp_path, name):
    (tmp_path / name).write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(
            DataError, match=r"is GGUF, .*take the bf16, fp16 or fp8_scaled \.safetensors"
        ):
            run(source, tmp_path / "out")


def test_the_family_is_asked_for_where_no_name_identifies_it(tmp_path, capsys):
    save_file(BASE, tmp_path / "mine.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG_JSON))
    convert(ConvertConfig(tmp_path / "mine.safetensors", tmp_path / "out"))
    out = capsys.readouterr().err
    assert (
        "family: unknown" in out
        and "plain Wan2.1: UniPC of 50 steps" in out
        and "--family NAME" in out
    )
