"""Training on embeddings made before: the same losses, and no text encoder in memory.

tests/training/stages/test_distillation_stages.py has a student's stages.
"""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
from embedded_prompts import again_on_embeddings, check_losses, without_text_encoder
from tiny_checkpoints import wan_folder
from tiny_models import WORDS, tiny_folder, tiny_model
from tiny_training import tiny_config, tiny_store

from benchmarks.flops import FilmFlops
from benchmarks.update_flops import update_flops
from causalcine_jax.convert import load_text_encoder, load_tokenizer, save_model
from causalcine_jax.data.embed_command import embed_stores
from causalcine_jax.errors import UsageError
from causalcine_jax.film.embeddings import encoder_hash
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.planning.planned_step import FilmBatch, training_steps
from causalcine_jax.story import Shot, Story, write_story
from causalcine_jax.training import known_prompts
from causalcine_jax.training.config import (
    CheckpointConfig,
    DataConfig,
    HeldOutConfig,
    LoraConfig,
    OptimConfig,
    SampleConfig,
    SelfForcingConfig,
)
from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import read_records
from causalcine_jax.training.stages import build
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.ode import ODEConfig

OPTIM = OptimConfig(lr=1e-3, schedule="constant", warmup=0, ema_decay=0.5)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with a negative prompt, as guidance of a teacher needs."""
    return tiny_folder(
        tmp_path_factory.mktemp("known") / "model", tiny_model(negative="Mia waves.")
    )


@pytest.fixture(scope="module")
def stores(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("known")
    made = [tiny_store(folder / name, films=4, seed=seed).path for seed, name in enumerate("abc")]
    embed_stores(model, made, "float32", progress=False)
    return made


def config_of(model, stores, out="", embeddings=False, stage="teacher_forcing", **changes):
    joined = ",".join(map(str, stores))
    start = {"init": str(model)} if stage == "teacher_forcing" else {"teacher": str(model)}
    settings = {
        "stage": stage,
        **start,
        "train_text_encoder": False,
        "steps": 3,
        "batch": 2,
        "log_every": 1,
        "caption_dropout": 0.5,
        "optim": OPTIM,
        "critic_optim": OPTIM,
        "data": DataConfig(store=joined, embeddings=embeddings),
        "self_forcing": SelfForcingConfig(steps=2, grad_frames=6),
        "ode": ODEConfig(steps=4, guidance=2.0),
        "gan": GANConfig(generator_weight=0.0, discriminator_weight=0.0),
        "max_critic_mse": 100.0,
    }
    return tiny_config(out, "", **{**settings, **changes})


@pytest.fixture(scope="module")
def run(model, stores, tmp_path_factory):
    """A run on embeddings: its folder, its config, its last state.

    Of two stores mixed, whole films, held-out films, and dropped captions.
    """
    folder = tmp_path_factory.mktemp("run")
    config = config_of(
        model,
        stores,
        folder / "plain",
        data=DataConfig(store=f"{stores[0]},{stores[1]}"),
        steps=4,
        held_out=HeldOutConfig(every=4, films=2, store=str(stores[2])),
        checkpoint=CheckpointConfig(every=2, export_dtype="float32"),
    )
    train(config)
    return folder, *again_on_embeddings(config, folder / "known")


def test_losses_are_those_with_the_text_encoder(model, run):
    folder, _, _ = run
    check_losses(folder / "plain", folder / "known")
    last = read_records(folder / "known/metrics.jsonl")[-1]
    assert {"held_out_mse", "held_out_ema_mse", "held_out_mse_t750_1000"} <= set(last)
    ours, theirs = load_text_encoder(folder / "known/model"), load_text_encoder(model)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    file = "text_encoder/model.safetensors"
    assert (folder / "known/model" / file).samefile(model / file)
    assert load_tokenizer(folder / "known/model").size == WORDS.size
    assert encoder_hash(folder / "known/model") == encoder_hash(model)


def check_first_losses(plain, known, monkeypatch):
    """Losses of the first batches and of held-out films, with a text encoder and without one."""

    def first(config):
        stage = build.make_stage(config)
        (update,) = stage.updates
        loss = jax.jit(update.loss)
        batches = [*itertools.islice(stage.batches, 3), *stage.held_out]
        return [
            float(loss(stage.trained, stage.fixed, batch, jax.random.key(i))[0])
            for i, batch in enumerate(batches)
        ]

    expected = first(plain)
    without_text_encoder(monkeypatch)
    np.testing.assert_allclose(first(known), expected, rtol=1e-6)
    assert len(set(expected)) > 1


def test_losses_of_parts_of_films_are_those_with_the_text_encoder(model, stores, monkeypatch):
    plain, known = (
        config_of(
            model,
            stores,
            data=DataConfig(store=f"{stores[0]},{stores[1]}", embeddings=embeddings, chunks=1),
            held_out=HeldOutConfig(every=3, films=2, store=str(stores[2])),
        )
        for embeddings in (False, True)
    )
    check_first_losses(plain, known, monkeypatch)


def test_adapters_need_only_the_transformer(model, stores, monkeypatch):
    config = config_of(model, stores[:1], embeddings=True, lora=LoraConfig(rank=2))
    without_text_encoder(monkeypatch)
    assert set(build.make_stage(config).fixed) == {"transformer_base"}


def test_losses_on_stored_trajectories_are_those_with_the_text_encoder(
    model, stores, tmp_path, monkeypatch
):
    ode = lambda name: ODEConfig(steps=4, guidance=2.0, store=str(tmp_path / name), films=4)
    plain, known = (
        config_of(model, stores[:1], embeddings=embeddings, stage="ode_init", ode=ode(name))
        for embeddings, name in ((False, "plain"), (True, "known"))
    )
    check_first_losses(plain, known, monkeypatch)


def test_trajectories_of_rounded_embeddings_say_so(model, tmp_path):
    """Else a run would go on with those of the encoder itself, or of other embeddings."""
    store = tiny_store(tmp_path / "store", films=4).path
    embed_stores(model, [store], "bfloat16", progress=False)
    ode = ODEConfig(steps=4, guidance=2.0, store=str(tmp_path / "trajectories"), films=2)
    build.make_stage(config_of(model, [store], embeddings=True, stage="ode_init", ode=ode))
    source = json.loads((tmp_path / "trajectories/store.json").read_text())["source"]
    assert source["embeddings"] == "bfloat16"


def test_a_missing_store_is_not_made_where_it_would_have_no_embeddings(model, tmp_path):
    config = config_of(model, [], tmp_path / "out", embeddings=True)
    with pytest.raises(UsageError, match=r"data\.embeddings needs one whose prompts are embedded"):
        build.make_stage(config)
    assert not (tmp_path / "out" / "latents").exists()


def test_a_stopped_run_goes_on(run, tmp_path, monkeypatch):
    _, config, whole = run
    without_text_encoder(monkeypatch)
    config = dataclasses.replace(config, out=str(tmp_path))
    train(dataclasses.replace(config, steps=2))
    part = train(config)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(part.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_text_encoder_is_exported_without_being_loaded(model, tmp_path):
    """Linked where it lies in a model folder, else written tensor by tensor."""
    wan = wan_folder(tmp_path / "Wan2.1-T2V-1.3B")
    for source in (model, wan):
        folder, tokenizer = tmp_path / f"of_{source.name}", load_tokenizer(source)
        for _ in range(2):  # a run exports more than once
            save_model(folder, text_encoder=source, tokenizer=tokenizer, dtype=np.float32)
        ours, theirs = load_text_encoder(folder), load_text_encoder(source)
        assert ours.cfg == theirs.cfg and load_tokenizer(folder).size == tokenizer.size
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)


def test_sample_films_are_made_of_prompts_embedded_before(model, stores, tmp_path, monkeypatch):
    write_story(Story((Shot("Mia waves.", chunks=1),)), tmp_path / "story.yaml")
    sample = SampleConfig(every=2, story=str(tmp_path / "story.yaml"), steps=1)
    loads, load = [], known_prompts.load_text_encoder
    monkeypatch.setattr(
        known_prompts, "load_text_encoder", lambda *a, **k: loads.append(a) or load(*a, **k)
    )
    config = config_of(model, stores[:1], tmp_path / "run", True, sample=sample)
    train(config)
    assert len(loads) == 1
    for step in ("000002", "000003"):
        made = json.loads((tmp_path / "run/samples" / step / "film.json").read_text())
        assert made["frames_sha256"]


def test_faults_name_the_command(model, stores, tmp_path):
    bare = tiny_store(tmp_path / "bare", films=4)
    with pytest.raises(UsageError, match=f"causalcine embed --model {model} --store {bare.path}"):
        build.make_stage(config_of(model, [bare.path], embeddings=True))
    other = tiny_folder(
        tmp_path / "other",
        dataclasses.replace(tiny_model(), text_encoder=tiny_model().text_encoder),
    )
    words = json.loads((other / "text_encoder/config.json").read_text())
    (other / "text_encoder/config.json").write_text(json.dumps({**words, "note": "another file"}))
    with pytest.raises(UsageError, match="is of another text encoder: run causalcine embed"):
        build.make_stage(config_of(other, stores, embeddings=True))
    held = HeldOutConfig(every=1, films=2, store=str(bare.path))
    with pytest.raises(UsageError, match=f"{bare.path}/embeddings holds no embeddings"):
        build.make_stage(config_of(model, stores, embeddings=True, held_out=held))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_text_encoder": True}, "data.embeddings needs train_text_encoder=False"),
        ({"stage": "autoencoder", "init": ""}, "data.embeddings needs train_text_encoder=False"),
        ({"data": DataConfig(embeddings=True, retell=True)}, "data.retell rewords the prompts"),
    ],
)
def test_what_has_other_prompts_at_every_visit_is_refused(changes, said, model, stores):
    with pytest.raises(UsageError, match=said):
        config_of(model, stores, embeddings=True, **changes)


@pytest.mark.parametrize("stage", ["teacher_forcing", "ode_init", "dmd"])
def test_a_plan_counts_no_text_encoder(stage, model, stores):
    films, parts, flops = FilmBatch(9, 48, 80, 2), {}, {}
    for known in (False, True):
        config = config_of(model, stores, embeddings=known, stage=stage)
        (*_, step) = training_steps(config, films, make_mesh())
        parts[known] = step.parts
        sizes = FilmFlops(config.transformer, config.memory, 2, 3, 15, config.chunk_frames, 2)
        flops[known] = update_flops(config, sizes)
    assert "text_encoder, not trained" in parts[False]
    assert "text_encoder, not trained" not in parts[True]
    assert parts[True]["batch"][0] > parts[False]["batch"][0]
    assert all(flops[True][name] < flops[False][name] for name in flops[True])
