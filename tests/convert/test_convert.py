import errno
import json

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from causalcine_jax.config import TextEncoderConfig, TransformerConfig, VAEConfig, preset
from causalcine_jax.convert import (
    load_metadata,
    load_text_encoder,
    load_transformer,
    load_vae,
    save_model,
    tables,
    weights_hash,
)
from causalcine_jax.convert.describe import describe
from causalcine_jax.convert.finite import is_finite
from causalcine_jax.convert.formats import open_part
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import Tokenizer, word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE

TRANSFORMER = TransformerConfig(
    dim=12, ffn_dim=20, num_heads=2, num_layers=3, text_dim=8, text_len=9, freq_dim=10
)
VAE_SMALL = VAEConfig(
    dim=2,
    z_dim=3,
    dim_mult=(1, 2),
    temperal_downsample=(True,),
    mean=(0.1, 0.2, 0.3),
    std=(1.0, 2.0, 3.0),
)
TEXT = TextEncoderConfig(
    vocab_size=11,
    dim=8,
    dim_attn=6,
    dim_ffn=10,
    num_heads=2,
    num_layers=2,
    num_buckets=8,
    max_distance=16,
)
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def random_module(module_class, config, seed=0):
    """A module of random parameters, made without compiling its initialisation."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: module_class(config, key=jax.random.key(0)))
    return jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), shapes)


@pytest.fixture(scope="module")
def networks():
    return {
        "transformer": random_module(Transformer, TRANSFORMER),
        "vae": random_module(VAE, VAE_SMALL),
        "text_encoder": random_module(UMT5Encoder, TEXT),
        "tokenizer": word_tokenizer(["a", "fox"]),
    }


@pytest.fixture
def folder(networks, tmp_path):
    save_model(tmp_path / "model", **networks, dtype=jnp.float32, metadata={"steps": 7})
    return tmp_path / "model"


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True
    ):
        assert np.array_equal(np.asarray(x), np.asarray(y)), jax.tree_util.keystr(path)


def edit(file, change):
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


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
        for place in tables.places(shapes, rules, getattr(config, "patch_size", None))
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
        "vae": load_vae(tmp_path / "a", dtype),
        # Through float32, which represents a bfloat16 exactly.
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


def test_bfloat16_on_disk_and_in_memory(networks, tmp_path):
    save_model(tmp_path / "model", transformer=networks["transformer"])
    rounded = jax.tree.map(lambda x: x.astype(ml_dtypes.bfloat16), networks["transformer"])
    assert load_file(tmp_path / "model" / WEIGHTS)["head.head.weight"].dtype == ml_dtypes.bfloat16
    half = load_transformer(tmp_path / "model", jnp.bfloat16)
    assert half.head.weight[...].dtype == jnp.bfloat16
    assert_same(half, rounded)
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
        r"begin with conv1\.bias",
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
        ("vae", load_vae, {"std": [0.0] * 16}, "std must be a list of positive finite numbers"),
        ("vae", load_vae, {"mean": ["a"] * 16}, "mean must be a list of finite numbers"),
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
        ("{", "config.json is not JSON"),
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


def test_requests_that_cannot_be_saved(networks, tmp_path):
    with pytest.raises(UsageError, match="bfloat16 or float32, not float16"):
        save_model(tmp_path / "model", vae=networks["vae"], dtype=jnp.float16)
    with pytest.raises(UsageError, match="together with its tokenizer"):
        save_model(tmp_path / "model", text_encoder=networks["text_encoder"])
    with pytest.raises(UsageError, match="nothing to save"):
        save_model(tmp_path / "model")
    assert not list(tmp_path.iterdir())
