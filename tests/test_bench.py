"""The benchmarks on networks that compile in no time: what they report fits together, and what cannot be measured is refused."""

import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from tiny_training import tiny_config

from causalcine_jax.benchmarks import bench as bench_module
from causalcine_jax.benchmarks import training as training_module
from causalcine_jax.benchmarks.bench import bench
from causalcine_jax.benchmarks.report import table
from causalcine_jax.benchmarks.settings import Settings
from causalcine_jax.benchmarks.training import configs, stages
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.nn import Linear
from causalcine_jax.training.config import OptimConfig
from causalcine_jax.training.state import Update

ROOT = Path(__file__).parents[1]
ADAM = OptimConfig(schedule="constant", warmup=0)


def linear_networks(config, null_prompt):
    """A stage's networks and updates, as linear maps of the films' channels."""
    net = lambda key: Linear(16, 16, key=key)
    loss = lambda trained, fixed, batch, key: (jnp.mean(next(iter(trained.values()))(batch["latents"]) ** 2), {})
    if config.stage == "teacher_forcing":
        return {"transformer": net}, {}, (Update(loss, ("transformer",), config.optim),)
    generator = Update(loss, ("student",), config.optim, "generator", config.generator_every)
    return {"student": net, "fake_score": net}, {"teacher": net}, (generator, Update(loss, ("fake_score",), config.critic_optim, "critic"))


def test_a_cycle_is_held_against_the_rate_of_stage_1(monkeypatch):
    monkeypatch.setattr(training_module, "_networks", linear_networks)
    dmd = tiny_config(stage="dmd", teacher="-", batch=2, optim=ADAM, critic_optim=ADAM, generator_every=2)
    result = stages([tiny_config(batch=2, optim=ADAM), dmd], (4, 4), repeats=2)
    first, cycle = result["teacher_forcing"], result["dmd"]
    assert first["flop_per_second"] == pytest.approx(first["flop"] / first["seconds"]["median"]) and first["mfu"] is None
    of = cycle["updates"]
    assert (of["generator"]["runs"], of["critic"]["runs"]) == (1, 2) and of["critic"]["seconds"]["repeats"] == 4
    assert cycle["flop"] == of["generator"]["flop"] + 2 * of["critic"]["flop"]
    spent = of["generator"]["seconds"]["mean"] + 2 * of["critic"]["seconds"]["mean"]
    assert cycle["seconds"]["mean"] == pytest.approx(spent)
    assert cycle["ratio"] == pytest.approx(spent * first["flop_per_second"] / cycle["flop"])
    assert cycle["bytes"]["together"] == max(update["bytes"]["together"] for update in of.values()) > cycle["bytes"]["held"] > 0


def test_the_measured_networks_are_those_of_the_configs():
    settings = Settings("storyworld-base", batch=2, configs=str(ROOT / "configs"))
    by_stage = {config.stage: config for config in configs(settings)}
    assert list(by_stage) == ["teacher_forcing", "ode_init", "dmd"] and all(config.batch == 2 for config in by_stage.values())
    made = {stage: training_module._networks(config, (1,)) for stage, config in by_stage.items()}
    named = {stage: (set(trained), set(fixed), [update.name for update in updates]) for stage, (trained, fixed, updates) in made.items()}
    assert named == {
        "teacher_forcing": ({"transformer", "text_encoder"}, set(), [""]),
        "ode_init": ({"student"}, {"text_encoder"}, [""]),
        "dmd": ({"student", "fake_score", "head"}, {"teacher", "text_encoder"}, ["generator", "critic"]),
    }


def test_a_record_names_what_was_measured_and_what_failed(monkeypatch, tmp_path):
    def in_process(part, settings, **environment):
        if part == "vae":
            raise DataError("out of memory")
        return {"result": {"decode": {"seconds": 2.0, "flop": 3e12}}, "device": {"platform": "cpu", "kind": "cpu", "count": 1}}

    monkeypatch.setattr(bench_module, "in_process", in_process)
    with pytest.raises(DataError, match="vae could not be measured"):
        bench(Settings("storyworld"), ("vae", "text", "start"), tmp_path / "bench.json", say=lambda line: None)
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["schema"] == "causalcine/benchmark@1" and record["device"]["platform"] == "cpu"
    assert set(record["software"]) >= {"jax", "commit"} and record["settings"]["height"] == 96
    assert record["parts"]["vae"] == {"failed": "out of memory"} and set(record["parts"]["start"]) >= {"cold", "with_compilation_cache"}
    lines = table(record).splitlines()
    assert "text  decode.seconds" in table(record) and any(line.endswith("3 TFLOP") for line in lines)


def test_what_cannot_be_measured_is_refused(monkeypatch, tmp_path):
    with pytest.raises(
        UsageError, match=r"width must be a multiple of 16, not 90 .*; unknown dtype 'float8'.*; repeats must be at least 1"
    ):
        Settings("storyworld", width=90, dtype="float8", repeats=0)
    with pytest.raises(UsageError, match="unknown preset 'wan-15b'"):
        Settings("wan-15b")
    monkeypatch.setattr(bench_module, "PEERS", ("no_such_package",))
    with pytest.raises(UsageError, match=r"--peer needs no_such_package, .* pip install -e \"\.\[parity\]\""):
        bench(Settings("storyworld", peer=True), ("forward",), None, say=print)
