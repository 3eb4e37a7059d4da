"""Model folders that cannot be loaded: the error names the fault and the fix."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from small_networks import WEIGHTS, edit, random_module

from causalcine_jax.convert import (
    load_text_encoder,
    load_transformer,
    load_vae,
    save_model,
)
from causalcine_jax.convert.describe import describe
from causalcine_jax.convert.finite import is_finite
from causalcine_jax.convert.formats import open_part
from causalcine_jax.errors import DataError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.network_sizes import TransformerConfig


def test_the_same_tensor_twice_is_refused(folder):
    save_file({"head.head.bias": np.zeros(64, np.float32)}, folder / "transformer/more.safetensors")
    with pytest.raises(DataError, match=r"head\.head\.bias is in both"):
        load_transformer(folder)


def test_all_tensors_that_do_not_fit_are_listed_at_once(folder):
    def damage(tensors):
        del tensors["blocks.1.self_attn.q.weight"], tensors["head.modulation"]
        tensors["blocks.0.ffn.2.bias"] = np.zeros(5, np.float32)
        tensors["blocks.0.img_emb.weight"] = np.zeros((2, 2), np.float32)
        tensors["blocks.2.norm3.bias"] = tensors["blocks.2.norm3.bias"].astype(np.int32)

    edit(folder / WEIGHTS, damage)
    with pytest.raises(DataError) as error:
        load_transformer(folder)
    lines = str(error.value).splitlines()
    assert "does not hold a Wan2.1 transformer: 5 of its tensors do not fit" in lines[0]
    assert sorted(lines[1:]) == sorted(
        [
            "  dtype      blocks.2.norm3.bias is I32, expected one of F64, F32, F16, BF16",
            "  missing    blocks.1.self_attn.q.weight (12, 12)",
            "  missing    head.modulation (1, 2, 12)",
            "  misshapen  blocks.0.ffn.2.bias (5,), expected (12,)",
            "  unmatched  blocks.0.img_emb.weight (2, 2)",
        ]
    )


def test_another_network_is_named(folder):
    with pytest.raises(
        DataError, match=r"vae has no transformer: its config\.json is that of another network"
    ):
        load_transformer(folder / "vae")
    with pytest.raises(
        DataError,
        match=r"does not hold a Wan2\.1 transformer: patch_embedding\.weight is missing.*"
        r"its keys are those of a VAE",
    ):
        load_transformer(folder / "vae/model.safetensors")


@pytest.mark.parametrize(
    "part, load, lost, message",
    [
        (
            "transformer",
            load_transformer,
            None,
            r"config\.json is missing, and tensors do not determine num_heads, text_len",
        ),
        (
            "transformer",
            load_transformer,
            "num_heads",
            r"config\.json lacks num_heads, which tensors do not determine",
        ),
        ("transformer", load_transformer, "text_len", r"config\.json lacks text_len"),
        ("vae", load_vae, None, r"config\.json is missing, and tensors do not determine mean, std"),
        ("vae", load_vae, "std", r"config\.json lacks std"),
        ("text_encoder", load_text_encoder, None, r"config\.json is missing"),
    ],
)
def test_settings_that_shapes_do_not_determine_are_required_in_a_model_folder(
    folder, part, load, lost, message
):
    file = folder / part / "config.json"
    settings = json.loads(file.read_text())
    file.unlink()
    if lost is not None:
        file.write_text(
            json.dumps({name: value for name, value in settings.items() if name != lost})
        )
    with pytest.raises(DataError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "part, load, change, message",
    [
        (
            "transformer",
            load_transformer,
            {"eps": 0},
            "eps must be a number above 0 and at most 0.1, not 0",
        ),
        ("transformer", load_transformer, {"eps": 1e9}, "eps must be"),
        (
            "transformer",
            load_transformer,
            {"eps": "1e-6"},
            "eps must be a number above 0 and at most 0.1, not '1e-6'",
        ),
        (
            "transformer",
            load_transformer,
            {"text_len": -1},
            "text_len must be a positive integer, not -1",
        ),
        ("transformer", load_transformer, {"text_len": 10**9}, "text_len must be at most 4096"),
        (
            "transformer",
            load_transformer,
            {"num_heads": True},
            "num_heads must be a positive integer, not True",
        ),
        ("transformer", load_transformer, {"eps": 10**400}, "not a number of about 400 digits"),
        ("vae", load_vae, {"std": [0.0] * 16}, "std must be a list of positive finite numbers"),
        ("vae", load_vae, {"mean": ["a"] * 16}, "mean must be a list of finite numbers"),
        (
            "vae",
            load_vae,
            {"temperal_downsample": [False, True]},
            "temperal_downsample must be true twice, because films have 4 video frames per latent",
        ),
        ("vae", load_vae, {"std": [1.0, 2.0]}, "mean and std need z_dim=3 entries"),
        ("text_encoder", load_text_encoder, {"eps": float("inf")}, "eps must be"),
    ],
)
def test_impossible_sizes(folder, part, load, change, message):
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DataError, match=message):
        load(folder)


@pytest.mark.parametrize(
    "value, kind", [(np.nan, "NaN"), (np.inf, "infinity"), (-np.inf, "infinity")]
)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float16, np.float64])
def test_weights_that_are_not_finite_are_named_by_network_and_tensor(folder, value, kind, dtype):
    def damage(tensors):
        key = "blocks.1.cross_attn.o.weight"
        tensors[key] = tensors[key].astype(dtype)
        tensors[key][2, 3] = value

    edit(folder / WEIGHTS, damage)
    with pytest.raises(
        DataError, match=rf"blocks\.1\.cross_attn\.o\.weight of the transformer holds {kind}"
    ):
        load_transformer(folder)


def test_large_and_tiny_weights_are_finite():
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16, np.float64):
        ends = ml_dtypes.finfo(dtype)
        assert is_finite(np.array([ends.max, ends.min, ends.tiny, -0.0, 0.0], dtype)) and is_finite(
            np.zeros(0, dtype)
        )
        for value in (np.nan, -np.nan, np.inf, -np.inf):
            assert not is_finite(np.array([1.0, value, -1.0], dtype))


def test_without_config_a_published_model_has_its_own_heads_and_others_get_a_note(
    networks, tmp_path
):
    wan = random_module(
        Transformer,
        TransformerConfig(dim=256, ffn_dim=16, num_heads=2, num_layers=1, text_dim=8, freq_dim=10),
    )
    save_model(tmp_path / "model", transformer=wan)
    file = tmp_path / "child.safetensors"
    file.write_bytes(
        (tmp_path / "model/transformer/diffusion_pytorch_model.safetensors").read_bytes()
    )
    with open_part(file, "transformer") as tensors:
        assert describe("transformer", tensors).config == wan.config
        assert "tensors do not determine num_heads: 2 is assumed" in tensors.notes[0]
    (tmp_path / "config.json").write_text(
        '{"_class_name": "WanModel", "num_heads": 4, "text_len": 512}'
    )
    with open_part(file, "transformer") as tensors:
        assert (describe("transformer", tensors).config.num_heads, tensors.notes) == (4, [])
    (tmp_path / "config.json").write_text('{"_class_name": "WanModel", "text_len": 512}')
    with pytest.raises(DataError, match=r"config\.json lacks num_heads"):
        load_transformer(file)


@pytest.mark.parametrize(
    "settings, message",
    [
        (
            '{"dim": 13, "ffn_dim": 7}',
            "config.json says dim 13, the tensors say 12; "
            "config.json says ffn_dim 7, the tensors say 20",
        ),
        ('{"num_heads": 5}', "dim 12 is not divisible by num_heads 5"),
        ("{", "config.json: not valid JSON"),
        ("[]", "must hold a JSON object, not list"),
    ],
)
def test_a_config_that_contradicts(folder, settings, message):
    (folder / "transformer/config.json").write_text(settings)
    with pytest.raises(DataError, match=message):
        load_transformer(folder)


def test_missing_and_damaged_files_are_named_with_the_fix(folder, tmp_path):
    with pytest.raises(
        DataError, match=r"no transformer at .*nowhere: there is no such file or folder"
    ):
        load_transformer(tmp_path / "nowhere")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:-10])
    with pytest.raises(
        DataError,
        match=r"diffusion_pytorch_model\.safetensors is damaged or incomplete.*download it again",
    ):
        load_transformer(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(DataError, match=r"no \.safetensors file in .*transformer"):
        load_transformer(folder)


@pytest.mark.parametrize(("dim", "heads"), [(128, 4), (192, 6)])
def test_without_config_heads_that_are_not_wans_are_refused(dim, heads, tmp_path):
    sizes = TransformerConfig(
        dim=dim, ffn_dim=16, num_heads=heads, num_layers=1, text_dim=8, freq_dim=10
    )
    save_model(tmp_path / "model", transformer=random_module(Transformer, sizes))
    weights = tmp_path / "model/transformer/diffusion_pytorch_model.safetensors"
    (tmp_path / "alone").mkdir()
    shutil.copy(weights, tmp_path / "alone")
    with pytest.raises(DataError, match=rf"num_heads, and dim {dim} is not of Wan2.1's heads"):
        load_transformer(tmp_path / "alone")
