"""A training step made of shapes: a config's networks, data and updates, with shardings.

    TrainConfig -> Stage of shapes -> the loop's state and batch, sharded over a mesh of devices
      -> one PlannedStep per update

No weight is allocated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.models.cache.kv_cache import KVCache, axes_of
from causalcine_jax.models.dit import token_grid
from causalcine_jax.parallel.mesh import check_batch
from causalcine_jax.parallel.sharding import check_sharded, state_shardings
from causalcine_jax.presets import PRESETS
from causalcine_jax.story_schema import size_faults
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.stages.spec import StageSpec, stage_spec
from causalcine_jax.training.stages.table import FILM_STAGES
from causalcine_jax.training.state import new_state
from causalcine_jax.training.step import make_update, metric_names
from causalcine_jax.utils.arrays import tree_bytes


@dataclass(frozen=True)
class FilmBatch:
    """The films of a batch: latent frames and their size in pixels, shots per film."""

    frames: int
    height: int
    width: int
    shots: int

    @classmethod
    def of(
        cls, config: TrainConfig, frames: int | None = None, size: tuple[int, int] | None = None
    ) -> "FilmBatch":
        """The films that `config` trains on.

        The size is that of the preset with the same transformer, else the world's; the length is
        the world's, or data.chunks. `frames` and `size` (width, height) override them.
        """
        world = config.world
        same = [preset for preset in PRESETS.values() if preset.transformer == config.transformer]
        width, height = size or (
            (same[0].width, same[0].height) if same else (world.width, world.height)
        )
        part = config.data.chunks
        default = part * config.chunk_frames or world.latent_frames
        shots = min(part, world.max_shots) if part else world.max_shots
        films = cls(default if frames is None else frames, height, width, shots)
        raise_faults("films", films.faults(config))
        return films

    def faults(self, config: TrainConfig) -> list[str]:
        found = []
        if self.frames < 1 or self.frames % config.chunk_frames:
            found.append(
                f"{self.frames} latent frames are not one or more whole chunks "
                f"of {config.chunk_frames}"
            )
        stride, (_, rows, columns) = config.vae.spatial_stride, config.transformer.patch_size
        return found + size_faults(self.height, self.width, (stride * rows, stride * columns))


@dataclass(frozen=True)
class PlannedStep:
    """One program to compile: call `trace(*arguments)` under the mesh.

    parts          name -> (bytes of all its arrays, bytes on each device) on the devices meanwhile
    beside         bytes per device of those parts that are not arguments of this program
    host           the same for host memory: (bytes of all hosts, bytes of each device's part)
    pool           bytes per device of the history that it makes and drops, part of its temporaries
    unknown_trips  the most rounds of a loop whose length is drawn at run time
    every          it runs in one of this many steps
    """

    name: str
    trace: Callable
    arguments: tuple
    parts: dict[str, tuple[int, int]]
    beside: int = 0
    host: dict[str, tuple[int, int]] = field(default_factory=dict)
    pool: int = 0
    unknown_trips: int = 1
    every: int = 1


def training_steps(
    config: TrainConfig, films: FilmBatch, mesh: Mesh | AbstractMesh
) -> list[PlannedStep]:
    """Every update of the stage, as the training loop runs it.

    Raises:
      UsageError: config and mesh do not fit.
    """
    for optim in (config.optim, config.critic_optim):
        check_batch(mesh, config.batch, optim.accumulation)
    spec = _planned_spec(config)
    stage, batch = spec.shapes(), _batch(config, films, spec, mesh)
    metrics = metric_names(stage, stage.trained, stage.fixed, batch)
    state = jax.eval_shape(lambda nets: new_state(stage, nets, metrics), stage.trained)
    check_sharded(mesh, state.params)
    shardings = state_shardings(mesh, state)
    state, fixed = (
        placed(state, shardings),
        placed(stage.fixed, state_shardings(mesh, stage.fixed)),
    )
    parts = {
        "parameters": state.params,
        "EMA": state.ema,
        "optimizer": state.opt_state,
        **{f"{name}, not trained": net for name, net in fixed.items()},
        "batch": batch,
    }

    def trace(update, *arguments):
        run = jax.jit(make_update(stage, update, config), donate_argnums=0, out_shardings=shardings)
        with jax.default_matmul_precision(config.matmul_precision or None):
            return run.trace(*arguments)

    return [
        PlannedStep(
            name=update.name or config.stage,
            trace=partial(trace, update),
            arguments=(state, fixed, batch),
            parts={name: (tree_bytes(part), device_size_of(part)) for name, part in parts.items()},
            pool=_pool(
                config,
                films,
                mesh,
                spec.histories * config.batch // update.optim.accumulation,
            ),
            unknown_trips=spec.exits,
            every=update.every,
        )
        for update in stage.updates
    ]


def _planned_spec(config: TrainConfig) -> StageSpec:
    if config.facts.clips:
        raise UsageError(
            f"stage {config.stage} is not planned: it fits one device; "
            f"known: {', '.join(FILM_STAGES)}"
        )
    return stage_spec(config, (1,) + (0,) * (config.transformer.text_len - 1))


def shapes(network, sizes):
    """A network of these sizes as shapes."""
    return jax.eval_shape(lambda: network(sizes, key=jax.random.key(0)))


def device_size_of(tree) -> int:
    """Bytes on one device of arrays with shardings."""
    share = lambda leaf: (
        jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    )
    return sum(share(leaf) for leaf in jax.tree.leaves(tree))


def placed(tree, shardings):
    """Shapes with these shardings."""
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        shardings,
    )


def _batch(config: TrainConfig, films: FilmBatch, spec: StageSpec, mesh: Mesh | AbstractMesh):
    """As the loader gives it."""
    stride = config.vae.spatial_stride
    size = (films.height // stride, films.width // stride)
    shapes = spec.batch(config, config.batch, films.frames, size, films.shots)
    cut = NamedSharding(mesh, PartitionSpec("data"))
    return placed(shapes, dict.fromkeys(shapes, cut))


def _pool(config: TrainConfig, films: FilmBatch, mesh: Mesh | AbstractMesh, histories: int) -> int:
    """History of `histories` films that is kept while the step runs: what a device holds of it."""
    if not histories:
        return 0
    stride = config.vae.spatial_stride
    rows, columns = token_grid(config.transformer, films.height // stride, films.width // stride)
    dtype = jnp.dtype(config.dtype)
    pool = jax.eval_shape(
        lambda: KVCache.empty(
            config.transformer, histories, films.frames, rows * columns, config.chunk_frames, dtype
        ).described_by(config.memory.parts(rows * columns))
    )
    shardings = jax.tree.map(lambda a: NamedSharding(mesh, PartitionSpec(*axes_of(a))), pool)
    return device_size_of(placed(pool, shardings))
