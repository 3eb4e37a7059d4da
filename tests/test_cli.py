"""What every command tells jax before it starts: how much of a GPU's memory to take."""

import pytest
from jaxlib import xla_client

from causalcine_jax.cli import run
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
