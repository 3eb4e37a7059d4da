"""Exact resume: a run is killed with TERM and with KILL at random steps.

It writes the loss curve of an undisturbed run, bit for bit. What is killed are processes; the
undisturbed run and the last part are made in this one.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from repository import ROOT
from tiny_training import tiny_store

from causalcine_jax.cli import cores
from causalcine_jax.convert import load_transformer
from causalcine_jax.training.flags import parse
from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import read_records

STEPS = 60
TIMES = ("films_per_s", "step_s", "data_wait_s")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    tiny_store(folder / "store")
    return folder


def arguments(runs: Path, out: str) -> list[str]:
    overrides = {
        "out": runs / out,
        "data.store": runs / "store",
        "steps": STEPS,
        "log_every": 1,
        "checkpoint.every": 11,
        "optim.warmup": 5,
        "optim.lr": 1e-2,
    }
    config = "--config=tests/support/tiny_training.py"
    return [config, *(f"--config.{name}={value}" for name, value in overrides.items())]


def start(runs: Path, out: str) -> subprocess.Popen:
    """The command, with this process's devices and threads: they decide how sums are rounded."""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=1",
        "NPROC": os.environ.get("NPROC", str(len(cores()))),
    }
    return subprocess.Popen(
        [sys.executable, "launch/train.py", *arguments(runs, out)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(runs: Path, out: str, after: int, number: int) -> tuple[int, str]:
    """Runs until a record of step `after` is written, then sends the signal.

    Returns exit code and stderr.
    """
    process, file = start(runs, out), runs / out / "metrics.jsonl"
    while process.poll() is None:
        if file.exists() and file.read_bytes().count(b"\n") >= after:
            process.send_signal(number)
            break
        time.sleep(0.002)
    _, errors = process.communicate(timeout=1200)
    return process.returncode, errors


def curve(out: Path) -> list[str]:
    return [
        json.dumps({name: value for name, value in record.items() if name not in TIMES})
        for record in read_records(out / "metrics.jsonl")
    ]


def test_the_loss_curve_is_that_of_the_uninterrupted_run(runs, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    config = lambda out: parse(arguments(runs, out))[0]
    train(config("whole"))
    first, second = sorted(random.sample(range(5, STEPS - 30), 2))
    code, errors = interrupt(runs, "parts", first, signal.SIGTERM)
    assert code == 75 and "stopped and saved at step" in errors, errors
    code, errors = interrupt(runs, "parts", second + 5, signal.SIGKILL)
    assert code == -signal.SIGKILL and "resumed at step" in errors, errors
    capsys.readouterr()
    train(config("parts"))
    assert "resumed at step" in capsys.readouterr().err
    assert len(curve(runs / "whole")) == STEPS
    assert curve(runs / "parts") == curve(runs / "whole"), (
        f"interrupted after steps {first} and {second + 5}"
    )
    weights = [
        (runs / out / "model" / "transformer" / "diffusion_pytorch_model.safetensors").read_bytes()
        for out in ("whole", "parts")
    ]
    assert weights[0] == weights[1]
    assert load_transformer(runs / "parts" / "model").config.dim == 24
    losses = [json.loads(line)["loss"] for line in curve(runs / "whole")]
    assert sum(losses[-20:]) < 0.95 * sum(losses[:20])
