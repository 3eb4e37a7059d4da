"""Checkpoint keys and layouts, and networks saved and loaded."""

import dataclasses
import errno
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from conversions import run
from safetensors.numpy import load_file, save_file
from small_networks import TEXT, TRANSFORMER, VAE_SMALL, WEIGHTS, assert_same, random_module

from causalcine_jax.convert import (
    load_metadata,
    load_text_encoder,
    load_transformer,
    load_vae,
    save_model,
    tables,
    weights_hash,
)
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TextEncoderConfig, VAEConfig
from causalcine_jax.presets import preset
from causalcine_jax.utils.output import one_writer


def wan_transformer_keys(dim, ffn, layers):
    def linear(key, out, into):
        return {f"{key}.weight": (out, into), f"{key}.bias": (out,)}

    keys = {
        "patch_embedding.weight": (dim, 16, 1, 2, 2),
        "patch_embedding.bias": (dim,),
        "head.modulation": (1, 2, dim),
    }
    keys |= linear("text_embedding.0", dim, 4096) | linear("text_embedding.2", dim, dim)
    keys |= linear("time_embedding.0", dim, 256) | linear("time_embedding.2", dim, dim)
    keys |= linear("time_projection.1", 6 * dim, dim) | linear("head.head", 64, dim)
    for i in range(layers):
        keys[f"blocks.{i}.modulation"] = (1, 6, dim)
        keys |= {f"blocks.{i}.norm3.{p}": (dim,) for p in ("weight", "bias")}
        keys |= linear(f"blocks.{i}.ffn.0", ffn, dim) | linear(f"blocks.{i}.ffn.2", dim, ffn)
        for attn in ("self_attn", "cross_attn"):
            keys |= {f"blocks.{i}.{attn}.{norm}.weight": (dim,) for norm in ("norm_q", "norm_k")}
            for p in "qkvo":
                keys |= linear(f"blocks.{i}.{attn}.{p}", dim, dim)
    return keys


def checkpoint_shapes(module_class, config, rules):
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    return {
        place.key: place.shape
        for place in tables.places(
            shapes, rules, config.patch_size if rules is tables.TRANSFORMER else None
        )
    }


def size(shapes):
    return sum(int(np.prod(shape)) for shape in shapes.values())


@pytest.mark.parametrize(
    "name, dim, ffn, layers, tensors, parameters",
    [
        ("wan-1.3b", 1536, 8960, 30, 825, 1_418_996_800),
        ("wan-14b", 5120, 13824, 40, 1095, 14_288_491_584),
    ],
)
def test_every_key_and_shape_of_the_wan_transformers(name, dim, ffn, layers, tensors, parameters):
    shapes = checkpoint_shapes(Transformer, preset(name).transformer, tables.TRANSFORMER)
    assert shapes == wan_transformer_keys(dim, ffn, layers)
    assert (len(shapes), size(shapes)) == (tensors, parameters)


def test_every_key_and_shape_of_umt5_xxl():
    shapes = checkpoint_shapes(UMT5Encoder, TextEncoderConfig(), tables.TEXT_ENCODER)
    expected = {"token_embedding.weight": (256384, 4096), "norm.weight": (4096,)}
    for i in range(24):
        expected |= {f"blocks.{i}.norm{n}.weight": (4096,) for n in (1, 2)}
        expected |= {f"blocks.{i}.attn.{p}.weight": (4096, 4096) for p in "qkvo"}
        expected |= {f"blocks.{i}.ffn.{p}.weight": (10240, 4096) for p in ("gate.0", "fc1")}
        expected |= {
            f"blocks.{i}.ffn.fc2.weight": (4096, 10240),
            f"blocks.{i}.pos_embedding.embedding.weight": (32, 64),
        }
    assert shapes == expected
    assert (len(shapes), size(shapes)) == (242, 5_680_910_336)


def test_every_key_of_the_wan_vae():
    shapes = checkpoint_shapes(VAE, VAEConfig(), tables.VAE)
    assert (len(shapes), size(shapes)) == (194, 126_892_531)
    conv = ("weight", "bias")
    residual = {
        "residual.0.gamma",
        "residual.3.gamma",
        *(f"residual.{n}.{p}" for n in (2, 6) for p in conv),
    }
    expected = {f"conv{n}.{p}" for n in (1, 2) for p in conv}
    for half, layers, residuals, shortcuts, resamples, timed in (
        ("encoder", "downsamples", (0, 1, 3, 4, 6, 7, 9, 10), (3, 6), (2, 5, 8), (5, 8)),
        (
            "decoder",
            "upsamples",
            (0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14),
            (4,),
            (3, 7, 11),
            (3, 7),
        ),
    ):
        expected |= {f"{half}.{layers}.{i}.{p}" for i in residuals for p in residual}
        expected |= {f"{half}.{layers}.{i}.shortcut.{p}" for i in shortcuts for p in conv}
        expected |= {f"{half}.{layers}.{i}.resample.1.{p}" for i in resamples for p in conv}
        expected |= {f"{half}.{layers}.{i}.time_conv.{p}" for i in timed for p in conv}
        expected |= {f"{half}.middle.{i}.{p}" for i in (0, 2) for p in residual} | {
            f"{half}.middle.1.norm.gamma",
            f"{half}.head.0.gamma",
        }
        expected |= {
            f"{half}.{layer}.{p}"
            for layer in ("conv1", "middle.1.to_qkv", "middle.1.proj", "head.2")
            for p in conv
        }
    assert set(shapes) == expected
    assert shapes["encoder.downsamples.0.residual.0.gamma"] == (96, 1, 1, 1) and shapes[
        "encoder.middle.1.norm.gamma"
    ] == (384, 1, 1)
    assert shapes["decoder.upsamples.3.time_conv.weight"] == (768, 384, 3, 1, 1)
    assert shapes["decoder.upsamples.4.shortcut.weight"] == (384, 192, 1, 1, 1)
    assert shapes["decoder.upsamples.11.resample.1.weight"] == (96, 192, 3, 3)


def test_layouts_by_hand(networks, folder):
    ours = tables.parameters(networks["transformer"])
    theirs = load_file(folder / WEIGHTS)
    assert np.array_equal(theirs["blocks.2.ffn.0.weight"], ours["blocks.ffn_0.weight"][2].T)
    assert np.array_equal(theirs["blocks.1.modulation"][0], ours["blocks.modulation"][1])
    assert np.array_equal(theirs["blocks.0.norm3.bias"], ours["blocks.norm3.bias"][0])
    # Our patch vector is (channel, time, row, column), so channel 3, row 1, column 0 is 3 * 4 + 2.
    assert np.array_equal(
        theirs["patch_embedding.weight"][:, 3, 0, 1, 0], ours["patch_embedding.weight"][14]
    )
    vae = load_file(folder / "vae/model.safetensors")
    kernel = tables.parameters(networks["vae"])["encoder.downsamples.0.conv1.weight"]
    assert vae["encoder.downsamples.0.residual.2.weight"][1, 0, 2, 1, 0] == kernel[2, 1, 0, 0, 1]


def test_save_then_load_is_the_same_model(networks, folder):
    assert_same(load_transformer(folder), networks["transformer"])
    assert_same(load_vae(folder), networks["vae"])
    assert_same(load_text_encoder(folder), networks["text_encoder"])
    assert load_transformer(folder).config == TRANSFORMER
    assert load_vae(folder / "vae").cfg == VAE_SMALL
    assert load_text_encoder(folder / "text_encoder/model.safetensors").cfg == TEXT
    assert Tokenizer.load(folder).known_words() == ["a", "fox"]
    assert load_metadata(folder) == {"steps": 7}
    config = json.loads((folder / "transformer/config.json").read_text())
    assert (
        config["_class_name"] == "WanModel"
        and config["model_type"] == "t2v"
        and config["num_heads"] == 2
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_load_then_save_gives_equal_bytes(networks, tmp_path, dtype):
    save_model(tmp_path / "a", **networks, dtype=dtype)
    loaded = {
        "transformer": load_transformer(tmp_path / "a", dtype),
        # Through float32, which represents a bfloat16 exactly.
        "vae": load_vae(tmp_path / "a"),
        "text_encoder": load_text_encoder(tmp_path / "a"),
        "tokenizer": Tokenizer.load(tmp_path / "a"),
    }
    save_model(tmp_path / "b", **loaded, dtype=dtype, metadata={"not": "hashed"})
    assert (tmp_path / "a" / WEIGHTS).read_bytes() == (tmp_path / "b" / WEIGHTS).read_bytes()
    assert (
        weights_hash(tmp_path / "a")
        == weights_hash(tmp_path / "b")
        != weights_hash(tmp_path / "a/vae")
    )


def test_a_vae_is_never_rounded(networks, tmp_path):
    """Its latents would be those of another one. One that bfloat16 holds is saved in it."""
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), networks["vae"])
    for name, vae, dtype in (("whole", networks["vae"], np.float32), ("half", half, jnp.bfloat16)):
        save_model(tmp_path / name, vae=vae, dtype=jnp.bfloat16)
        stored = load_file(tmp_path / name / "vae/model.safetensors")
        assert {tensor.dtype for tensor in stored.values()} == {np.dtype(dtype)}
        assert_same(load_vae(tmp_path / name), vae)


def test_bfloat16_on_disk_and_in_memory(networks, tmp_path):
    save_model(tmp_path / "model", transformer=networks["transformer"])
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), networks["transformer"])
    assert load_file(tmp_path / "model" / WEIGHTS)["head.head.weight"].dtype == ml_dtypes.bfloat16
    half = load_transformer(tmp_path / "model", jnp.bfloat16)
    # What Wan2.1 computes in float32 is float32, as in training.
    expected = cast_weights(jax.tree.map(lambda x: x.astype(np.float32), rounded), jnp.bfloat16)
    assert half.head.weight[...].dtype == half.time_embedding_0.weight[...].dtype == jnp.float32
    assert half.blocks.ffn_0.weight[...].dtype == jnp.bfloat16
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.dtype, b.dtype), half, expected)
    assert_same(half, expected)
    assert_same(
        load_transformer(tmp_path / "model"), jax.tree.map(lambda x: x.astype(np.float32), rounded)
    )


def test_a_sharded_folder(networks, folder):
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    weight_map = {key: names[i % 3] for i, key in enumerate(tensors)}
    for name in names:
        save_file(
            {key: tensors[key] for key in tensors if weight_map[key] == name},
            folder / "transformer" / name,
        )
    index = folder / "transformer/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert_same(load_transformer(folder), networks["transformer"])

    for name in names[1:]:
        (folder / "transformer" / name).unlink()
    with pytest.raises(DataError, match=f"shards missing in .*{names[1]}, {names[2]}"):
        load_transformer(folder)
    index.write_text("{}")
    with pytest.raises(DataError, match=r"index\.json is not an index of shards"):
        load_transformer(folder)


def test_saving_one_network_keeps_the_others(networks, folder):
    (folder / "README.md").write_text("mine")
    save_model(folder, vae=random_module(VAE, VAE_SMALL, seed=1), dtype=jnp.float32)
    assert_same(load_vae(folder), random_module(VAE, VAE_SMALL, seed=1))
    assert_same(load_transformer(folder), networks["transformer"])
    assert (folder / "README.md").read_text() == "mine" and load_metadata(folder) == {"steps": 7}
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


def test_a_model_folder_without_the_part(networks, tmp_path):
    save_model(tmp_path / "model", vae=networks["vae"])
    with pytest.raises(DataError, match=r"the model folder .* has no transformer/, only vae/"):
        load_transformer(tmp_path / "model")


def test_a_full_disk_leaves_the_old_model(networks, folder, monkeypatch):
    before = weights_hash(folder)

    def full(file, *args):
        file.write_bytes(b"half a fi")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("causalcine_jax.convert.save.write_tensors", full)
    with pytest.raises(DataError, match=r"cannot write the model .*: No space left on device"):
        save_model(folder, vae=networks["vae"])
    assert weights_hash(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("between_the_renames", [False, True])
def test_a_save_clears_what_a_killed_one_left(networks, folder, between_the_renames):
    (folder.parent / ".model.partial-0dead" / "vae").mkdir(parents=True)
    old, other = folder.parent / ".model.old-0dead", folder.parent / ".models.partial-1"
    other.mkdir()  # of a save that is another's
    if between_the_renames:
        folder.rename(old)
    else:
        old.mkdir()
    save_model(folder, vae=networks["vae"])
    assert_same(load_transformer(folder), networks["transformer"])
    assert sorted(p.name for p in folder.parent.iterdir()) == [".models.partial-1", "model"]


def test_two_saves_at_once_of_one_folder_are_refused(networks, folder):
    before = weights_hash(folder)
    with one_writer(folder, beside=True), pytest.raises(UsageError, match="is being written by"):
        save_model(folder, vae=networks["vae"])
    assert weights_hash(folder) == before


def test_requests_that_cannot_be_saved(networks, tmp_path):
    with pytest.raises(UsageError, match="bfloat16 or float32, not float16"):
        save_model(tmp_path / "model", vae=networks["vae"], dtype=jnp.float16)
    with pytest.raises(UsageError, match="together with its tokenizer"):
        save_model(tmp_path / "model", text_encoder=networks["text_encoder"])
    with pytest.raises(UsageError, match="nothing to save"):
        save_model(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_networks_of_48_latent_channels_of_our_own_are_not_taken_for_wan22s(tmp_path):
    sizes = {"z_dim": 48, "mean": (0.0,) * 48, "std": (1.0,) * 48, "patch_size": 2}
    vae = random_module(VAE, dataclasses.replace(VAE_SMALL, **sizes))
    config = dataclasses.replace(TRANSFORMER, in_dim=48, out_dim=48, patch_size=(1, 1, 1))
    transformer = random_module(Transformer, config)
    save_model(tmp_path / "ours", transformer=transformer, vae=vae, dtype=jnp.float32)
    assert_same(load_vae(tmp_path / "ours"), vae)
    assert_same(load_transformer(tmp_path / "ours"), transformer)


@pytest.mark.parametrize(("setting", "value"), [("predicts", "clean"), ("skip_dim", 5)])
def test_a_setting_that_wan_does_not_have_stays_with_the_network(tmp_path, setting, value):
    sizes = dataclasses.replace(TRANSFORMER, **{setting: value})
    transformer = random_module(Transformer, sizes)
    save_model(tmp_path / "model", transformer=transformer, dtype=jnp.float32)
    loaded = load_transformer(tmp_path / "model")
    assert loaded.config == sizes
    assert_same(loaded, transformer)
    with pytest.raises(UsageError, match=f"Diffusers has no transformer with {setting} {value}"):
        run(tmp_path / "model", tmp_path / "theirs", to="diffusers")
    assert not (tmp_path / "theirs").exists()


def test_weights_of_torch_files_have_a_hash_too(tmp_path):
    save_model(tmp_path / "model", transformer=random_module(Transformer, TRANSFORMER))
    (tmp_path / "model" / "generator.pt").write_bytes(b"one")
    before = weights_hash(tmp_path / "model")
    (tmp_path / "model" / "generator.pt").write_bytes(b"two")
    assert weights_hash(tmp_path / "model") != before
