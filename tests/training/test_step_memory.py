"""A step that does not fit in memory is refused before it runs; what fits runs as compiled."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from toy_stage import toy_config, toy_stage

from causalcine_jax.errors import UsageError
from causalcine_jax.training import step_memory
from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import read_records
from causalcine_jax.training.smaller_step import smaller_step
from causalcine_jax.training.step_memory import CheckedProgram, free_memory, working_bytes
from causalcine_jax.utils import machine_memory

pytestmark = pytest.mark.usefixtures("no_picture")


def with_memory(monkeypatch, needed, free):
    monkeypatch.setattr(step_memory, "working_bytes", lambda program: needed)
    monkeypatch.setattr(step_memory, "free_memory", lambda: free)


def test_a_step_that_does_not_fit_is_refused_before_it_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(step_memory, "free_memory", lambda: 10)
    accumulation = 4 // jax.device_count()
    with pytest.raises(
        UsageError,
        match=r"^out of memory: a step of teacher_forcing takes [\d,]+ bytes beside weights and "
        r"optimizer, and memory has 10 free: choose --config\.remat=True, "
        rf"--config\.segments_at_once=8, --config\.optim\.accumulation={accumulation}, "
        r"--config\.batch=N below 4, or smaller films \(data\.store\)$",
    ):
        train(toy_config(tmp_path), toy_stage())
    assert not read_records(tmp_path / "metrics.jsonl")
    assert not list((tmp_path / "checkpoints").iterdir())
    monkeypatch.undo()
    assert int(train(toy_config(tmp_path, batch=2), toy_stage(batch=2)).step) == 12  # as advised


def test_on_a_cpu_a_step_that_may_not_fit_is_tried_and_said(tmp_path, monkeypatch, capsys):
    with_memory(monkeypatch, needed=1250, free=1000)
    assert int(train(toy_config(tmp_path), toy_stage()).step) == 12
    said = capsys.readouterr().err
    assert said.count("memory may not suffice") == 1 and "takes 1,250 bytes" in said
    with_memory(monkeypatch, needed=1251, free=1000)
    with pytest.raises(UsageError, match=r"takes 1,251 bytes .* memory has 1,000 free"):
        train(toy_config(tmp_path / "more"), toy_stage())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # whose memory is ours alone
    with_memory(monkeypatch, needed=1001, free=1000)
    with pytest.raises(UsageError, match="out of memory"):
        train(toy_config(tmp_path / "gpu"), toy_stage())


@pytest.mark.parametrize(("needed", "free"), [(1000, 1000), (None, 1000), (1000, None)])
def test_what_fits_or_is_not_known_is_not_spoken_of(needed, free, tmp_path, monkeypatch, capsys):
    with_memory(monkeypatch, needed, free)
    assert int(train(toy_config(tmp_path, steps=4), toy_stage()).step) == 4
    assert "memory" not in capsys.readouterr().err


def test_the_checked_program_is_the_one_that_runs():
    jitted, compiled = jax.jit(lambda state, fixed, batch: state + batch, donate_argnums=0), []

    def lower(*arguments):
        compiled.append(arguments)
        return jitted.lower(*arguments)

    update = CheckedProgram(SimpleNamespace(lower=lower), "a step", toy_config("out"), print)
    state = jnp.zeros(3)
    for number in range(1, 4):
        state = update(state, None, jnp.full(3, 2.0))
        assert state.tolist() == [2.0 * number] * 3
    assert len(compiled) == 1 and jitted._cache_size() == 0


def test_a_vae_is_not_advised_to_read_smaller_films(monkeypatch):
    with_memory(monkeypatch, needed=1000, free=10)
    config = toy_config("out", stage="autoencoder")
    program = CheckedProgram(jax.jit(lambda *all: all), "a step", config, print)
    with pytest.raises(UsageError) as caught:
        program.compile(jnp.zeros(3), None, jnp.zeros(3))
    assert str(caught.value).endswith("clip_frames=N, or --config.batch=N below 4")


def test_the_bytes_are_those_of_what_a_program_makes_and_drops():
    rows = 512
    program = jax.jit(lambda x: (x @ x.T) @ x).lower(jnp.ones((rows, 8))).compile()
    product = rows * rows * 4
    devices = len(jax.local_devices())
    result = rows * 8 * 4
    assert working_bytes(program) / devices == pytest.approx(product + result, rel=0.01)
    donated = jax.jit(lambda x: x + 1, donate_argnums=0).lower(jnp.ones((rows, rows))).compile()
    assert working_bytes(donated) < product / 10


def test_free_memory_of_a_machine_and_of_its_fullest_device(tmp_path, monkeypatch):
    assert free_memory() > 2**20
    monkeypatch.setattr(machine_memory, "ROOT", tmp_path)
    assert free_memory() is None
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal:  900 kB\nMemFree:  1 kB\nMemAvailable:  100 kB\nSwapFree:  20 kB\n"
    )
    assert free_memory() == 120 * 1024
    stats = [{"bytes_limit": 100, "bytes_in_use": used} for used in (30, 60)]
    devices = [SimpleNamespace(memory_stats=lambda each=each: each) for each in (*stats, None)]
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: devices[:2])
    assert free_memory() == 40
    monkeypatch.setattr(jax, "local_devices", lambda: devices[2:])
    assert free_memory() is None


def test_a_small_config_and_other_stages_have_other_fields():
    config = toy_config("out", remat=True, remat_layers=2, segments_at_once=1, batch=1)
    assert smaller_step(config, devices=1) == {}
    pictures = replace(config, stage="autoencoder")
    assert list(smaller_step(pictures, 1)) == [
        "--config.autoencoder.crop=(H,W)",
        "--config.data.clip_frames=N",
    ]
