"""Tests that need a GPU compile as commands do, and all others quickly, on the CPU."""

import os

import pytest
from compile_settings import QUICKLY, gpu_alone, set_up


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
    monkeypatch.setenv("JAX_PLATFORMS", "")
    monkeypatch.delenv("JAX_PLATFORMS")
    set_up(words)
    assert not gpu_alone(words) and os.environ["JAX_PLATFORMS"] == "cpu"
    assert os.environ["XLA_FLAGS"] == f"--xla_dump_to=here {QUICKLY}"
