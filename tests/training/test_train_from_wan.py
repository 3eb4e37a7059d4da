"""Stage 1 from Wan2.1's own folder, end to end at a few kilobytes.

For the configs of the real sizes only shapes are computed.
"""

import dataclasses
import gc
import json
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from repository import ROOT
from tiny_checkpoints import wan_folder
from tiny_training import tiny_config

from causalcine_jax.config import PassConfig
from causalcine_jax.convert import load_metadata, load_text_encoder, load_transformer, load_vae
from causalcine_jax.data.encode import tokenizer_hash, vae_hash
from causalcine_jax.data.latent_store import StoreSpec
from causalcine_jax.data.latent_writer import LatentStoreWriter, NewRecord
from causalcine_jax.data.loader import Loader
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import teacher_forced
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.presets import WAN_NEGATIVE_PROMPT, preset
from causalcine_jax.training.config import LoraConfig, OptimConfig
from causalcine_jax.training.film_stores import vae_folder
from causalcine_jax.training.flag_checks import check_flags
from causalcine_jax.training.flags import parse
from causalcine_jax.training.held_out import HeldOut
from causalcine_jax.training.loop import train
from causalcine_jax.training.stages.build import make_stage
from causalcine_jax.training.stages.teacher_forcing import (
    TeacherForcing,
    drop_captions,
    noise_times,
    teacher_forcing_loss,
)


@pytest.fixture(scope="module")
def wan(tmp_path_factory):
    return wan_folder(tmp_path_factory.mktemp("wan") / "Wan2.1-T2V-1.3B")


@pytest.fixture(scope="module")
def store(wan, tmp_path_factory):
    """Four films of 9 latent frames whose VAE and tokenizer are those of the folder."""
    tokenizer = Tokenizer.load(wan)
    sizes = {
        "films": 4,
        "latent_frames": 9,
        "height": 4,
        "width": 4,
        "shots": 2,
        "text_len": 6,
        "films_per_shard": 4,
    }
    spec = StoreSpec(
        **sizes, source={}, vae=vae_hash(load_vae(wan)), tokenizer=tokenizer_hash(tokenizer)
    )
    writer, rng = (
        LatentStoreWriter(tmp_path_factory.mktemp("films") / "store", spec),
        np.random.default_rng(0),
    )
    prompts = ["a fox", "fox fox a"]
    ids, _ = tokenizer(prompts, 6)
    for shard in writer.pending():
        latents = rng.standard_normal((len(shard), 9, 4, 4, 16)).astype(np.float32)
        writer.write(
            shard,
            [NewRecord(film, ids, np.array([0, 0, 1], np.int32), prompts) for film in latents],
        )
    return writer.finish()


def config_of(wan, store, out="", **changes):
    settings = {
        "init": str(wan),
        "train_text_encoder": False,
        "steps": 3,
        "batch": 2,
        "log_every": 1,
        "caption_dropout": 0.5,
        "remat": True,
    }
    return tiny_config(
        out,
        store.path,
        **{**settings, "optim": OptimConfig(lr=1e-4, warmup=1, ema_decay=0.5), **changes},
    )


@pytest.fixture(scope="module")
def run(wan, store, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    train(config_of(wan, store, out))
    return out, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_adapters_are_trained_on_a_fixed_model_and_saved_beside_the_whole_one(wan, store, tmp_path):
    lora = LoraConfig(rank=2, alpha=4.0, layers="self_attn,ffn")
    config = config_of(wan, store, tmp_path / "run", lora=lora, steps=4, batch=2)
    state = train(config)
    assert all(2 in leaf.shape[1:] for leaf in jax.tree.leaves(state.params))
    base = load_transformer(wan)
    whole = load_transformer(tmp_path / "run/model")
    by_peft = load_transformer(wan, lora=tmp_path / "run/lora")
    changed = []
    for (path, mine), theirs, before in zip(
        jax.tree_util.tree_leaves_with_path(whole),
        jax.tree.leaves(by_peft),
        jax.tree.leaves(base),
        strict=True,
    ):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)
        if not np.array_equal(mine, before):
            changed.append(jax.tree_util.keystr(path, simple=True, separator="."))
    assert len(changed) == 6 and all("self_attn" in name or "ffn" in name for name in changed)
    with pytest.raises(UsageError, match="lora"):
        train(dataclasses.replace(config, lora=LoraConfig(rank=3)))


def test_adapters_need_a_model_and_leave_the_text_encoder_alone(wan, store):
    lora = LoraConfig(rank=2)
    with pytest.raises(UsageError, match="train_text_encoder"):
        config_of(wan, store, lora=lora, train_text_encoder=True)
    with pytest.raises(UsageError, match="needs init"):
        config_of("", store, lora=lora)
    with pytest.raises(UsageError, match="unknown layer 'attn'"):
        config_of(wan, store, lora=LoraConfig(rank=2, layers="attn"))


def test_the_first_loss_is_that_of_the_packed_pass_on_the_folder(wan, store, run):
    config = config_of(wan, store)
    transformer, text_encoder = load_transformer(wan), load_text_encoder(wan)
    with Loader(store, config.batch, seed=config.seed) as films:
        batch = next(films)
    null = Tokenizer.load(wan)([""], 6)[0][0]

    @jax.jit
    def loss(transformer, text_encoder, clean, ids, shots):
        key = jax.random.fold_in(jax.random.key(config.seed), 0)
        key_time, key_noise, key_captions = jax.random.split(key, 3)
        ids = drop_captions(ids, jnp.asarray(null), config.caption_dropout, key_captions)
        t = noise_times(key_time, config.batch, 3, config.time)
        noise = jax.random.normal(key_noise, clean.shape)
        noisy = clean + (noise - clean) * (t / 1000)[:, None, None, None, None]
        text, passes = text_encoder(ids, ids != 0), PassConfig(config.memory)
        velocity = teacher_forced(transformer, clean, noisy, t, text, shots, passes)
        return jnp.mean(jnp.square(velocity - (noise - clean)))

    films = np.asarray(batch["latents"], np.float32), batch["token_ids"], batch["shot_of_chunk"]
    _, records = run
    np.testing.assert_allclose(
        records[0]["loss"], float(loss(transformer, text_encoder, *films)), rtol=1e-5
    )


def test_only_the_transformer_has_learned(wan, run):
    out, records = run
    assert [record["step"] for record in records] == [1, 2, 3] and all(
        np.isfinite(record["loss"]) for record in records
    )
    same = lambda a, b: all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )
    assert same(load_text_encoder(out / "model"), load_text_encoder(wan))
    assert same(load_vae(out / "model"), load_vae(wan))
    assert not same(load_transformer(out / "model"), load_transformer(wan))
    assert Tokenizer.load(out / "model").size == Tokenizer.load(wan).size


def test_the_exported_model_is_used_as_it_was_trained(run):
    said = load_metadata(run[0] / "model")
    assert said["negative"] == WAN_NEGATIVE_PROMPT  # of the family that the folder's name tells
    assert (said["chunk_frames"], said["memory"]["window_chunks"], said["sampler"]["shift"]) == (
        3,
        1,
        5.0,
    )


def test_a_text_encoder_that_is_not_trained_is_held_in_the_dtype_of_the_run(wan, store):
    stage = make_stage(config_of(wan, store, dtype="bfloat16"))
    assert {leaf.dtype for leaf in jax.tree.leaves(stage.fixed)} == {jnp.dtype("bfloat16")}
    assert {leaf.dtype for leaf in jax.tree.leaves(stage.trained)} == {jnp.dtype("float32")}


def test_a_store_of_another_model_and_a_missing_one_are_named(wan, store, tmp_path):
    other = wan_folder(tmp_path / "other")
    words = json.loads((other / "google/umt5-xxl/tokenizer.json").read_text())
    words["model"]["vocab"]["otter"] = words["model"]["vocab"].pop("fox")
    (other / "google/umt5-xxl/tokenizer.json").write_text(json.dumps(words))
    with pytest.raises(UsageError, match="its token ids are of another tokenizer"):
        make_stage(config_of(other, store))
    with pytest.raises(DataError, match=r"no model at .*none \(init\)"):
        make_stage(config_of(tmp_path / "none", store))
    (other / "google/umt5-xxl/tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"no tokenizer at .*other"):
        make_stage(config_of(other, store))


@pytest.mark.parametrize(("file", "name"), [("wan.py:1.3b", "wan-1.3b"), ("wan.py:14b", "wan-14b")])
def test_the_configs_fit_their_presets_and_trace(file, name, tmp_path):
    config, _ = parse([f"--config={ROOT / 'configs' / file}", f"--config.init={tmp_path}"])
    wan = preset(name)
    assert (config.transformer, config.text_encoder, config.vae) == (
        wan.transformer,
        wan.text_encoder,
        wan.vae,
    )
    assert (config.init, config.train_text_encoder, config.dtype, config.time.shift) == (
        str(tmp_path),
        False,
        "bfloat16",
        5.0,
    )
    loss = teacher_forcing_loss(TeacherForcing((1,) + (0,) * 511, config.passes, config.time))
    nets = {
        "transformer": jax.eval_shape(
            lambda: Transformer(config.transformer, key=jax.random.key(0))
        ),
        "text_encoder": jax.eval_shape(
            lambda: UMT5Encoder(config.text_encoder, key=jax.random.key(0))
        ),
    }
    batch = {
        "latents": jax.ShapeDtypeStruct((1, 60, 60, 104, 16), jnp.float32),
        "token_ids": jax.ShapeDtypeStruct((1, 5, 512), jnp.int32),
        "shot_of_chunk": jax.ShapeDtypeStruct((1, 20), jnp.int32),
    }
    value, metrics = jax.eval_shape(
        loss, {"transformer": nets.pop("transformer")}, nets, batch, jax.random.key(0)
    )
    assert value.shape == () and "mse" in metrics


def test_flags_that_contradict_the_model_are_refused(wan, store):
    layers = load_transformer(wan).config.num_layers
    sizes = dataclasses.replace(tiny_config().transformer, num_layers=layers + 1)
    config = config_of(wan, store, transformer=sizes)
    check_flags(["--config=file.py"], config)  # the file's own sizes give way to the model's
    with pytest.raises(UsageError) as caught:
        check_flags([f"--config.transformer.num_layers={layers + 1}"], config)
    assert (
        f"transformer.num_layers={layers + 1} contradicts init {wan}, where it is {layers}: "
        "leave out the flag" in str(caught.value)
    )
    same = config_of(wan, store, transformer=dataclasses.replace(sizes, num_layers=layers))
    check_flags(["--config.transformer.num_layers", str(layers)], same)
    other = dataclasses.replace(sizes, num_layers=layers, patch_size=(1, 1, 1))
    new = config_of(wan, store, transformer=other, new_latents=True)
    check_flags(["--config.transformer.patch_size=1,1,1"], new)
    check_flags(
        ["--config.transformer.skip_dim=8"],
        config_of(
            wan, store, transformer=dataclasses.replace(sizes, num_layers=layers, skip_dim=8)
        ),
    )


@pytest.mark.parametrize("rank", [0, 2])
def test_loaded_networks_are_freed_once_the_run_has_copies(wan, store, rank):
    """All but those that adapters change, which an export needs: in float32, 57 GB of 14B."""
    changes = {"train_text_encoder": False, "lora": LoraConfig(rank=rank)}
    stage = make_stage(config_of(wan, store, **changes))
    held = dataclasses.replace(stage, held_out=(next(stage.batches),))
    measure = HeldOut(held, config_of(wan, store), make_mesh(), print)
    # An export writes the text encoder, and merges adapters into their base.
    kept = {"text_encoder", "transformer_base"}
    nets = {name: net for name, net in {**stage.trained, **stage.fixed}.items() if name not in kept}
    arrays = [leaf for leaf in jax.tree.leaves(nets) if isinstance(leaf, jax.Array)]
    assert bool(arrays) == (rank == 0) and callable(measure)
    loaded = [weakref.ref(array) for array in arrays]
    assert ("transformer_base" in stage.fixed) == (rank > 0)
    stage = held = nets = arrays = dataclasses.replace(stage, trained={}, fixed={})
    gc.collect()
    assert not any(array() is not None for array in loaded)


def test_latents_are_of_the_vae_that_the_run_starts_with(wan, store):
    assert vae_folder(config_of(wan, store)) == wan
    assert vae_folder(tiny_config()).name == "storyworld"
