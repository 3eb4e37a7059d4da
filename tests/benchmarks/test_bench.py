"""The benchmarks on networks that compile in no time.

Their results must be consistent, and what cannot be measured is refused.
"""

import dataclasses
import json
import shutil
import subprocess
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from repository import ROOT
from tiny_models import random_weights
from tiny_training import tiny_config

from benchmarks import bench as bench_module
from benchmarks import command_line, parts, random_model, streaming, timing
from benchmarks import training as training_module
from benchmarks.bench import bench, faults, in_process
from benchmarks.film import TINY_DECODER, fill, frames_missing, new_film
from benchmarks.flops import FilmFlops
from benchmarks.report import table
from benchmarks.settings import SIZED, Settings, network
from benchmarks.start import first_chunk
from benchmarks.training import configs, stages
from causalcine_jax.config import MemoryConfig
from causalcine_jax.convert import load_tiny_decoder
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.state import RolloutState
from causalcine_jax.models.cache.eviction import slot_for
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.nn import Linear
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.tiny_decoder import TinyDecoder
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.presets import PRESETS, Preset
from causalcine_jax.training.config import OptimConfig
from causalcine_jax.training.stages.spec import StageSpec, stage_spec
from causalcine_jax.training.state import Update
from causalcine_jax.utils.output import one_file_writer, one_writer

ADAM = OptimConfig(schedule="constant", warmup=0)


@pytest.fixture
def tiny(monkeypatch):
    """Settings of a preset of two layers, with films of 32x16 pixels.

    Its VAE halves a film twice in time and in space.
    """
    networks, vae = (
        tiny_config(),
        VAEConfig(4, 16, (1, 1, 1), 1, (True, True), mean=(0.0,) * 16, std=(1.0,) * 16),
    )
    sizes = Preset(
        networks.transformer,
        vae,
        networks.text_encoder,
        shift=3.0,
        guidance=2.0,
        negative="",
        height=16,
        width=32,
    )
    of = lambda kind: (getattr(sizes, SIZED[kind]),) if kind in SIZED else ()
    made = lambda settings, kind: random_weights(lambda key: kind(*of(kind), key=key), 0)
    monkeypatch.setitem(PRESETS, "tiny", sizes)
    # The networks' own initialisers take longer to compile than all that is measured.
    for module in (random_model, parts):
        monkeypatch.setattr(module, "network", made)
    return Settings("tiny", repeats=2, pool_frames=18, batch=1)


def test_a_film_streams_in_its_first_and_tenth_minute(tiny, tmp_path, monkeypatch):
    result = streaming.streaming(tiny)
    assert result["pool"]["bytes"] == KVCache.empty(tiny.transformer, 1, 18, tiny.tokens).bytes
    for minute in ("minute_1", "minute_10"):
        times = {name: result[minute][name] for name in ("denoise", "commit", "decode", "together")}
        assert all(
            0 < spent["shortest"] <= spent["median"] <= times["together"]["longest"]
            for spent in times.values()
        )
        assert (
            result[minute]["fps"] == pytest.approx(12 / times["together"]["median"])
            and result[minute]["memory"]["in_use"] > 0
        )
    assert (
        0
        < result["late_over_early_least"]
        <= result["late_over_early"]
        <= result["late_over_early_most"]
    )
    assert result["memory_late_over_early"] > 0 and result["enqueued"]["seconds"]["repeats"] == 2
    assert result["first"]["prompt"]["median"] > 0 and result["sampler"]["evaluations"] == 4
    assert result["weights"]["bytes"].keys() == {"transformer", "vae", "text_encoder"}
    films = FilmFlops(tiny.transformer, MemoryConfig(), 1, 1601, tiny.tokens, 1)
    assert result["arithmetic"]["flop"] == (4 * films.noisy(1) + films.commits([1600])).forward
    with pytest.raises(UsageError, match="a pool of 15 frames is too small"):
        streaming.streaming(dataclasses.replace(tiny, pool_frames=15))

    # A start reads a model folder; its programs are the ones above.
    files = random_model.model_folder(tiny, str(tmp_path / "model"))
    weights = sum(
        leaf.nbytes for kind in SIZED for leaf in jax.tree.leaves(random_model.network(tiny, kind))
    )
    assert random_model.folder_bytes(tiny) == weights < files[
        "bytes"
    ] < weights + 100_000 and files["page_cache"].startswith("warm")
    seconds = first_chunk(tiny, str(tmp_path / "model"), started=time.time() - 1)["seconds"]
    assert (
        list(seconds) == ["import", "networks", "prompt", "first_chunk", "together"]
        and seconds["import"] >= 1
    )
    assert sum(seconds.values()) == pytest.approx(2 * seconds["together"])
    monkeypatch.setattr(
        shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6, weights)
    )
    with pytest.raises(
        DataError,
        match=r"GB must first be written to .*other, and only .* GB are free there; free some",
    ):
        random_model.model_folder(tiny, str(tmp_path / "other" / "model"))


def test_a_tiny_decoder_is_read_back_as_it_was_written(tmp_path):
    net = random_weights(lambda key: TinyDecoder(key=key), 0)
    random_model._save_tiny_decoder(net, tmp_path / TINY_DECODER)
    read = load_tiny_decoder(tmp_path / TINY_DECODER)
    assert all(
        bool((a == b).all())
        for a, b in zip(jax.tree.leaves(net), jax.tree.leaves(read), strict=True)
    )


def test_two_films_take_turns_in_one_pool(tiny):
    film = new_film(random_model.random_model(tiny), dataclasses.replace(tiny, pool_on="host"))

    def place(chunk, times):
        """Of a film whose copied frames and descriptors are all `chunk`."""
        pool, same = film.state.cache, lambda a: a.at[:].set(chunk)
        cache = dataclasses.replace(
            pool,
            chunk=jnp.asarray(times),
            descriptors=same(pool.descriptors),
            copies=jax.tree.map(same, pool.copies),
        )
        film.state = dataclasses.replace(film.state, cache=cache, chunk=chunk)
        return film.position

    places = {80: [0, 1, 77, 78, 79, 76], 100: [0, 1, 98, 99, 96, 97]}
    for film_place in [place(chunk, times) for chunk, times in places.items()]:
        film.go_to(film_place)
        assert film.position.held.tolist() == places[film.state.chunk]
        assert all(
            (np.asarray(leaf) == film.state.chunk).all()
            for leaf in jax.tree.leaves((film.state.cache.descriptors, film.state.cache.copies))
        )
    film.forget()
    assert film.state.cache.copies.frame.max() == film.state.cache.chunk.max() == -1
    # Of two layers the first brings over 7, the second 3 and 9; -1 is nothing.
    assert (
        frames_missing(
            np.array([[[5, 7, -1]], [[9, 3, 6]]]), np.array([[[5, 6, -1]], [[5, 6, -1]]])
        )
        == 1.5
    )


def test_the_pool_is_filled_as_a_film_leaves_it(tiny):
    class Committed:
        def __init__(self):
            self.seen, self.state = set(), RolloutState(None, None, 0, jax.random.key(0))
            self.forget()

        def forget(self):
            self.pool = KVCache.empty(tiny.transformer, 1, tiny.pool_frames, 4)

        def chunk(self, context, latents):
            index = self.state.chunk
            self.seen.add((index, 0 if latents is None else float(np.asarray(latents).sum())))
            slot = slot_for(self.pool, jnp.int32(index), MemoryConfig())
            self.pool = dataclasses.replace(self.pool, chunk=self.pool.chunk.at[slot].set(index))

    filled, film = Committed(), Committed()
    for number in range(40):
        film.state = dataclasses.replace(film.state, chunk=number)
        film.chunk(None, None)
        if number in (2, 30):
            fill(filled, None, tiny, MemoryConfig(), number + 1)
            assert sorted(filled.pool.chunk.tolist()) == sorted(film.pool.chunk.tolist())
    chunks, sums = zip(*filled.seen, strict=True)
    assert len(set(sums)) == len(set(chunks)) == len(filled.seen)  # all chunks' latents differ


def test_attention_and_prompts(tiny):
    of_attention = parts.attention(tiny)
    assert of_attention["keys"] == 17 * tiny.tokens and set(of_attention["segments_1"]) == {
        "own_kernel",
        "xla_cpu",
        "xla",
        "cudnn",
    }
    assert "bfloat16" in of_attention["segments_1"]["cudnn"]["cannot"]
    backward, forward = (
        of_attention["segments_1"]["xla_cpu"][name] for name in ("forward_and_backward", "forward")
    )
    assert (
        backward["flop"]
        == 3 * forward["flop"]
        == 3 * 4 * 3 * 17 * tiny.tokens**2 * tiny.transformer.dim
    )
    assert parts.text(tiny)["tokens"] == tiny.transformer.text_len
    assert network(tiny, UMT5Encoder).token_embedding.dtype == tiny.inference_dtype


def test_vae_and_the_whole_transformer(tiny):
    coded, whole = parts.vae(tiny), parts.forward(tiny)
    assert coded["frames"] == 12 and all(
        coded[name]["repeats"] == 2 for name in ("encode", "decode", "decode_first")
    )
    assert (
        whole["tokens"] == 21 * tiny.tokens
        and whole["ours"]["flop_per_second"] > 0
        and "diffusers" not in whole
    )


def linear_stage(config, null_prompt):
    """A stage whose networks are linear maps of the films' channels."""
    net = lambda key: Linear(16, 16, key=key)
    loss = lambda trained, fixed, batch, key: (
        jnp.mean(next(iter(trained.values()))(batch["latents"]) ** 2),
        {},
    )
    if config.stage == "teacher_forcing":
        return StageSpec({"transformer": net}, {}, (Update(loss, ("transformer",), config.optim),))
    generator = Update(loss, ("student",), config.optim, "generator", config.generator_every)
    return StageSpec(
        {"student": net, "fake_score": net},
        {"teacher": net},
        (generator, Update(loss, ("fake_score",), config.critic_optim, "critic")),
        exported=("student",),
    )


def test_a_cycle_is_held_against_the_rate_of_stage_1(monkeypatch):
    monkeypatch.setattr(training_module, "stage_spec", linear_stage)
    dmd = tiny_config(
        stage="dmd", teacher="-", batch=2, optim=ADAM, critic_optim=ADAM, generator_every=2
    )
    result = stages([tiny_config(batch=2, optim=ADAM), dmd], (4, 4), repeats=2)
    first, cycle = result["teacher_forcing"], result["dmd"]
    assert (
        first["flop_per_second"] == pytest.approx(first["flop"] / first["seconds"]["median"])
        and first["mfu"] is None
    )
    of = cycle["updates"]
    assert (of["generator"]["runs"], of["critic"]["runs"]) == (1, 2) and of["critic"]["seconds"][
        "repeats"
    ] == 4
    assert cycle["flop"] == of["generator"]["flop"] + 2 * of["critic"]["flop"]
    spent = of["generator"]["seconds"]["mean"] + 2 * of["critic"]["seconds"]["mean"]
    assert cycle["seconds"]["mean"] == pytest.approx(spent)
    assert cycle["ratio"] == pytest.approx(spent * first["flop_per_second"] / cycle["flop"])
    assert (
        cycle["bytes"]["together"]
        == max(update["bytes"]["together"] for update in of.values())
        > cycle["bytes"]["held"]
        > 0
    )


def test_a_program_that_is_on_disk_counts_as_loaded_not_compiled(monkeypatch):
    shortest = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, shortest)
    jax.config.update(shortest, 0)  # the tests keep compiled programs, if they took long enough
    compiled = lambda: jax.jit(lambda x: x * 17.25 - 3).lower(jnp.ones(7)).compile()
    compiled()
    known = timing.programs_loaded()
    compiled()
    jax.config.update(shortest, before)
    assert timing.programs_loaded() == known + 1
    monkeypatch.setattr(training_module, "stage_spec", linear_stage)
    config = tiny_config(batch=2, optim=ADAM)
    stages([config], (4, 4), repeats=1)
    again = stages([config], (4, 4), repeats=1)["teacher_forcing"]
    assert again["programs_loaded"] >= 1


def test_the_measured_networks_are_those_of_the_configs():
    settings = Settings("storyworld-base", batch=2, configs=str(ROOT / "configs"))
    by_stage = {config.stage: config for config in configs(settings)}
    assert list(by_stage) == ["teacher_forcing", "ode_init", "dmd"] and all(
        config.batch == 2 for config in by_stage.values()
    )
    only = dataclasses.replace(settings, stages=("dmd",))
    assert [config.stage for config in configs(only)] == ["dmd"]
    specs = {stage: stage_spec(config, (1,)) for stage, config in by_stage.items()}
    named = {
        stage: (set(spec.trained), set(spec.fixed), [update.name for update in spec.updates])
        for stage, spec in specs.items()
    }
    assert named == {
        "teacher_forcing": ({"transformer", "text_encoder"}, set(), [""]),
        "ode_init": ({"student"}, {"text_encoder"}, [""]),
        "dmd": (
            {"student", "fake_score", "head"},
            {"teacher", "text_encoder"},
            ["generator", "critic"],
        ),
    }


def test_a_rate_is_held_against_the_devices_and_the_dtype_that_it_used(monkeypatch):
    class H200:
        device_kind = "NVIDIA H200"

    monkeypatch.setattr(timing.jax, "devices", lambda: [H200] * 8)
    mfu = lambda *how: timing.rates(989e12, 2.0, *how)["mfu"]
    assert mfu("bfloat16") == 0.5 and mfu("bfloat16", 4) == 0.125
    assert mfu("float8") == pytest.approx(0.25, rel=1e-3) and mfu("float32") is None


def test_a_record_names_what_was_measured_and_what_failed(monkeypatch, tmp_path):
    def in_process(part, settings, environment=None, **given):
        if part in broken:
            raise broken[part]
        result = {
            "decode": {"seconds": 2.0, "flop": 3e12},
            **({"folder": given["folder"]} if given else {}),
        }
        return {"result": result, "device": {"platform": "cpu", "kind": "cpu", "count": 1}}

    broken = {"vae": DataError("out of memory"), "forward": UsageError("no such size")}
    monkeypatch.setattr(bench_module, "in_process", in_process)
    (tmp_path / bench_module.START / "model").mkdir(parents=True)  # left by a killed start
    kept = []
    keep = lambda record: kept.append((list(record["parts"]), record.get("unfinished")))
    record = bench(
        Settings("storyworld"),
        ("vae", "text", "forward", "start"),
        tmp_path,
        lambda line: None,
        keep,
    )
    assert kept[0] == (["vae"], ["text", "forward", "start"]) and kept[-1] == (
        ["vae", "text", "forward", "start"],
        None,
    )
    assert faults(record) == ["vae failed: out of memory", "forward refused: no such size"]
    assert record["schema"] == "causalcine/benchmark@1" and record["device"]["platform"] == "cpu"
    assert set(record["software"]) >= {"jax", "commit"} and record["settings"]["height"] == 96
    of_start = record["parts"]["start"]
    assert set(of_start) >= {"files", "cold", "with_compilation_cache"} and not list(
        tmp_path.iterdir()
    )
    assert (
        of_start["files"]["folder"] == of_start["cold"]["folder"]
        and Path(of_start["cold"]["folder"]).parents[1] == tmp_path
    )
    bench_module.write(record, tmp_path / "bench.json")
    assert json.loads((tmp_path / "bench.json").read_text()) == record
    lines = table(record).splitlines()
    assert "text  decode.seconds" in table(record) and any(
        line.endswith("3 TFLOP") for line in lines
    )
    assert "out of memory" in table(record)


def test_the_files_of_another_start_are_left_alone(tmp_path):
    folder = tmp_path / bench_module.START
    (folder / "model").mkdir(parents=True)
    with one_writer(folder, beside=True):
        with pytest.raises(UsageError, match=r"\.bench\.start is being written by process"):
            bench_module.start(Settings("storyworld"), tmp_path)
        assert (folder / "model").exists()


def test_a_record_has_one_writer(tmp_path):
    file, folder = tmp_path / "bench.json", tmp_path / "targets"
    asked = {file: ["vae", "--preset", "storyworld"], folder: ["--targets", "cpu"]}
    with one_file_writer(file), one_writer(folder):
        for out, words in asked.items():
            with pytest.raises(UsageError, match=f"{out.name} is being written by process"):
                command_line.main([*words, "--out", str(out)])


@pytest.mark.parametrize(
    "code, stderr, error, reason",
    [
        (
            2,
            "a warning\nerror: a pool of 15 frames is too small\n",
            UsageError,
            "a pool of 15 frames is too small",
        ),
        (
            1,
            "Traceback ...\nerror: XlaRuntimeError: RESOURCE_EXHAUSTED\na last word\n",
            DataError,
            "XlaRuntimeError: RESOURCE_EXHAUSTED",
        ),
        (
            -9,
            "a warning\n",
            DataError,
            "its process was ended by signal 9 (Killed), as happens if memory runs out",
        ),
        (1, "", DataError, "its process ended with code 1"),
    ],
)
def test_why_a_process_failed_is_one_line(monkeypatch, capfd, code, stderr, error, reason):
    monkeypatch.setattr(
        subprocess,
        "run",
        lambda command, **how: subprocess.CompletedProcess(command, code, stderr=stderr),
    )
    with pytest.raises(error) as failed:
        in_process("text", Settings("storyworld"))
    assert str(failed.value) == reason


def test_what_cannot_be_measured_is_refused(tiny):
    with pytest.raises(
        UsageError,
        match=r"width must be a positive multiple of 16 pixels, not 90 .*; "
        r"unknown dtype 'float4'.*; repeats must be at least 1",
    ):
        Settings("storyworld", width=90, dtype="float4", repeats=0)
    with pytest.raises(UsageError, match="unknown stage 'dmt', did you mean 'dmd'"):
        Settings("storyworld", stages=("dmt",))
    with pytest.raises(UsageError, match=r"the tiny decoder decodes latents of Wan2\.1's shape"):
        dataclasses.replace(tiny, tiny_decoder=True)
    with pytest.raises(UsageError, match="unknown preset 'wan-15b'"):
        Settings("wan-15b")
    with pytest.raises(UsageError, match="the peers have no float8"):
        Settings("storyworld", dtype="float8", peer=True)
