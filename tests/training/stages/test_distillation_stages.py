"""The stages of a student: from model folders to a few-step model, and what they refuse.

Each is trained twice: with its text encoder, and on embeddings made before. The real sizes are
traced as shapes.
"""

from dataclasses import asdict, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from embedded_prompts import again_on_embeddings
from jax.sharding import NamedSharding, PartitionSpec
from repository import ROOT
from tiny_models import mesh_of_nothing, random_weights
from tiny_training import tiny_config, tiny_store

from causalcine_jax.config import MemoryConfig
from causalcine_jax.convert import load_metadata, load_text_encoder, load_transformer, save_model
from causalcine_jax.convert.metadata import base_entry, base_of
from causalcine_jax.data.embed_command import embed_stores
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.model_folder import model_defaults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.tokenizer import word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.network_sizes import TransformerConfig
from causalcine_jax.parallel.sharding import state_shardings
from causalcine_jax.presets import preset
from causalcine_jax.storyworld import VOCABULARY
from causalcine_jax.training import recorded, step_memory
from causalcine_jax.training.config import (
    DataConfig,
    LoraConfig,
    OptimConfig,
    SelfForcingConfig,
)
from causalcine_jax.training.flags import parse
from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import read_records
from causalcine_jax.training.recorded import check_recorded
from causalcine_jax.training.stages import trajectory_store
from causalcine_jax.training.stages.build import make_stage
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.ode import ODEConfig, Trajectory
from causalcine_jax.training.stages.spec import ode_init_task, stage_spec
from causalcine_jax.training.state import new_state
from causalcine_jax.training.step import make_update, metric_names

OPTIM = OptimConfig(lr=1e-3, schedule="constant", warmup=0, ema_decay=0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("student") / "base")


@pytest.fixture(scope="module")
def store(base, tmp_path_factory):
    """Films whose prompts are embedded too."""
    made = tiny_store(tmp_path_factory.mktemp("student") / "store", films=4).path
    embed_stores(base, [made], "float32", progress=False)
    return made


def model_folder(
    folder,
    sizes: TransformerConfig = tiny_config().transformer,
    seed: int = 0,
    text_seed: int = 1,
    **said,
) -> Path:
    """A random base model whose metadata names a negative prompt, and what else is `said`."""
    nets = {
        "transformer": random_weights(lambda key: Transformer(sizes, key=key), seed),
        "text_encoder": random_weights(
            lambda key: UMT5Encoder(tiny_config().text_encoder, key=key), text_seed
        ),
    }
    metadata = {
        "negative": sorted(VOCABULARY)[0],
        "sampler": {"solver": "unipc", "steps": 5},
        **said,
    }
    save_model(
        folder, **nets, tokenizer=word_tokenizer(VOCABULARY), dtype=np.float32, metadata=metadata
    )
    return folder


def config_of(stage: str, base, store, out="", **changes):
    settings = {
        "stage": stage,
        "teacher": str(base),
        "steps": 3,
        "batch": 2,
        "log_every": 1,
        "optim": OPTIM,
        "critic_optim": OPTIM,
        "self_forcing": SelfForcingConfig(steps=2, grad_frames=6),
        "ode": ODEConfig(steps=4, guidance=2.0),
        "gan": GANConfig(taps=(1.0,)),  # one loop over all layers to compile
        "train_text_encoder": False,
        "generator_every": 2,
        "max_critic_mse": 100.0,  # a random fake score has about 10
    }
    return tiny_config(out, store, **{**settings, **changes})


def same(a, b) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def check_same_on_embeddings(config, rtol=1e-6):
    """The same losses on embeddings, and the same text encoder in the model."""
    known, _ = again_on_embeddings(config, Path(f"{config.out}_known"), rtol)
    assert same(load_text_encoder(f"{known.out}/model"), load_text_encoder(f"{config.out}/model"))


def test_ode_initialisation_leaves_a_few_step_model(base, store, tmp_path):
    config = config_of("ode_init", base, store, tmp_path / "plain")
    state, out = train(config), tmp_path / "plain"
    assert set(state.params) == {"student"}
    records = read_records(out / "metrics.jsonl")
    assert len(records) == 3 and {"loss", "x0_t1000", "x0_t833"} <= set(records[0])
    said = model_defaults(out / "model")
    assert (
        said["sampler"] == SelfForcingConfig(steps=2).sampler
        and said["negative"] == sorted(VOCABULARY)[0]
    )
    assert same(load_transformer(out / "model"), state.ema["student"])
    assert same(load_text_encoder(out / "model"), load_text_encoder(base))
    assert (
        base_of(out / "model").samefile(base)
        and not Path(load_metadata(out / "model")["base"]).is_absolute()
    )
    check_same_on_embeddings(config)


def test_a_model_that_has_its_text_encoder_from_a_base_is_a_teacher_too(base, store, tmp_path):
    small = tmp_path / "small"
    save_model(
        small,
        transformer=load_transformer(base),
        dtype=np.float32,
        metadata={"base": base_entry(base, small)},
    )
    stage = make_stage(config_of("dmd", small, store, init=str(small)))
    assert same(stage.fixed["teacher"], load_transformer(base)) and same(
        stage.fixed["text_encoder"], load_text_encoder(base)
    )
    forcing = make_stage(tiny_config(store=store, init=str(small)))
    assert same(forcing.trained["text_encoder"], load_text_encoder(base))


def test_stored_trajectories_take_the_teachers_place(base, store, tmp_path, monkeypatch):
    made = lambda task, teacher, text_encoder, batch, noise: Trajectory(
        jnp.stack([batch["latents"]] * 2), batch["latents"]
    )
    monkeypatch.setattr(trajectory_store, "teacher_trajectory", made)
    stage = make_stage(
        config_of("ode_init", base, store, ode=ODEConfig(4, 2.0, str(tmp_path / "trajectories"), 3))
    )
    assert set(stage.fixed) == {"text_encoder"}
    assert next(stage.batches)["latents"].shape == (2, 4 * 9, 4, 4, 16)


def test_trajectories_that_do_not_fit_are_refused_before_they_are_made(
    base, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(step_memory, "free_memory", lambda: 10)
    ode = ODEConfig(4, 2.0, str(tmp_path / "trajectories"), 3, batch=2)
    with pytest.raises(
        UsageError,
        match=r"^out of memory: a batch of trajectories takes [\d,]+ bytes beside weights, and "
        r"memory has 10 free: choose --config\.ode\.batch=1, .*or smaller films \(data\.store\)$",
    ):
        make_stage(config_of("ode_init", base, store, ode=ode))
    assert not (tmp_path / "trajectories").exists()


def test_distribution_matching_trains_student_and_critic(base, store, tmp_path):
    student = model_folder(tmp_path / "student", seed=5)
    config = config_of("dmd", base, store, tmp_path / "out", init=str(student))
    stage = make_stage(config)
    [(metric, (limit, advice))] = stage.limits.items()
    assert (metric, limit) == ("critic_mse", 100.0) and "lower critic_optim.lr" in advice
    assert set(stage.trained) == {"student", "fake_score", "head"} and set(stage.fixed) == {
        "teacher",
        "text_encoder",
    }
    assert same(stage.trained["fake_score"], stage.fixed["teacher"]) and not same(
        stage.trained["student"], stage.fixed["teacher"]
    )
    state = train(config)
    records = read_records(tmp_path / "out" / "metrics.jsonl")
    assert ["generator_loss" in record for record in records] == [True, False, True]
    assert all(np.isfinite(record["critic_loss"]) for record in records)
    assert not same(state.params["student"], load_transformer(student)) and not same(
        state.params["fake_score"], load_transformer(base)
    )
    assert set(state.ema) == {"student"} and same(
        load_transformer(tmp_path / "out" / "model"), state.ema["student"]
    )
    assert model_defaults(tmp_path / "out" / "model")["sampler"].solver == "few_step"
    # The student's loss is the square of a small difference, which rounding changes more.
    check_same_on_embeddings(config, rtol=1e-5)


@pytest.mark.slow
def test_distribution_matching_trains_on_single_chunks(base, store, tmp_path):
    data = DataConfig(store=str(store), chunks=1)
    train(config_of("dmd", base, store, tmp_path / "out", data=data))
    for record in read_records(tmp_path / "out" / "metrics.jsonl"):
        assert np.isfinite(record["critic_loss"])


@pytest.mark.slow
def test_distribution_matching_by_adapters_of_student_and_critic(base, store, tmp_path):
    student = model_folder(tmp_path / "student", seed=5)
    lora = LoraConfig(rank=2, layers="self_attn,ffn")
    state = train(config_of("dmd", base, store, tmp_path / "out", init=str(student), lora=lora))
    assert set(state.params) == {"student", "fake_score", "head"}
    for name in ("student", "fake_score"):
        assert all(float(jnp.abs(each.up[...]).max()) > 0 for each in state.params[name].values())
    read = load_transformer(student, lora=tmp_path / "out/lora")
    whole = load_transformer(tmp_path / "out/model")
    for mine, theirs in zip(jax.tree.leaves(whole), jax.tree.leaves(read), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


@pytest.mark.parametrize("stage", ["ode_init", "dmd"])
def test_what_does_not_fit_is_refused(stage, base, store, tmp_path):
    other = model_folder(
        tmp_path / "other", TransformerConfig(32, 32, 2, 1, text_dim=16, text_len=8, freq_dim=16)
    )
    with pytest.raises(
        UsageError, match=r"are not of one shape: dim 24 and 32, num_layers 2 and 1"
    ):
        make_stage(config_of(stage, base, store, init=str(other)))
    with pytest.raises(
        DataError,
        match=r"no model at .*none/model \(init\).*configs/ode_init.py --config.out=.*none`",
    ):
        make_stage(config_of(stage, base, store, init=str(tmp_path / "none/model")))
    with pytest.raises(
        DataError,
        match=r"no model at .*none/model \(teacher\).*configs/base.py --config.out=.*none`",
    ):
        make_stage(config_of(stage, tmp_path / "none/model", store))
    with pytest.raises(UsageError, match=f"stage {stage} needs teacher"):
        config_of(stage, "", store)


def test_what_models_say_of_themselves_must_be_what_the_config_says(base, store, tmp_path):
    memory = {"policy": "camr", "window_chunks": 1, "memory_frames": 2}
    sampler = {"solver": "few_step", "steps": 2, "guidance": 1.0, "shift": 5.0}
    teacher = model_folder(
        tmp_path / "teacher", memory={**memory, "policy": "sink"}, chunk_frames=3
    )
    student = model_folder(
        tmp_path / "student",
        text_seed=9,
        memory=memory,
        sampler={**sampler, "steps": 4, "shift": 3.0},
        chunk_frames=1,
    )
    with pytest.raises(UsageError) as error:
        make_stage(config_of("dmd", teacher, store, init=str(student)))
    for fault in (
        f"teacher {teacher} was made with memory.policy 'sink', not 'camr': "
        "--config.memory.policy=sink",
        f"init {student} was made with chunk_frames 1, not 3: --config.chunk_frames=1",
        "makes films at times 1000, 900, 750, 500, not 1000, 833.333: "
        "--config.self_forcing.steps=4 --config.self_forcing.shift=3",
        f"init {student} has another text encoder than teacher {teacher}",
    ):
        assert fault in str(error.value)
    assert str(error.value).count(";") == 3
    fits = model_folder(
        tmp_path / "fits",
        memory=memory,
        sampler={**sampler, "step_list": [1000.0, 833.0]},
        chunk_frames=3,
    )
    make_stage(config_of("dmd", fits, store, init=str(fits)))


def test_a_student_may_choose_its_frames_by_another_policy_than_its_teacher(tmp_path):
    memory = MemoryConfig("camr", window_chunks=1, memory_frames=2)
    folder = model_folder(tmp_path / "teacher", memory=asdict(memory))
    notes = lambda policy: check_recorded(
        config_of("dmd", folder, None, memory=replace(memory, policy=policy)),
        None,
        None,
    )
    assert notes("camr") == ()
    assert notes("attended") == (
        f"note: teacher {folder} was made with memory.policy 'camr', "
        "and the student learns with 'attended'",
    )
    with pytest.raises(UsageError, match=r"memory\.policy 'camr', not 'none'"):
        notes("none")


def test_text_encoders_of_equal_files_are_not_loaded_to_be_compared(
    base, store, tmp_path, monkeypatch
):
    loads, text_encoder = [], load_text_encoder(base)

    def load(folder, *how, **named):
        loads.append(folder)
        return load_text_encoder(folder, *how, **named)

    monkeypatch.setattr(recorded, "load_text_encoder", load)
    check = lambda init: check_recorded(
        config_of("dmd", base, store, init=str(init)), text_encoder, None
    )
    check(base)
    check(model_folder(tmp_path / "equal"))
    assert not loads
    rounded = tmp_path / "rounded"  # other files, and the weights that an export would have
    save_model(
        rounded,
        transformer=load_transformer(base),
        text_encoder=text_encoder,
        tokenizer=word_tokenizer(VOCABULARY),
    )
    check(rounded)
    assert loads == [str(rounded)]
    with pytest.raises(UsageError, match="has another text encoder than teacher"):
        check(model_folder(tmp_path / "other", text_seed=9))


def test_times_that_the_teacher_does_not_pass_are_refused_before_anything_is_loaded(store):
    with pytest.raises(UsageError, match="are not among the teacher's 5 steps"):
        make_stage(config_of("ode_init", "no such folder", store, ode=ODEConfig(steps=5)))


@pytest.mark.parametrize("file", ["ode_init", "dmd"])
@pytest.mark.parametrize("size", ["base", "storyworld", "wan_1_3b", "wan_14b"])
def test_the_configs_are_sound(file, size):
    config, _ = parse([f"--config={ROOT / 'configs' / file}.py:{size}"])
    sizes = preset(
        {"base": "storyworld-base", "wan_1_3b": "wan-1.3b", "wan_14b": "wan-14b"}.get(size, size)
    )
    assert (config.stage, config.transformer, config.text_encoder) == (
        file,
        sizes.transformer,
        sizes.text_encoder,
    )
    times = {"base": (1000, 12000 / 13, 800, 4000 / 7), "storyworld": (1000, 900, 750, 500)}.get(
        size, (1000, 937.5, 2500 / 3, 625)
    )
    np.testing.assert_allclose(config.self_forcing.sampler.times, times, atol=1e-3)
    assert ode_init_task(config, ()).teacher_steps == (0, 12, 24, 36)
    if file == "dmd":  # it goes on where ODE initialisation ended
        before, _ = parse([f"--config={ROOT / 'configs' / 'ode_init.py'}:{size}"])
        assert config.init == f"{before.out}/model" and config.teacher == before.teacher


@pytest.mark.parametrize("file", ["ode_init", "dmd"])
def test_all_updates_lower_at_full_size_over_many_devices(file):
    """Wan2.1 14B over 64 devices, a film for each; nothing is computed.

    All shapes fit, every array has its place, and XLA is given a program.
    """
    config, _ = parse([f"--config={ROOT / 'configs' / file}.py:wan_14b"])
    spec = stage_spec(config, (1,) + (0,) * (config.transformer.text_len - 1))
    parts = 1 if file == "dmd" else 4 + 2  # a stored trajectory
    stage, updates = spec.shapes(), spec.updates
    trained, fixed = stage.trained, stage.fixed
    batch = {
        "latents": jax.ShapeDtypeStruct((64, 60 * parts, 60, 104, 16), jnp.float32),
        "token_ids": jax.ShapeDtypeStruct((64, 5, 512), jnp.int32),
        "shot_of_chunk": jax.ShapeDtypeStruct((64, 20 * parts), jnp.int32),
    }
    assert spec.batch(config, 64, 60, (60, 104), 5) == batch
    names = metric_names(stage, trained, fixed, batch)
    state = jax.eval_shape(lambda nets: new_state(stage, nets, names), trained)
    mesh = mesh_of_nothing(64, 1)
    shardings = state_shardings(mesh, state)
    placed = lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
    arguments = [jax.tree.map(placed, tree, state_shardings(mesh, tree)) for tree in (state, fixed)]
    arguments.append(
        jax.tree.map(lambda leaf: placed(leaf, NamedSharding(mesh, PartitionSpec("data"))), batch)
    )
    for update in updates:
        traced = jax.jit(
            make_update(stage, update, config), donate_argnums=0, out_shardings=shardings
        ).trace(*arguments)
        assert jax.tree.structure(traced.out_info) == jax.tree.structure(state)
        assert "sharding" in traced.lower(lowering_platforms=("tpu",)).as_text()
