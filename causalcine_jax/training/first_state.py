"""The state that a run begins with: new, or from its newest checkpoint."""

import jax

from causalcine_jax.models.nn import Module
from causalcine_jax.parallel.mesh import own_part
from causalcine_jax.parallel.sharding import check_sharded, state_shardings
from causalcine_jax.training.checkpoints import Checkpoints
from causalcine_jax.training.state import Nets, Stage, TrainState, new_state
from causalcine_jax.training.step import INIT, metric_names


def first_state(
    stage: Stage, seed: int, mesh, checkpoints: Checkpoints
) -> tuple[TrainState, TrainState]:
    """The state and its shardings. A new one is made under jit, so it is sharded from the start.

    With a checkpoint, `stage.batches` are also set to where they were.
    """
    loaded = {name: net for name, net in stage.trained.items() if isinstance(net, Module)}

    def nets_of(loaded: Nets) -> Nets:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), INIT), len(stage.trained))
        made = zip(stage.trained.items(), keys, strict=True)
        return {name: loaded[name] if name in loaded else make(key) for (name, make), key in made}

    with jax.set_mesh(mesh):  # a mesh that does not divide the networks is reported here
        metrics = metric_names(
            stage, jax.eval_shape(nets_of, loaded), stage.fixed, _batch_shapes(stage, mesh)
        )

    def create(loaded: Nets) -> TrainState:
        return new_state(stage, nets_of(loaded), metrics)

    shapes = jax.eval_shape(create, loaded)
    check_sharded(mesh, shapes.params)
    shardings = state_shardings(mesh, shapes)
    if checkpoints.latest is None:
        return jax.jit(create, out_shardings=shardings)(loaded), shardings
    like = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )
    return checkpoints.restore(like, stage.batches), shardings


def _batch_shapes(stage: Stage, mesh):
    """Shapes of a batch of all processes. Looks at a batch without taking it."""
    position = stage.batches.get_state()
    batch = next(stage.batches)
    stage.batches.set_state(position)
    _, parts = own_part(mesh)
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct((a.shape[0] * parts, *a.shape[1:]), a.dtype), batch
    )
