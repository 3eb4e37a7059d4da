"""Tests that need a GPU compile as commands do, and all others quickly, on the CPU."""

import os

import pytest
from compile_settings import QUICKLY, gpu_alone, set_up

from causalcine_jax.utils.compiler import tune_compiler


@pytest.mark.parametrize("words", [["-m", "gpu"], ["-q", "-mgpu", "tests/models/test_gpu.py"]])
def test_gpu_tests_compile_as_commands_do(words, monkeypatch):
    for name in ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_OPTIMIZATION_LEVEL"):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    set_up(words)
    assert os.environ["XLA_FLAGS"] == "--xla_gpu_force_conv_nhwc=true"
    assert os.environ["JAX_OPTIMIZATION_LEVEL"] == "O1" and "JAX_PLATFORMS" not in os.environ


@pytest.mark.parametrize("words", [[], ["-m", "not gpu"], ["tests/models/test_gpu.py"]])
def test_other_tests_compile_quickly_on_the_cpu(words, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    for name in ("JAX_PLATFORMS", "JAX_OPTIMIZATION_LEVEL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    set_up(words)
    assert not gpu_alone(words) and os.environ["JAX_PLATFORMS"] == "cpu"
    flags, level = os.environ["XLA_FLAGS"], os.environ["JAX_OPTIMIZATION_LEVEL"]
    assert flags.startswith(f"--xla_dump_to=here {QUICKLY}") and level == "UNKNOWN"
    tune_compiler()  # a test that runs a command changes nothing: one program has one key
    assert (os.environ["XLA_FLAGS"], os.environ["JAX_OPTIMIZATION_LEVEL"]) == (flags, level)
