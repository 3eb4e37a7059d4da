"""The benchmarks on networks that compile in no time: what they report fits together, and what cannot be measured is refused."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import pytest
from tiny_models import random_weights
from tiny_training import tiny_config

from causalcine_jax.benchmarks import bench as bench_module
from causalcine_jax.benchmarks import parts, streaming, targets
from causalcine_jax.benchmarks import training as training_module
from causalcine_jax.benchmarks.bench import bench
from causalcine_jax.benchmarks.report import table
from causalcine_jax.benchmarks.settings import NETWORKS, PARTS, Settings, network
from causalcine_jax.benchmarks.targets import PLATFORMS, TARGETS, Run, Target, measure_targets
from causalcine_jax.benchmarks.training import configs, stages
from causalcine_jax.config import PRESETS, MemoryConfig, Preset, VAEConfig
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.kv_cache import KVCache, slot_for
from causalcine_jax.models.nn import Linear
from causalcine_jax.parallel.flops import Films
from causalcine_jax.training.config import OptimConfig
from causalcine_jax.training.state import Update

ROOT = Path(__file__).parents[1]
ADAM = OptimConfig(schedule="constant", warmup=0)


@pytest.fixture
def tiny(monkeypatch):
    """Settings of a preset of two layers, whose VAE halves a film once in time and space; films of 16x8 pixels."""
    networks, vae = tiny_config(), VAEConfig(4, 16, (1, 1), 1, (True,), mean=(0.0,) * 16, std=(1.0,) * 16)
    sizes = Preset(networks.transformer, vae, networks.text_encoder, shift=3.0, guidance=2.0, negative="", height=8, width=16)
    of = lambda part: () if part == "tiny_decoder" else (getattr(sizes, part),)
    made = lambda settings, part: random_weights(lambda key: NETWORKS[part](*of(part), key=key), 0)
    monkeypatch.setitem(PRESETS, "tiny", sizes)
    for module in (streaming, parts):  # the networks' own programs take longer to compile than all that is measured
        monkeypatch.setattr(module, "network", made)
    return Settings("tiny", repeats=2, pool_frames=18, batch=1)


def test_a_film_streams_in_its_first_and_tenth_minute(tiny):
    result = streaming.streaming(tiny)
    assert result["pool"]["bytes"] == KVCache.empty(tiny.transformer, 1, 18, tiny.tokens).bytes
    for minute in ("minute_1", "minute_10"):
        times = {name: result[minute][name] for name in ("denoise", "commit", "decode", "together")}
        assert all(0 < spent["shortest"] <= spent["median"] <= times["together"]["longest"] for spent in times.values())
        assert result[minute]["fps"] == pytest.approx(6 / times["together"]["median"]) and result[minute]["memory"]["in_use"] > 0
    assert result["memory_late_over_early"] > 0
    assert result["first"]["prompt"]["median"] > 0 and result["sampler"]["evaluations"] == 4
    films = Films(tiny.transformer, MemoryConfig(), 1, 1601, tiny.tokens, 1)
    assert result["arithmetic"]["flop"] == (4 * films.noisy(1) + films.commits([1600])).forward
    with pytest.raises(UsageError, match="a pool of 15 frames is too small"):
        streaming.streaming(dataclasses.replace(tiny, pool_frames=15))


def test_the_pool_is_filled_as_a_film_leaves_it(tiny):
    class Committed:
        def __init__(self):
            self.pool = KVCache.empty(tiny.transformer, 1, tiny.pool_frames, 4)

        def given(self, context, index, latents):
            time = self.pool.time.at[slot_for(self.pool, jnp.int32(index), MemoryConfig())].set(index)
            self.pool = dataclasses.replace(self.pool, time=time)

    filled, film = Committed(), Committed()
    for number in range(40):
        film.given(None, number, None)
        if number in (2, 30):
            streaming._fill(filled, None, tiny, MemoryConfig(), number + 1)
            assert sorted(filled.pool.time.tolist()) == sorted(film.pool.time.tolist())


def test_attention_and_prompts(tiny):
    of_attention = parts.attention(tiny)
    assert of_attention["keys"] == 17 * tiny.tokens and set(of_attention["segments_1"]) == {"xla_cpu", "xla", "cudnn"}
    assert "bfloat16" in of_attention["segments_1"]["cudnn"]["cannot"]
    backward, forward = (of_attention["segments_1"]["xla_cpu"][name] for name in ("forward_and_backward", "forward"))
    assert backward["flop"] == 3 * forward["flop"] == 3 * 4 * 3 * 17 * tiny.tokens**2 * tiny.transformer.dim
    assert parts.text(tiny)["tokens"] == tiny.transformer.text_len
    assert network(tiny, "text_encoder").token_embedding.dtype == tiny.inference_dtype


def test_vae_and_the_whole_transformer(tiny):
    coded, whole = parts.vae(tiny), parts.forward(tiny)
    assert coded["frames"] == 6 and all(coded[name]["repeats"] == 2 for name in ("encode", "decode", "decode_first"))
    assert whole["tokens"] == 21 * tiny.tokens and whole["ours"]["flop_per_second"] > 0 and "diffusers" not in whole


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
    only = dataclasses.replace(settings, stages=("dmd",))
    assert [config.stage for config in configs(only)] == ["dmd"]
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


def test_what_cannot_be_measured_is_refused(tiny, monkeypatch, tmp_path):
    with pytest.raises(
        UsageError, match=r"width must be a multiple of 16, not 90 .*; unknown dtype 'float4'.*; repeats must be at least 1"
    ):
        Settings("storyworld", width=90, dtype="float4", repeats=0)
    with pytest.raises(UsageError, match="unknown stage 'dmt', did you mean 'dmd'"):
        Settings("storyworld", stages=("dmt",))
    with pytest.raises(UsageError, match=r"the tiny decoder decodes latents of Wan2\.1's shape"):
        dataclasses.replace(tiny, tiny_decoder=True)
    with pytest.raises(UsageError, match="unknown preset 'wan-15b'"):
        Settings("wan-15b")
    monkeypatch.setattr(bench_module, "PEERS", ("no_such_package",))
    with pytest.raises(UsageError, match=r"--peer needs no_such_package, .* pip install -e \"\.\[parity\]\""):
        bench(Settings("storyworld", peer=True), ("forward",), None, say=print)


def test_targets_are_held_against_records_and_gone_on_with(monkeypatch, tmp_path):
    asked, broken = [], {"text"}

    def in_process(part, settings, **environment):
        asked.append(part)
        if part in broken:
            raise DataError("out of memory")
        result = {"vae": {"decode": {"median": 0.25}}, "text": {"flop_per_second": 7e14}, "device": {}}[part]
        return {"result": result, "device": {"platform": "cpu", "kind": "a chip", "count": 1}}

    monkeypatch.setattr(bench_module, "in_process", in_process)
    runs = (
        Run("eyes", ("vae",), {"preset": "storyworld"}, (Target("a chunk", "vae.decode.median", at_most=0.12, unit="s"),)),
        Run("words", ("text",), {"preset": "storyworld"}, (Target("a prompt", "text.flop_per_second", at_least=6e14, unit="FLOP/s"),)),
    )
    monkeypatch.setattr(targets, "in_process", in_process)
    monkeypatch.setitem(TARGETS, "a chip", runs)
    monkeypatch.setitem(PLATFORMS, "a chip", "cpu")
    measured = lambda: measure_targets("a chip", tmp_path, str(ROOT / "configs"), lambda line: None)
    with pytest.raises(DataError, match="words: text could not be measured"):
        measured()
    rows = (tmp_path / "targets.md").read_text().splitlines()
    assert "| a chunk | ≤ 120 ms | 250 ms | not met | eyes |" in rows and "| a prompt | ≥ 600 TFLOP/s | | | words |" in rows
    broken.clear()
    table = measured()
    assert asked == ["device", "vae", "text", "device", "text"]
    assert "| a prompt | ≥ 600 TFLOP/s | 700 TFLOP/s | met | words |" in table and "1 x a chip" in table
    (tmp_path / "eyes.json").write_text("{")
    with pytest.raises(DataError, match=r"eyes.json is no record of bench.py .* delete it"):
        measured()
    with pytest.raises(UsageError, match="the targets for h200 are measured on a gpu, and jax computes on a cpu here"):
        measure_targets("h200", tmp_path, str(ROOT / "configs"), print)


def test_every_target_is_a_number_of_its_run():
    for run in (run for runs in TARGETS.values() for run in runs):
        Settings(**run.settings)
        assert set(run.parts) <= set(PARTS) and all(target.number.split(".")[0] in run.parts for target in run.targets)
        assert all((target.at_least is None) != (target.at_most is None) for target in run.targets)
    assert all(len({run.name for run in runs}) == len(runs) for runs in TARGETS.values())
    with pytest.raises(UsageError, match="no targets for 'h100', did you mean 'h200'"):
        measure_targets("h100", Path("nowhere"), "configs", print)
