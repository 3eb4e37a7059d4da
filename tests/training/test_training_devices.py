"""Training over several devices (made of one CPU) equals training on one, to rounding.

A checkpoint of four devices continues on one.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from repository import ROOT
from toy_stage import toy_config, toy_stage

from causalcine_jax.training.loop import train
from causalcine_jax.training.metrics import read_records

ON_FOUR = """
import sys
import jax
from causalcine_jax.parallel import sharding
from causalcine_jax.training.loop import train
from toy_stage import toy_config, toy_stage

sharding.SMALLEST_SHARDED = 1
state = train(toy_config(sys.argv[1], steps=6, log_every=1), toy_stage())
for leaf in jax.tree.leaves((state.params, state.ema, state.opt_state)):
    part = leaf.size // 4 if leaf.ndim == 2 else leaf.size
    assert leaf.addressable_shards[0].data.size == part, leaf.sharding
"""


def losses(out: Path) -> np.ndarray:
    return np.array([record["loss"] for record in read_records(out / "metrics.jsonl")])


def test_four_devices_train_as_one_and_one_goes_on_for_four(tmp_path):
    environment = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}",
    }
    done = subprocess.run(
        [sys.executable, "-c", ON_FOUR, str(tmp_path / "moved")],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    train(toy_config(tmp_path / "alone", steps=6, log_every=1), toy_stage())
    for name in ("alone", "moved"):
        train(toy_config(tmp_path / name, steps=12, log_every=1), toy_stage())
    alone, moved = losses(tmp_path / "alone"), losses(tmp_path / "moved")
    assert len(alone) == len(moved) == 12
    np.testing.assert_allclose(moved, alone, rtol=1e-5)
