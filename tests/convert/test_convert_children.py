"""launch/convert.py: the causal children of Wan2.1, and adapters merged on the way."""

import json

import numpy as np
import pytest
from conversions import assert_equal_bytes, only, run
from safetensors.numpy import save_file
from tiny_checkpoints import (
    read_all,
    save_torch,
    tensors,
)

from causalcine_jax.convert import (
    load_metadata,
)
from causalcine_jax.errors import DataError


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
