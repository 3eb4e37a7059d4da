"""What each of two processes, with two devices each, runs for test_save_processes.py.

Saves a transformer that is sharded over all four devices, and prints what came to this host.

    python tests/support/as_two_savers.py MODEL OUT
"""

import json
import sys

import jax.numpy as jnp
from jax.experimental import multihost_utils

from causalcine_jax.cli import run
from causalcine_jax.convert import load_transformer, save, save_model
from causalcine_jax.parallel import sharding
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.parallel.processes import joined
from causalcine_jax.parallel.sharding import gather_to_first


def main() -> None:
    sharding.SMALLEST_SHARDED = 1
    model, out = sys.argv[1:]
    copied = []

    def recorded(*arguments):
        part = gather_to_first(*arguments)
        copied.append(None if part is None else [str(part.dtype), part.ndim])
        return part

    with joined():
        transformer = load_transformer(model, mesh=make_mesh())
        save.gather_to_first = recorded
        multihost_utils.process_allgather = None  # it copies to every host
        save_model(out, transformer=transformer, dtype=jnp.bfloat16)
        print(json.dumps(copied), flush=True)


if __name__ == "__main__":
    run(main)
