"""XLA's settings are the same for every command, and what the environment says comes first."""

import os

from causalcine_jax.utils.compiler import FLAGS, LEVEL, tune_compiler


def test_settings_are_added_to_what_the_environment_says(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=here")
    monkeypatch.delenv("JAX_OPTIMIZATION_LEVEL", raising=False)
    tune_compiler()
    once = os.environ["XLA_FLAGS"]
    tune_compiler()
    assert once == os.environ["XLA_FLAGS"] == "--xla_dump_to=here --xla_gpu_force_conv_nhwc=true"
    assert os.environ["JAX_OPTIMIZATION_LEVEL"] == LEVEL and set(FLAGS) == {
        "xla_gpu_force_conv_nhwc"
    }
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_force_conv_nhwc=false")
    monkeypatch.setenv("JAX_OPTIMIZATION_LEVEL", "O0")
    tune_compiler()
    assert (
        os.environ["XLA_FLAGS"].endswith("=false") and os.environ["JAX_OPTIMIZATION_LEVEL"] == "O0"
    )
