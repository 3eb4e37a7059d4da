"""A stage of training that compiles in no time: a linear map learns y = 2x.

Its batches are a function of their number.
"""

import json

import grain
import jax.numpy as jnp
import numpy as np

from causalcine_jax.models.nn import Linear
from causalcine_jax.training.config import CheckpointConfig, SampleConfig, TrainConfig
from causalcine_jax.training.optim import OptimConfig
from causalcine_jax.training.state import Stage, Update

OPTIM = OptimConfig(lr=0.05, warmup=2, ema_decay=0.9)


def toy_config(out, **changes) -> TrainConfig:
    settings = {
        "out": str(out),
        "steps": 12,
        "batch": 4,
        "log_every": 2,
        "optim": OPTIM,
        "checkpoint": CheckpointConfig(every=4),
        "sample": SampleConfig(at_end=False),
    }
    return TrainConfig(**{**settings, **changes})


def toy_loss(trained, fixed, batch, key):
    """Returns the loss; it is NaN for a poisoned batch, one with a negative `x[0, 0]`."""
    x = jnp.asarray(batch["x"])
    error = trained["net"](x) - 2 * x
    loss = jnp.mean(jnp.square(error)) + jnp.where(x[0, 0] < 0, jnp.nan, 0.0)
    return loss, {"first": (x[0, 0], jnp.ones(()))}


def toy_batches(batch: int, poisoned: tuple[int, ...] = (), seed: int = 0):
    """Yields batches numbered from 1; those numbered in `poisoned` are poisoned."""

    def make(number: int) -> dict[str, np.ndarray]:
        x = np.random.default_rng((seed, number)).uniform(0.1, 1.0, (batch, 8)).astype(np.float32)
        return {"x": -x if number in poisoned else x}

    return iter(
        grain.MapDataset.range(1, 10_000)
        .map(make)
        .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
    )


def toy_stage(
    batch: int = 4,
    poisoned: tuple[int, ...] = (),
    exported: list | None = None,
    optim: OptimConfig = OPTIM,
) -> Stage:
    def export(nets, folder, facts) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "metadata.json").write_text(json.dumps(facts))
        if exported is not None:
            exported.append((nets, facts))

    return Stage(
        trained={"net": lambda key: Linear(8, 8, key=key)},
        fixed={},
        updates=(Update(toy_loss, ("net",), optim),),
        batches=toy_batches(batch, poisoned),
        export=export,
    )
