"""The loss on films that are not trained on, of the weights and of their exported average.

Every measurement uses the same films and the same noise, so two measurements differ by the weights
alone. If this loss rises while the training loss falls, the model overfits. The records also show
which of the two sets of weights is better, and at which noise level.
"""

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from causalcine_jax.models.nn import cast_weights
from causalcine_jax.parallel.sharding import put_batch
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.state import Nets, Stage, TrainState, weighted
from causalcine_jax.training.step_memory import CheckedProgram

SEED = 2**30  # of the noise; the run's own keys come from config.seed


class HeldOut:
    """The function (state, fixed networks) -> metrics over `stage.held_out`.

    They are those of the stage's first update. Names begin with held_out_ for the weights and
    held_out_ema_ for their average. Films are measured a micro-batch at a time, as they are trained
    on, so that a measurement needs no more memory than a step.
    """

    def __init__(self, stage: Stage, config: TrainConfig, mesh: Mesh, say: Callable[[str], None]):
        stage = replace(stage, trained={}, fixed={})  # so that loaded networks can be freed
        update, dtype = stage.updates[0], jnp.dtype(config.dtype)

        def metrics(params: Nets, fixed: Nets, batch, number):
            trained, others = stage.parts(update, params, fixed)
            key = jax.random.fold_in(jax.random.key(SEED), number)
            loss, metrics = update.loss(
                cast_weights(trained, dtype), cast_weights(others, dtype), batch, key
            )
            return metrics | weighted({"loss": loss})

        self._mesh = mesh
        self._metrics = CheckedProgram(jax.jit(metrics), "the held-out measurement", config, say)
        count = update.optim.accumulation
        self._batches = [
            jax.tree.map(lambda a, part=part: a[part::count], batch)
            for batch in stage.held_out
            for part in range(count)
        ]

    def compile(self, state: TrainState, fixed: Nets) -> None:
        """Compiles and checks its programs, so that none fails hours into a run."""
        of_each_size = {str(jax.tree.map(np.shape, batch)): batch for batch in self._batches}
        with jax.set_mesh(self._mesh):
            for batch in of_each_size.values():
                placed = put_batch(self._mesh, batch)
                self._metrics.compile(state.params, fixed, placed, np.int32(0))

    def __call__(self, state: TrainState, fixed: Nets) -> dict[str, float]:
        averaged = {**state.params, **state.ema}
        with jax.set_mesh(self._mesh):
            found = {
                "held_out": self._means(state.params, fixed),
                "held_out_ema": self._means(averaged, fixed),
            }
        return {
            f"{prefix}_{name}": value
            for prefix, means in found.items()
            for name, value in means.items()
        }

    def _means(self, params: Nets, fixed: Nets) -> dict[str, float]:
        sums: dict[str, list[float]] = {}
        for number, batch in enumerate(self._batches):
            placed = put_batch(self._mesh, batch)
            found = jax.device_get(self._metrics(params, fixed, placed, np.int32(number)))
            for name, (total, weight) in found.items():
                before = sums.setdefault(name, [0.0, 0.0])
                sums[name] = [before[0] + float(total), before[1] + float(weight)]
        return {name: total / weight for name, (total, weight) in sums.items() if weight}
