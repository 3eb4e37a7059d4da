"""Merging adapters, against numpy: names of every trainer, several adapters, misfits."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_checkpoints import save_torch
from tiny_loras import BASE, DOWN, PAIR, RANK, RNG, UP, Q, read, scale

from causalcine_jax.convert import load_transformer
from causalcine_jax.convert.command import convert
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.convert.formats import open_part
from causalcine_jax.convert.lora import Lora, loras
from causalcine_jax.errors import DataError, UsageError


@pytest.mark.parametrize(
    "down, up",
    [
        (
            "lora_unet_blocks_0_self_attn_q.lora_down.weight",
            "lora_unet_blocks_0_self_attn_q.lora_up.weight",
        ),
        (
            "lora_unet_blocks_0_attn1_to_q.lora_down.weight",
            "lora_unet_blocks_0_attn1_to_q.lora_up.weight",
        ),
        (
            "lycoris_blocks_0_self_attn_q.lora_down.weight",
            "lycoris_blocks_0_self_attn_q.lora_up.weight",
        ),
        (
            f"base_model.model.generator.net.{Q}.lora_A.weight",
            f"base_model.model.generator.net.{Q}.lora_B.weight",
        ),
        (f"pipe.dit.{Q}.lora_A.default.weight", f"pipe.dit.{Q}.lora_B.default.weight"),
        (f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"),
        (
            f"base_model.model.{Q}.lora_A.my-style.weight",
            f"base_model.model.{Q}.lora_B.my-style.weight",
        ),
        (
            "transformer.blocks.0.attn1.to_q.lora_A.weight",
            "transformer.blocks.0.attn1.to_q.lora_B.weight",
        ),
        ("blocks.0.attn1.to_q.lora.down.weight", "blocks.0.attn1.to_q.lora.up.weight"),
        (f"diffusion_model.{Q}.lora_down.weight", f"diffusion_model.{Q}.lora_up.weight"),
    ],
)
def test_every_trainers_names(base, tmp_path, down, up):
    save_file({down: DOWN, up: UP}, tmp_path / "lora.safetensors")
    assert scale(base, tmp_path / "lora.safetensors") == 1.0
    module = up.removesuffix(".lora_up.weight")
    if module != up:
        save_file(
            {down: DOWN, up: UP, f"{module}.alpha": np.array(8, np.float32)},
            tmp_path / "lora.safetensors",
        )
        assert scale(base, tmp_path / "lora.safetensors") == 2.0


def test_several_are_summed_each_at_its_strength(base, tmp_path):
    other = RNG.standard_normal((24, RANK)).astype(np.float32)
    save_file(PAIR, tmp_path / "a.safetensors")
    save_file({**PAIR, f"diffusion_model.{Q}.lora_B.weight": other}, tmp_path / "b.safetensors")
    expected = BASE[f"{Q}.weight"] + 0.8 * (UP @ DOWN) - 0.5 * (other @ DOWN)
    asked = [f"{tmp_path / 'a.safetensors'}:0.8", f"{tmp_path / 'b.safetensors'}:-0.5"]
    np.testing.assert_allclose(read(base, *asked), expected, atol=1e-4)
    convert(ConvertConfig(base, tmp_path / "out", lora=asked, progress=False))
    np.testing.assert_allclose(read(tmp_path / "out"), expected, atol=1e-4)
    loaded, merged = load_transformer(base, lora=asked), load_transformer(tmp_path / "out")
    assert np.array_equal(
        loaded.blocks.self_attn.q.weight[...], merged.blocks.self_attn.q.weight[...]
    )
    recorded = json.loads((tmp_path / "out/metadata.json").read_text())["loras"]
    assert recorded == ["a.safetensors:0.8", "b.safetensors:-0.5"]


@pytest.mark.parametrize("both", [True, False])
def test_a_matrix_saved_as_a_convolution_of_one_pixel(base, tmp_path, both):
    down, up = f"{Q}.lora_down.weight", f"{Q}.lora_up.weight"
    pair = {down: DOWN[..., None, None] if both else DOWN, up: UP[..., None, None]}
    save_file(pair, tmp_path / "lora.safetensors")
    assert scale(base, tmp_path / "lora.safetensors") == 1.0


def test_dictionaries_of_an_adapters_file(base, tmp_path):
    """The generator's is taken, an average before it; a critic's is never merged."""
    pair = {f"base_model.model.{Q}.lora_A.weight": DOWN, f"base_model.model.{Q}.lora_B.weight": UP}
    other = {key: t * 2 for key, t in pair.items()}
    for taken, content in (
        (1, {"generator": pair, "critic": other}),
        (1, {"model": pair, "optimizer": other}),
        (1, {"state_dict": {"generator_lora": pair, "critic_lora": other}}),
        (4, {"generator": pair, "generator_ema": other}),
        (1, {"mine": pair}),
    ):
        assert scale(base, save_torch(tmp_path / "lora.pt", **content)) == taken
    with open_part(base, "transformer", lora_path=tmp_path / "lora.pt") as part:
        assert "is taken" not in part.notes[0]
    for content in ({"critic_lora": pair}, {"mine": pair, "yours": other}):
        with pytest.raises(DataError, match="an adapter is expected in generator_lora"):
            read(base, save_torch(tmp_path / "lora.pt", **content))
    file = save_torch(tmp_path / "lora.pt", generator=pair, generator_ema=other)
    with open_part(base, "transformer", lora_path=file) as part:
        assert part.notes[0] == "lora.pt holds generator_ema, generator: generator_ema is taken"


def test_an_adapter_merged_once_more_is_said(base, tmp_path, capsys):
    save_file(PAIR, tmp_path / "a.safetensors")
    convert(ConvertConfig(base, tmp_path / "one", lora=tmp_path / "a.safetensors", progress=False))
    assert "merged by now" not in capsys.readouterr().err
    again = [f"{tmp_path / 'a.safetensors'}:0.5"]
    convert(ConvertConfig(tmp_path / "one", tmp_path / "two", lora=again, progress=False))
    said = "merged by now: a.safetensors, a.safetensors:0.5; strengths of the same file add up"
    assert said in capsys.readouterr().err
    for name, value in (("loras", 3), ("loras", [3]), ("family", [])):
        (tmp_path / "one/metadata.json").write_text(json.dumps({name: value}))
        with pytest.raises(DataError, match=rf"metadata\.json: {name} must be a"):
            convert(ConvertConfig(tmp_path / "one", tmp_path / "no", lora=again, progress=False))


def test_full_differences_of_weights_and_biases(base, tmp_path):
    keys = [
        f"{Q}.weight",
        f"{Q}.bias",
        "blocks.1.norm3.weight",
        "blocks.2.modulation",
        "blocks.1.modulation",
        "head.modulation",
        "patch_embedding.weight",
    ]
    names = [
        f"{Q}.diff",
        f"{Q}.diff_b",
        "blocks.1.norm3.diff",
        "blocks.2.modulation.diff",
        "blocks.1.diff_m",
        "head.diff_m",
        "patch_embedding.diff",
    ]
    updates = {
        name: RNG.standard_normal(BASE[key].shape).astype(np.float32)
        for key, name in zip(keys, names, strict=True)
    }
    save_file(
        {f"diffusion_model.{name}": value for name, value in updates.items()},
        tmp_path / "lora.safetensors",
    )
    for key, name in zip(keys, names, strict=True):
        expected = BASE[key] + 0.5 * updates[name]
        np.testing.assert_allclose(
            read(base, f"{tmp_path / 'lora.safetensors'}:0.5", key=key),
            expected,
            rtol=1e-5,
            atol=1e-6,
        )


def test_a_full_difference_with_its_axes_swapped_is_refused(base, tmp_path):
    update = np.zeros(BASE["blocks.1.ffn.0.weight"].shape[::-1], np.float32)
    save_file({"diffusion_model.blocks.1.ffn.0.diff": update}, tmp_path / "lora.safetensors")
    with pytest.raises(DataError, match=r"blocks\.1\.ffn\.0\.weight \(24, 40\), the base has"):
        read(base, tmp_path / "lora.safetensors", key="blocks.1.ffn.0.weight")


def test_an_update_of_the_patch_embedding_is_a_matrix_over_its_patch(base, tmp_path):
    down, up = (
        RNG.standard_normal((2, 16, 1, 2, 2)).astype(np.float32),
        RNG.standard_normal((24, 2, 1, 1, 1)).astype(np.float32),
    )
    save_file(
        {"patch_embedding.lora_A.weight": down, "patch_embedding.lora_B.weight": up},
        tmp_path / "lora.safetensors",
    )
    expected = BASE["patch_embedding.weight"] + np.einsum(
        "or,rithw->oithw", up[:, :, 0, 0, 0], down
    )
    np.testing.assert_allclose(
        read(base, tmp_path / "lora.safetensors", key="patch_embedding.weight"),
        expected,
        rtol=1e-4,
        atol=1e-5,
    )


def test_an_adapter_on_a_bfloat16_base_is_summed_before_it_is_rounded(base, tmp_path):
    save_file(
        {key: t.astype(ml_dtypes.bfloat16) for key, t in BASE.items()},
        base / "diffusion_pytorch_model.safetensors",
    )
    save_file(PAIR, tmp_path / "a.safetensors")
    save_file(PAIR, tmp_path / "b.safetensors")
    merged = read(base, f"{tmp_path / 'a.safetensors'}:100", f"{tmp_path / 'b.safetensors'}:-100")
    assert merged.dtype == ml_dtypes.bfloat16
    np.testing.assert_allclose(
        merged.astype(np.float32),
        BASE[f"{Q}.weight"].astype(ml_dtypes.bfloat16).astype(np.float32),
        atol=1e-2,
    )


def test_a_merge_beyond_the_bases_dtype_names_the_adapter(base, tmp_path):
    half = {key: t.astype(np.float16) for key, t in BASE.items()}
    save_file(half, base / "diffusion_pytorch_model.safetensors")
    save_file(PAIR, tmp_path / "lora.safetensors")
    with pytest.raises(DataError, match=r"lora\.safetensors: .*weights exceed float16"):
        read(base, f"{tmp_path / 'lora.safetensors'}:1e5")


@pytest.mark.parametrize(
    "content, message",
    [
        ({**PAIR, f"{Q}.dora_scale": np.ones(24, np.float32)}, "of DoRA"),
        ({f"{Q}.hada_w1_a": DOWN}, "LyCORIS of another kind"),
        ({**PAIR, "lora_te_text_model.lora_down.weight": DOWN}, "an update of a text encoder"),
        ({**PAIR, f"{Q}.extra": DOWN}, "is no lora_A or lora_B"),
        ({f"{Q}.alpha": np.array(1, np.float32)}, "belongs to no lora_A and lora_B"),
        (
            {**PAIR, f"diffusion_model.{Q}.alpha": np.array(np.nan, np.float32)},
            "must be one positive number",
        ),
        (
            {
                f"{Q}.lora_{s}.{n}.weight": t
                for n in ("a", "b")
                for s, t in (("A", DOWN), ("B", UP))
            },
            "several adapters, a, b",
        ),
        (
            {
                f"{Q}.lora_{s}.{n}weight": t
                for n in ("default.", "")
                for s, t in (("A", DOWN), ("B", UP))
            },
            "several adapters, default, one without a name",
        ),
        (
            {
                **PAIR,
                "lora_unet_blocks_0_self_attn_q.lora_down.weight": DOWN,
                "lora_unet_blocks_0_self_attn_q.lora_up.weight": UP,
            },
            r"self_attn\.q is updated twice, under different names",
        ),
        ({key: t.astype(np.int8) for key, t in PAIR.items()}, "is I8, and only float weights"),
        ({f"{Q}.diff": np.ones((24, 24), np.int32)}, "is I32, and only float weights are merged"),
        (
            {**PAIR, f"diffusion_model.{Q}.lora_A.weight": DOWN * np.nan},
            r"lora\.safetensors: the LoRA's update by .*lora_B\.weight holds NaN or infinity",
        ),
        ({f"{Q}.lora_A.weight": DOWN, f"{Q}.lora_B.weight": UP[:, :2]}, "have no common rank"),
        (
            {f"{Q}.lora_A.weight": DOWN[:, :3], f"{Q}.lora_B.weight": UP},
            r"self_attn\.q\.weight \(24, 3\), the base has \(24, 24\)",
        ),
        (BASE, "is not a LoRA: its keys are those of a transformer"),
    ],
)
def test_files_that_are_no_lora_of_this_transformer(base, tmp_path, content, message):
    save_file(content, tmp_path / "lora.safetensors")
    with pytest.raises(DataError, match=message):
        read(base, tmp_path / "lora.safetensors")


def test_requested_adapters(tmp_path):
    odd = tmp_path / "style:2"
    odd.write_bytes(b"")
    (tmp_path / "a").write_bytes(b"")
    assert loras(str(odd)) == (Lora(odd),), "an existing file is taken literally"
    assert loras([f"{tmp_path}/a:0.8", odd]) == (Lora(tmp_path / "a", 0.8), Lora(odd))
    assert loras(None) == () and loras("C:/a.safetensors") == loras(["C:/a.safetensors"])
    for text, message in (
        (f"{tmp_path}/a:inf", "must be finite"),
        (f"{tmp_path}/a:much", "'much' is no number"),
    ):
        with pytest.raises(UsageError, match=message):
            loras(text)
    with pytest.raises(UsageError, match=r"a is given twice"):
        loras([f"{tmp_path}/a", f"{tmp_path}/a:0.5"])
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match=r"a and .*link is given twice"):
        loras([f"{tmp_path}/a", f"{tmp_path}/link:0.5"])
    with pytest.raises(UsageError, match="--lora names no file"):
        loras("")
    with pytest.raises(UsageError, match="goes with one --lora, not 2"):
        ConvertConfig(tmp_path, tmp_path / "out", lora=["a", "b"], lora_alpha=8.0)


def test_folders_without_one_adapter(base, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty holds no LoRA"):
        read(base, tmp_path / "empty")
    (tmp_path / "empty/cut.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"cut\.safetensors is damaged"):
        read(base, tmp_path / "empty")
    with pytest.raises(DataError, match=r"no LoRA at .*nowhere: there is no such file"):
        read(base, tmp_path / "nowhere")
    save_file(PAIR, tmp_path / "empty/a.safetensors")
    assert scale(base, tmp_path / "empty") == 1.0
    with pytest.raises(UsageError, match=r"a\.safetensors is given twice"):
        read(base, tmp_path / "empty", tmp_path / "empty/a.safetensors")
    save_file(PAIR, tmp_path / "empty/b.safetensors")
    with pytest.raises(DataError, match=r"holds 2 LoRAs, a\.safetensors, b\.safetensors"):
        read(base, tmp_path / "empty")
