"""launch/train.py: what it prints, what it refuses, and what becomes of a config."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest
from repository import ROOT
from tiny_training import tiny_config

from causalcine_jax.config import MemoryConfig
from causalcine_jax.errors import UsageError
from causalcine_jax.network_sizes import TextEncoderConfig, TransformerConfig
from causalcine_jax.training.config import (
    DataConfig,
    HeldOutConfig,
    LoraConfig,
    OptimConfig,
    SampleConfig,
    TrainConfig,
)
from causalcine_jax.training.flags import parse
from causalcine_jax.training.overrides import replaced

BASE = f"--config={ROOT / 'configs' / 'base.py'}"


@pytest.mark.parametrize(
    "file, world, stage",
    [
        ("base.py", "base", "teacher_forcing"),
        ("storyworld.py", "storyworld", "teacher_forcing"),
        ("storyworld.py:autoencoder", "storyworld", "autoencoder"),
        ("embedded.py:first", "base", "teacher_forcing"),
        ("embedded.py:films", "base", "teacher_forcing"),
        ("embedded.py:beginnings", "base", "teacher_forcing"),
        ("embedded.py:films_last", "base", "teacher_forcing"),
        ("embedded.py:student_ode", "base", "ode_init"),
        ("embedded.py:student", "base", "dmd"),
    ],
)
def test_the_configs_are_sound(file, world, stage):
    config, _ = parse([f"--config={ROOT / 'configs' / file}"])
    assert (config.data.world, config.stage) == (world, stage)


def test_overrides_reach_every_depth():
    config, options = parse(
        [
            BASE,
            "--config.optim.lr=3e-5",
            "--config.memory.policy",
            "sink",
            "--config.remat",
            "--print_config",
        ]
    )
    assert (config.optim.lr, config.memory.policy, config.remat, options.print_config) == (
        3e-5,
        "sink",
        True,
        True,
    )


def test_values_have_the_type_of_their_field():
    config, options = parse(
        [
            BASE,
            "--noconfig.remat",
            "--config.tensorboard=True",
            "--config.optim.lr=1",
            "--config.gan.taps=(0.5, 1)",
            "--config.self_forcing.step_list=1000",
            "--config.autoencoder.crop=[24,40]",
            "--config.init=007",
            "--noforce",
            "--compile-cache=programs",
        ]
    )
    assert (config.remat, config.tensorboard, config.init) == (False, True, "007")
    assert isinstance(config.optim.lr, float) and config.gan.taps == (0.5, 1.0)
    assert config.self_forcing.step_list == (1000.0,) and config.autoencoder.crop == (24, 40)
    assert (options.force, options.compile_cache) == (False, "programs")


@pytest.mark.parametrize("size", ["base", "storyworld", "wan_1_3b", "wan_14b"])
@pytest.mark.parametrize("stage", ["ode_init", "dmd"])
def test_out_moves_all_that_a_run_makes(stage, size):
    file = f"--config={ROOT}/configs/{stage}.py:{size}"
    (usual, _), (moved, _) = parse([file]), parse([file, "--config.out=/elsewhere"])
    made = lambda config: {config.ode.store, config.data.store, config.out} - {""}
    inputs = {usual.data.store}  # the films of the run before it
    assert made(moved) - inputs <= {"/elsewhere", "/elsewhere/trajectories"}
    assert made(usual) - inputs <= {usual.out, f"{usual.out}/trajectories"}
    assert bool(moved.ode.store) == bool(usual.ode.store)


def test_a_saved_config_reads_back():
    config = tiny_config("out", "store", memory=MemoryConfig("none"))
    assert replaced(TrainConfig(), json.loads(json.dumps(dataclasses.asdict(config)))) == config


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--config is missing: name a file, such as configs/base.py"),
        (["--config=configs/bse.py"], "no config file configs/bse.py"),
        ([f"--config={ROOT}/configs/storyworld.py:autoencode"], "did you mean 'autoencoder'"),
        ([BASE, "--config.optim.lrr=1"], "unknown key optim.lrr, did you mean 'lr'"),
        (
            [BASE, "--config.optm.lr=1", "--config.optim.clipp=2"],
            "unknown key optm, did you mean 'optim'?; unknown key optim.clipp",
        ),
        ([BASE, "--config.optim.lr.x=1"], "optim.lr is a single value"),
        ([BASE, "--config.steps=many"], "steps"),
        (
            [BASE, "--config.steps=many", "--config.optim.lrr=1"],
            "steps must be an integer, not 'many'; unknown key optim.lrr",
        ),
        ([BASE, "--config.steps"], "steps needs a value: write steps=VALUE"),
        ([BASE, "--noconfig.steps"], "steps cannot be negated"),
        ([BASE, "--config.remat=perhaps"], "remat must be True or False, not 'perhaps'"),
        ([BASE, "--config.optim=adamw"], "optim is a group of values: give one of them, such as"),
        ([BASE, "--config.gan.taps=deep"], "gan.taps must be a list such as (1.0, 1.0)"),
        ([BASE, "--config.optim.b1=nan"], "optim.b1 must be finite, not nan"),
        ([f"--config={ROOT}/configs/wan.py:13b"], "configs/wan.py has no size '13b'"),
        ([BASE, "--nonsense"], "unknown flag --nonsense"),
        ([BASE, "left", "over"], "left over"),
        ([BASE, "--config.transformer.num_heads=7"], "dim 128 is not divisible by num_heads 7"),
    ],
)
def test_invalid_arguments_are_named(arguments, message):
    with pytest.raises(UsageError) as caught:
        parse(arguments)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_config_file_with_a_fault_is_named(tmp_path):
    file = tmp_path / "mine.py"
    for text, message in (
        ("def get_config(:", "line 1"),
        ("x = 1", "defines no get_config"),
        ("def get_config():\n  return 1 / 0", "division by zero"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=message):
            parse([f"--config={file}"])


def test_all_faults_at_once():
    with pytest.raises(UsageError) as caught:
        TrainConfig(
            stage="teacher",
            batch=0,
            caption_dropout=2.0,
            optim=OptimConfig(optimizer="muon2", b1=1.0),
            seed=0,
        )
    for fault in (
        "unknown stage 'teacher', did you mean 'teacher_forcing'?",
        "batch must be at least 1",
        "caption_dropout",
        "'muon2'",
        "optim.b1",
    ):
        assert fault in str(caught.value)


def test_faults_of_parts_are_collected_with_the_rest():
    plain = json.loads(json.dumps(dataclasses.asdict(tiny_config())))
    plain["transformer"]["num_heads"] = 5
    plain["memory"]["policy"] = "camera"
    plain["stepps"] = 3
    with pytest.raises(UsageError) as caught:
        replaced(TrainConfig(), plain)
    for fault in (
        "dim 24 is not divisible by num_heads 5",
        "unknown policy 'camera'",
        "unknown key stepps, did you mean 'steps'?",
    ):
        assert fault in str(caught.value)


def test_networks_must_fit_together():
    sizes = TransformerConfig(
        dim=24, ffn_dim=32, num_heads=2, num_layers=2, text_dim=20, text_len=8, freq_dim=16
    )
    with pytest.raises(UsageError, match=r"text_dim 20 is not text_encoder.dim 16"):
        tiny_config(transformer=sizes)
    with pytest.raises(UsageError, match=r"batch 4 is not divisible by optim.accumulation 3"):
        tiny_config(optim=OptimConfig(warmup=3, accumulation=3))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"sample": SampleConfig(steps=1001)}, "sample.steps must be at least 1 and at most 1000"),
        ({"optim": OptimConfig(eps=0.0)}, "optim.eps must be more than 0"),
        (
            {"stage": "dmd", "teacher": "t", "steps": 600, "generator_start": 596}
            | {"generator_every": 50},
            "the student's first update is at step 601 of 600",
        ),
        (
            {"stage": "dmd", "teacher": "t", "data": DataConfig(retell=True, return_weight=2.0)},
            "data.return_weight needs stage teacher_forcing",
        ),
        (
            {"stage": "ode_init", "teacher": "t", "data": DataConfig(chunks=1)},
            "data.chunks needs stage teacher_forcing or dmd",
        ),
        ({"data": DataConfig(max_bad_fraction=1.0)}, "max_bad_fraction must be .* less than 1"),
        ({"data": DataConfig(store="a,,b")}, "data.store names an empty path between commas"),
        ({"data": DataConfig(store=" ")}, "data.store names an empty path"),
        ({"held_out": HeldOutConfig(store=",")}, "held_out.store names an empty path"),
        (
            {"init": "m", "train_text_encoder": False, "lora": LoraConfig(rank=4)}
            | {"optim": OptimConfig(optimizer="muon")},
            "muon has no rule for adapters",
        ),
    ],
)
def test_settings_without_effect_or_end_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        TrainConfig(**changes)


def test_a_text_encoder_needs_buckets_for_both_directions():
    for sizes in ({"num_buckets": 2}, {"num_buckets": 64, "max_distance": 8}):
        with pytest.raises(UsageError, match="num_buckets must be from 4 to less than four times"):
            TextEncoderConfig(**sizes)


def test_a_wrong_key_ends_in_one_line_and_code_2():
    command = [
        sys.executable,
        "launch/train.py",
        "--config",
        "configs/base.py",
        "--config.stepps=3",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert done.stderr == "error: config: unknown key stepps, did you mean 'steps'?\n"


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
