"""Adapters of every trainer: the target weight of each tensor, and its scale, against numpy."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_loras import BASE, DOWN, PAIR, RNG, UP, Q, peft_folder, read, scale

from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.errors import DataError, UsageError


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"r": 16, "lora_alpha": 8, "rank_pattern": {"self_attn.q": 4}}, 2.0),
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {r"blocks\.0\.self_attn\.q": 2}}, 0.5),
        # A module has its trainer's name: here after peft's own prefix.
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"^blocks.0.self_attn.q": 2}}, 0.5),
        # peft matches full path components.
        ({"r": 4, "lora_alpha": 8, "alpha_pattern": {"attn.q": 2}}, 2.0),
    ],
)
def test_adapter_config_sets_the_scale(base, tmp_path, settings, expected):
    folder = peft_folder(tmp_path / "peft", **settings)
    assert scale(base, folder) == expected
    assert scale(base, folder / "adapter_model.safetensors") == expected


@pytest.mark.parametrize(
    "header, expected",
    [
        ({"lora_alpha": "8", "rank": "4"}, 2.0),
        ({"ss_network_alpha": "2.0", "ss_network_dim": "4"}, 0.5),
        ({"ss_network_alpha": "None", "ss_network_dim": "Dynamic"}, 1.0),
        (
            {
                "lora_adapter_metadata": json.dumps(
                    {"transformer.r": 4, "transformer.lora_alpha": 8}
                )
            },
            2.0,
        ),
        (
            {
                "lora_adapter_metadata": json.dumps(
                    {"transformer.lora_alpha": 8, "transformer.use_rslora": True}
                )
            },
            4.0,
        ),
        ({"format": "pt"}, 1.0),
    ],
)
def test_the_header_sets_the_scale(base, tmp_path, header, expected):
    save_file(PAIR, tmp_path / "lora.safetensors", metadata=header)
    assert scale(base, tmp_path / "lora.safetensors") == expected


def test_the_flag_sets_the_scale_where_nothing_else_does(base, tmp_path):
    save_file(PAIR, tmp_path / "lora.safetensors")
    assert scale(base, tmp_path / "lora.safetensors", lora_alpha=8.0) == 2.0
    with pytest.raises(UsageError, match="--lora-alpha must be a positive number"):
        read(base, tmp_path / "lora.safetensors", lora_alpha=float("nan"))


def test_sources_that_disagree_are_refused_and_named(base, tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file({**PAIR, f"diffusion_model.{Q}.alpha": np.array(2, np.float32)}, file)
    assert scale(base, file) == 0.5
    assert scale(base, file, lora_alpha=2.0) == 0.5
    with pytest.raises(
        UsageError, match=r"self_attn\.q\.alpha says 2, --lora-alpha says 8; leave out --lora-alpha"
    ):
        read(base, file, lora_alpha=8.0)
    save_file(
        {**PAIR, f"diffusion_model.{Q}.alpha": np.array(2, np.float32)},
        file,
        metadata={"lora_alpha": "8"},
    )
    with pytest.raises(DataError, match=r"\.alpha says 2, the file's header says 8"):
        read(base, file)
    save_file(PAIR, file, metadata={"rank": "16", "lora_alpha": "8"})
    with pytest.raises(
        DataError, match=r"the file's header says rank 16 for .*, whose tensors have 4"
    ):
        read(base, file)
    root = peft_folder(tmp_path / "peft", r=4, lora_alpha=8, use_rslora=True)
    header = {"lora_adapter_metadata": json.dumps({"use_rslora": False, "lora_alpha": 8})}
    save_file(PAIR, root / "adapter_model.safetensors", metadata=header)
    with pytest.raises(
        DataError,
        match=r"use_rslora .* adapter_config\.json says True, lora_adapter_metadata says False",
    ):
        read(base, root)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"peft_type": "LOHA"}, "is of LOHA, and only LoRA is merged"),
        ({"use_dora": True}, "is of DoRA"),
        ({"init_lora_weights": "pissa_niter_4"}, "'pissa_niter_4': it was trained on a changed"),
        ({"init_lora_weights": "OLoRA"}, "save_pretrained with path_initial_model_for"),
        ({"init_lora_weights": "corda"}, "save_pretrained with path_initial_model_for"),
        ({"init_lora_weights": "loftq"}, "wrong on this one. Train it on the plain base"),
        ({"init_lora_weights": "lora_ga"}, "wrong on this one. Train it on the plain base"),
        (
            {"alora_invocation_tokens": [1, 2]},
            r"alora_invocation_tokens \[1, 2\], which is not merged",
        ),
        ({"layer_replication": [[0, 1]]}, r"layer_replication .*, which is not merged here"),
        ({"lora_alpha": "8"}, "lora_alpha must be a positive number, not '8'"),
        ({"lora_alpha": -8}, "lora_alpha must be a positive number"),
        ({"use_rslora": "yes"}, "use_rslora must be true or false"),
        ({"alpha_pattern": {"(": 2}}, "no regular expression"),
        ({"alpha_pattern": {"attn.q": None}}, "must be a positive number, not None"),
        ({"lora_alpha": 10**400}, "must be a positive number, not a number of about 400 digits"),
        ({"modules_to_save": ["head"]}, r"says modules_to_save \['head'\], which is not merged"),
        ({"bias": "lora_only"}, "says bias 'lora_only', which is not merged"),
    ],
)
def test_impossible_settings(base, tmp_path, settings, message):
    with pytest.raises(DataError, match=message):
        read(base, peft_folder(tmp_path / "peft", **settings))


@pytest.mark.parametrize("pattern", ["blocks.0.attn1.to_q", "attn1.to_q", "to_q"])
def test_patterns_are_in_the_names_of_the_adapter(base, tmp_path, pattern):
    names = "blocks.0.attn1.to_q.lora_A.weight", "blocks.0.attn1.to_q.lora_B.weight"
    pair = dict(zip(names, (DOWN, UP), strict=True))
    settings = {
        "r": 16,
        "lora_alpha": 8,
        "alpha_pattern": {pattern: 2},
        "rank_pattern": {pattern: 4},
    }
    assert scale(base, peft_folder(tmp_path / "peft", pair, **settings)) == 0.5
    header = {
        "lora_adapter_metadata": json.dumps({f"transformer.{k}": v for k, v in settings.items()})
    }
    save_file(
        {f"transformer.{key}": t for key, t in pair.items()}, tmp_path / "a.safetensors", header
    )
    assert scale(base, tmp_path / "a.safetensors") == 0.5


@pytest.mark.parametrize(
    "dtype, alpha, stated", [(np.float16, 0.3, "0.3"), (ml_dtypes.bfloat16, 10.6666, "10.6666")]
)
def test_an_alpha_tensor_may_be_rounded(base, tmp_path, dtype, alpha, stated):
    own = {f"diffusion_model.{Q}.alpha": np.array(alpha, dtype)}
    header = {"ss_network_alpha": stated, "ss_network_dim": "4"}
    save_file({**PAIR, **own}, tmp_path / "lora.safetensors", header)
    assert abs(scale(base, tmp_path / "lora.safetensors").expected - alpha / 4) < 0.01 * alpha
    save_file(
        {**PAIR, **own}, tmp_path / "lora.safetensors", {"ss_network_alpha": f"{alpha * 1.01}"}
    )
    with pytest.raises(DataError, match="is stated differently"):
        read(base, tmp_path / "lora.safetensors")


def test_a_header_whose_alpha_is_no_number(base, tmp_path):
    save_file(PAIR, tmp_path / "lora.safetensors", {"lora_alpha": "8,0"})
    with pytest.raises(DataError, match="lora_alpha in its header must be a number, not '8,0'"):
        read(base, tmp_path / "lora.safetensors")
    save_file(PAIR, tmp_path / "lora.safetensors", {"ss_network_alpha": "Dynamic", "rank": "high"})
    assert scale(base, tmp_path / "lora.safetensors") == 1.0


def test_the_bias_of_an_adapter_has_its_scale(base, tmp_path):
    more = RNG.standard_normal(24).astype(np.float32)
    pair = {f"base_model.model.{Q}.lora_A.weight": DOWN, f"base_model.model.{Q}.lora_B.weight": UP}
    bias = {f"base_model.model.{Q}.lora_B.bias": more}
    settings = {"r": 4, "lora_alpha": 8, "lora_bias": True}
    folder = peft_folder(tmp_path / "peft", {**pair, **bias}, **settings)
    assert scale(base, folder) == 2.0
    expected = BASE[f"{Q}.bias"] + 0.5 * 2 * more
    np.testing.assert_allclose(read(base, f"{folder}:0.5", key=f"{Q}.bias"), expected, rtol=1e-6)
    save_file(bias, folder / "adapter_model.safetensors")
    with pytest.raises(DataError, match=r"lora_B\.bias belongs to no lora_A and lora_B"):
        read(base, folder)


def test_the_scale_is_printed(base, tmp_path, capsys):
    folder = peft_folder(tmp_path / "peft", r=4, lora_alpha=8)
    convert(ConvertConfig(base, tmp_path / "out", lora=[f"{folder}:0.8"], progress=False))
    assert (
        "lora peft: strength 0.8, scale 2 of 1 weights (alpha 8, adapter_config.json)"
        in capsys.readouterr().err
    )
