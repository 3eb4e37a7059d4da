"""The loss on films that are not trained on, of the weights and of their exported average.

Every measurement uses the same films and the same noise, so two measurements differ by the weights
alone. If this loss rises while the training loss falls, the model overfits. The records also show
which of the two sets of weights is better, and at which noise level.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from causalcine_jax.models.nn import cast_weights
from causalcine_jax.parallel.sharding import put_batch
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.state import Nets, Stage, TrainState

SEED = 2**30  # of the noise; the run's own keys come from config.seed


def held_out_measure(
    stage: Stage, config: TrainConfig, mesh
) -> Callable[[TrainState, Nets], dict[str, float]]:
    """The function (state, fixed networks) -> metrics over `stage.held_out`.

    They are those of the stage's first update. Names begin with held_out_ for the weights and
    held_out_ema_ for their average. It compiles at its first call.
    """
    stage = replace(stage, trained={}, fixed={})  # so that loaded networks can be freed
    update, dtype = stage.updates[0], jnp.dtype(config.dtype)

    @jax.jit
    def metrics(params: Nets, fixed: Nets, batch, key):
        trained, others = stage.parts(update, params, fixed)
        loss, metrics = update.loss(
            cast_weights(trained, dtype), cast_weights(others, dtype), batch, key
        )
        return {**metrics, "loss": (loss, jnp.ones(()))}

    def mean_over(params: Nets, fixed: Nets, batches: Sequence) -> dict[str, float]:
        sums: dict[str, list[float]] = {}
        for number, batch in enumerate(batches):
            found = jax.device_get(
                metrics(
                    params,
                    fixed,
                    put_batch(mesh, batch),
                    jax.random.fold_in(jax.random.key(SEED), number),
                )
            )
            for name, (total, weight) in found.items():
                before = sums.setdefault(name, [0.0, 0.0])
                sums[name] = [before[0] + float(total), before[1] + float(weight)]
        return {name: total / weight for name, (total, weight) in sums.items() if weight}

    def measure(state: TrainState, fixed: Nets) -> dict[str, float]:
        averaged = {**state.params, **state.ema}
        with jax.set_mesh(mesh):
            found = {
                "held_out": mean_over(state.params, fixed, stage.held_out),
                "held_out_ema": mean_over(averaged, fixed, stage.held_out),
            }
        return {
            f"{prefix}_{name}": value
            for prefix, means in found.items()
            for name, value in means.items()
        }

    return measure
