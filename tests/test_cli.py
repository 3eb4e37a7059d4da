"""What every command tells jax before it starts: how much of a GPU's memory to take, and where to keep compiled programs."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache.compilation_cache import reset_cache
from jaxlib import xla_client

from causalcine_jax.cli import keep_compiled, run
from causalcine_jax.config import GPU_MEMORY
from causalcine_jax.parallel.targets import target

FRACTIONS = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


@pytest.mark.parametrize("said", [None, *FRACTIONS])
def test_jax_is_given_the_memory_that_plans_count_on_unless_the_user_says_otherwise(monkeypatch, said):
    for name in FRACTIONS:
        monkeypatch.setenv(name, "0.5")
        if name != said:
            monkeypatch.delenv(name)
    given = []
    with pytest.raises(SystemExit, match="0"):
        run(lambda: given.append(xla_client.generate_pjrt_gpu_plugin_options()["memory_fraction"]))
    assert given == [0.5 if said else GPU_MEMORY]
    assert target("h200:1x8").chip.memory == int(GPU_MEMORY * 151397597184)


def test_every_compiled_program_is_kept(tmp_path):
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.jit(lambda x: 2 * x + 1)(jnp.arange(7.0))  # one that was compiled earlier does not hinder
    keep_compiled(None)
    assert before == {name: getattr(jax.config, name) for name in names}
    try:
        keep_compiled(str(tmp_path / "programs"))
        jax.jit(lambda x: 3 * x + 1)(jnp.arange(7.0))
        assert any((tmp_path / "programs").iterdir())
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        reset_cache()
