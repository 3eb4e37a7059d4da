"""What each of two processes, with two devices each, runs for test_processes.py.

Trains a toy, which a signal to the second process stops, and resumes it.
Then the two processes ask for different configs.

    python tests/support/as_two_processes.py OUT
"""

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np
from toy_stage import OPTIM, toy_batches, toy_config, toy_stage

from causalcine_jax.cli import run
from causalcine_jax.parallel import sharding
from causalcine_jax.parallel.gathering import gather_to_host
from causalcine_jax.parallel.mesh import make_mesh, own_part
from causalcine_jax.parallel.processes import is_first, joined
from causalcine_jax.training.loop import train


class OwnPart:
    """This process's films of the toy's batches."""

    def __init__(self, signal_at: int | None):
        # Training only looks at the first batch, so counting starts at -1.
        self._batches, self._taken, self._signal_at = toy_batches(4), -1, signal_at

    def __next__(self):
        self._taken += 1
        if self._taken == self._signal_at and not is_first():
            os.kill(os.getpid(), signal.SIGTERM)
        index, count = own_part(make_mesh())
        return {name: np.split(array, count)[index] for name, array in next(self._batches).items()}

    def __getattr__(self, name):
        return getattr(self._batches, name)


def main() -> None:
    sharding.SMALLEST_SHARDED = 1
    out = Path(sys.argv[1])

    def export(nets, folder, facts) -> None:
        weights = gather_to_host(nets["net"].weight[...])
        if is_first():
            np.save(out / "weights.npy", weights)

    with joined():
        steps = []
        for signal_at in (5, None):  # while the second process fetches that batch
            stage = dataclasses.replace(toy_stage(), batches=OwnPart(signal_at), export=export)
            state = train(toy_config(out, log_every=1), stage)
            steps.append(int(state.step))
            assert state.params["net"].weight[...].addressable_shards[0].data.size == 8 * 8 // 4
        print(json.dumps(steps), flush=True)
        train(
            toy_config(
                out / "other", optim=dataclasses.replace(OPTIM, lr=0.1 * (1 + jax.process_index()))
            ),
            toy_stage(),
        )


if __name__ == "__main__":
    run(main)
