"""The stages themselves: from a config to networks, data and an exported model folder."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_models import random_weights
from tiny_training import tiny_config, tiny_store

from benchmarks.update_flops import COUNTS
from causalcine_jax.convert import (
    load_metadata,
    load_text_encoder,
    load_transformer,
    load_vae,
    save_model,
)
from causalcine_jax.data.clips import Clips, clip_batches, paint
from causalcine_jax.data.encode import vae_hash
from causalcine_jax.data.latent_store import LatentStore, StoreSpec
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import Tokenizer, word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import TextEncoderConfig
from causalcine_jax.storyworld import (
    VOCABULARY,
    WorldConfig,
    render,
    sample_story,
    scene_parameters,
)
from causalcine_jax.training import film_stores
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    LoraConfig,
    OptimConfig,
    TrainConfig,
)
from causalcine_jax.training.sample import SAMPLE_SEED, as_story
from causalcine_jax.training.stages.autoencoder import AutoencoderConfig
from causalcine_jax.training.stages.build import make_stage
from causalcine_jax.training.stages.growth import grown_sizes
from causalcine_jax.training.stages.spec import SPECS
from causalcine_jax.training.stages.table import FILM_STAGES, STAGES

FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("stages") / "store").path


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model folder with random networks of the tiny sizes."""
    config, folder = tiny_config(), tmp_path_factory.mktemp("stages") / "model"
    nets = {
        "transformer": random_weights(lambda key: Transformer(config.transformer, key=key), 0),
        "text_encoder": random_weights(lambda key: UMT5Encoder(config.text_encoder, key=key), 1),
        "vae": random_weights(lambda key: VAE(config.vae, key=key), 2),
    }
    save_model(folder, **nets, tokenizer=word_tokenizer(VOCABULARY), dtype=np.float32)
    return folder


def test_every_stage_of_the_table_has_networks_operations_and_a_word_for_users():
    assert SPECS.keys() == STAGES.keys()
    assert COUNTS.keys() == set(FILM_STAGES)
    assert not [name for name in STAGES if name not in TrainConfig.__doc__]


def test_a_run_starts_from_any_model_folder(store, model):
    stage = make_stage(tiny_config(store=store, init=str(model), train_text_encoder=False))
    assert set(stage.trained) == {"transformer"} and set(stage.fixed) == {"text_encoder"}
    for net, load in (
        (stage.trained["transformer"], load_transformer),
        (stage.fixed["text_encoder"], load_text_encoder),
    ):
        jax.tree.map(np.testing.assert_array_equal, net, load(model))


def test_a_model_goes_on_with_the_latents_of_another_vae(store, model):
    config = tiny_config(store=store, init=str(model), new_latents=True)
    patches = dataclasses.replace(config.transformer, patch_size=(1, 1, 1))
    net = make_stage(dataclasses.replace(config, transformer=patches)).trained["transformer"]
    old = load_transformer(model)
    assert net.config == patches != old.config
    jax.tree.map(np.testing.assert_array_equal, net.blocks, old.blocks)
    rows, channels = net.patch_embedding.weight.shape[0], patches.in_dim
    assert rows == channels == net.head.weight.shape[1] and not np.any(net.head.weight)
    with pytest.raises(UsageError, match=r"new_latents needs .* init"):
        tiny_config(store=store, new_latents=True)


def test_a_model_goes_on_with_more_layers(store, model):
    """They give what the model gave, and their last matrices have a gradient."""
    config = tiny_config(store=store, init=str(model), new_layers=3, caption_dropout=0.0)
    stage, old = make_stage(config), load_transformer(model)
    net, batch = stage.trained["transformer"], next(stage.batches)
    assert net.config == dataclasses.replace(old.config, num_layers=5)
    text_encoder = stage.trained["text_encoder"]
    loss = jax.jit(jax.value_and_grad(stage.updates[0].loss, has_aux=True))
    lost = lambda net: loss(
        {"transformer": net, "text_encoder": text_encoder}, {}, batch, jax.random.key(0)
    )
    (was, _), _ = lost(old)
    (now, _), gradient = lost(net)
    assert float(now) == float(was)
    added = [at for at in range(5) if not np.any(net.blocks.ffn_2.weight[at])]
    assert added == [1, 2, 4]
    for at, before in ((1, 0), (2, 0), (4, 3)):
        np.testing.assert_array_equal(net.blocks.ffn_0.weight[at], net.blocks.ffn_0.weight[before])
    for linear in (net.blocks.self_attn.o, net.blocks.cross_attn.o):
        assert not np.any(linear.weight[np.array(added)])
    learns = gradient["transformer"].blocks
    for linear in (learns.self_attn.o, learns.cross_attn.o, learns.ffn_2):
        assert np.all(np.abs(linear.weight[...]).max(axis=(1, 2)) > 0)
    # A plan has no init: its config's own sizes grow.
    assert grown_sizes(config).transformer.num_layers == config.transformer.num_layers + 3
    assert grown_sizes(tiny_config()) == tiny_config()
    with pytest.raises(UsageError, match=r"new_layers needs .* init"):
        tiny_config(store=store, new_layers=1)
    with pytest.raises(UsageError, match=r"new_layers needs lora\.rank=0"):
        dataclasses.replace(config, lora=LoraConfig(rank=2), train_text_encoder=False)


def test_a_model_goes_on_with_an_input_skip(store, model):
    config = tiny_config(store=store, init=str(model))
    asked = dataclasses.replace(config.transformer, skip_dim=6)
    net = make_stage(dataclasses.replace(config, transformer=asked)).trained["transformer"]
    old = load_transformer(model)
    assert net.config == dataclasses.replace(old.config, skip_dim=6)
    assert np.any(net.skip.gate.weight) and not np.any(net.skip.out.weight)
    del net.skip
    jax.tree.map(np.testing.assert_array_equal, jax.tree.leaves(net), jax.tree.leaves(old))


def test_an_exported_model_has_all_that_makes_a_film(store, model, tmp_path):
    config = tiny_config(
        store=store, init=str(model), data=DataConfig(store=str(store), vae=str(model))
    )
    stage = make_stage(config)
    stage.export(stage.trained, tmp_path / "out", {"training": {"step": 3}})
    jax.tree.map(
        np.testing.assert_array_equal,
        load_transformer(tmp_path / "out"),
        stage.trained["transformer"],
    )
    jax.tree.map(np.testing.assert_array_equal, load_vae(tmp_path / "out"), load_vae(model))
    assert Tokenizer.load(tmp_path / "out").size == word_tokenizer(VOCABULARY).size
    said = load_metadata(tmp_path / "out")
    assert said["video"] == {"fps": 16, "width": 32, "height": 32}
    assert said["memory"]["window_chunks"] == 1 and said["training"] == {"step": 3}


def test_an_export_never_rounds_a_vae_that_made_latents(store, model, tmp_path):
    data = DataConfig(store=str(store), vae=str(model))
    rounding = CheckpointConfig(export_dtype="bfloat16")
    films = tiny_config(init=str(model), data=data, checkpoint=rounding)
    clips = tiny_config(
        stage="autoencoder",
        init=str(model),
        data=DataConfig(clip_frames=1),
        autoencoder=AutoencoderConfig(train="decoder", crop=(8, 16)),
        optim=OptimConfig(weight_decay=0.0, warmup=3),
        checkpoint=rounding,
    )
    before = load_vae(model)
    for name, config in (("films", films), ("clips", clips)):
        stage = make_stage(config)
        stage.export(dict(stage.trained), tmp_path / name, {})
        assert vae_hash(load_vae(tmp_path / name)) == vae_hash(before)
    trained = load_vae(tmp_path / "clips").decoder.conv1.weight[...]
    assert np.array_equal(trained, before.decoder.conv1.weight.astype(jnp.bfloat16))
    assert load_file(tmp_path / "films/transformer" / FILE)["head.head.weight"].dtype == "bfloat16"


def test_a_store_that_does_not_fit_is_refused_with_all_faults(store, model, tmp_path):
    opened = LatentStore.open(store)
    other = StoreSpec(**{**dataclasses.asdict(opened.spec), "vae": "0123", "tokenizer": "4567"})
    (tmp_path / "store").mkdir()
    for entry in store.iterdir():
        (tmp_path / "store" / entry.name).symlink_to(entry)
    (tmp_path / "store" / "store.json").unlink()
    (tmp_path / "store" / "store.json").write_text(json.dumps(dataclasses.asdict(other)))
    transformer = dataclasses.replace(tiny_config().transformer, text_len=4)
    with pytest.raises(UsageError) as caught:
        make_stage(
            tiny_config(
                store=tmp_path / "store",
                transformer=transformer,
                data=DataConfig(store=str(tmp_path / "store"), vae=str(model)),
            )
        )
    for fault in (
        "of another VAE",
        "of another tokenizer",
        "prompts have 8 tokens, transformer.text_len is 4",
    ):
        assert fault in str(caught.value)


def test_what_is_missing_is_named(store, tmp_path, monkeypatch):
    monkeypatch.setattr(film_stores, "EMBEDDED", tmp_path)
    with pytest.raises(
        UsageError, match=r"no VAE to make one: name a model folder with vae/ as data.vae"
    ):
        make_stage(tiny_config(data=DataConfig(store=str(tmp_path / "none"))))
    with pytest.raises(DataError, match="there is no such file or folder"):
        make_stage(tiny_config(store=store, init=str(tmp_path / "none")))
    with pytest.raises(UsageError, match=r"vocab_size 50 is too small"):
        make_stage(tiny_config(store=store, text_encoder=TextEncoderConfig(50, 16, 16, 16, 2, 1)))


@pytest.mark.parametrize("stage", ["teacher_forcing", "autoencoder"])
def test_a_batch_that_no_memory_holds_is_one_line(store, stage):
    said = r"^out of memory: batch=100,000,000,000 takes at least [\d,]{15,} bytes .*: lower batch$"
    with pytest.raises(UsageError, match=said):
        make_stage(tiny_config(store=store, batch=10**11, stage=stage))


def test_a_run_makes_stores_only_inside_its_out(model, tmp_path):
    data = DataConfig(store=str(tmp_path / "films"), vae=str(model))
    with pytest.raises(UsageError, match=r"only inside its out, .*run: run causalcine encode"):
        make_stage(tiny_config(tmp_path / "run", data=data))
    assert not (tmp_path / "films").exists()


def test_clips_are_stretches_of_stories():
    world = WorldConfig.base()
    clips = Clips(world, 5, 9)
    film = scene_parameters(sample_story(5, 3, world))["shapes"]
    (clip,) = clips[3]
    assert any(np.array_equal(clip, film[first : first + 9]) for first in range(len(film) - 8))
    np.testing.assert_array_equal(clip[None], Clips(world, 5, 9)[3])
    video = np.asarray(jax.jit(paint, static_argnums=(1, 2))(clip[None], 48, 80))
    drawn = render({"shapes": clip}, 48, 80)
    assert video.shape == (1, 9, 48, 80, 3)
    np.testing.assert_allclose((video[0] + 1) * 127.5, drawn, atol=1.01)


def test_clips_are_split_between_processes_and_resume():
    clips = Clips(WorldConfig.base(), 0, 5)
    whole = clip_batches(clips, 4)
    parts = [clip_batches(clips, 2, process_index=i, process_count=2) for i in range(2)]
    first = next(whole)
    np.testing.assert_array_equal(first, np.concatenate([next(part) for part in parts]))
    state = whole.get_state()
    second = next(whole)
    again = clip_batches(clips, 4)
    again.set_state(state)
    np.testing.assert_array_equal(next(again), second)


def test_a_sampled_story_is_the_worlds():
    told = sample_story(SAMPLE_SEED, 0, WorldConfig.base())
    story = as_story(told, 5)
    resolved = story.resolve()
    assert [shot.prompt for shot in resolved.shots] == list(told.prompts())
    assert (resolved.chunks, resolved.frames, story.seed) == (10, 117, 5)


def test_films_are_not_encoded_for_a_batch_that_no_memory_holds(model, tmp_path, monkeypatch):
    monkeypatch.setattr(
        film_stores, "encode_storyworld", lambda *_, **__: pytest.fail("was encoded")
    )
    data = DataConfig(vae=str(model))
    with pytest.raises(UsageError, match=r"^out of memory: batch=100,000,000,000 takes"):
        make_stage(tiny_config(tmp_path / "run", data=data, batch=10**11))
