"""Exact resume: a run is killed with TERM and with KILL at random steps.

It writes the loss curve of an undisturbed run, bit for bit. All parts are processes; `make test`
makes the undisturbed run in this one, on one device. `make slow` makes it a process, too: then the
command splits the CPU into as many devices as it does for users.
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
        "data.store": runs.parent / "store",
        "steps": STEPS,
        "log_every": 1,
        "checkpoint.every": 11,
        "optim.warmup": 5,
        "optim.lr": 1e-2,
    }
    config = "--config=tests/support/tiny_training.py"
    return [config, *(f"--config.{name}={value}" for name, value in overrides.items())]


def start(runs: Path, out: str, device: bool) -> subprocess.Popen:
    """The command. `device`: with this process's devices and threads, which decide rounding."""
    one = " --xla_force_host_platform_device_count=1" if device else ""
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
        "XLA_FLAGS": os.environ["XLA_FLAGS"] + one,
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


def interrupt(process: subprocess.Popen, file: Path, after: int, number: int) -> tuple[int, str]:
    """Runs until a record of step `after` is written, then sends the signal.

    Returns exit code and stderr.
    """
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


def finish(process: subprocess.Popen) -> str:
    """The stderr of a run that ends as it should."""
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    return errors


@pytest.mark.parametrize("device", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_loss_curve_is_that_of_the_uninterrupted_run(runs, device, monkeypatch):
    monkeypatch.chdir(ROOT)
    runs = runs / ("one" if device else "as_users")
    if device:
        train(parse(arguments(runs, "whole"))[0])
    else:
        finish(start(runs, "whole", device))
    first, second = sorted(random.sample(range(5, STEPS - 30), 2))
    parts = lambda: start(runs, "parts", device)
    told = runs / "parts" / "metrics.jsonl"
    code, errors = interrupt(parts(), told, first, signal.SIGTERM)
    assert code == 75 and "stopped and saved at step" in errors, errors
    code, errors = interrupt(parts(), told, second + 5, signal.SIGKILL)
    assert code == -signal.SIGKILL and "resumed at step" in errors, errors
    assert "resumed at step" in finish(parts())
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
