"""A training step made of shapes: a config's networks, data and updates, with shardings.

    TrainConfig -> Stage of shapes -> the loop's state and batch, sharded over a mesh of devices
      -> one PlannedStep per update

No weight is allocated.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.models.cache.kv_cache import KVCache, axes_of
from causalcine_jax.models.dit import Transformer, token_grid
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.parallel.sharding import state_shardings
from causalcine_jax.presets import PRESETS
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.loop import check_batch
from causalcine_jax.training.stages.build import teacher_forcing_task
from causalcine_jax.training.stages.distillation import dmd_updates, ode_init_task, ode_init_updates
from causalcine_jax.training.stages.teacher_forcing import teacher_forcing_loss
from causalcine_jax.training.state import Stage, Update, new_state
from causalcine_jax.training.step import make_update, metric_names

STAGES = ("teacher_forcing", "ode_init", "dmd")


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
        the world's. `frames` and `size` (width, height) override them.
        """
        world = config.world
        same = [preset for preset in PRESETS.values() if preset.transformer == config.transformer]
        width, height = size or (
            (same[0].width, same[0].height) if same else (world.width, world.height)
        )
        films = cls(
            world.latent_frames if frames is None else frames, height, width, world.max_shots
        )
        raise_faults("films", films.faults(config))
        return films

    def faults(self, config: TrainConfig) -> list[str]:
        found = []
        if self.frames < 1 or self.frames % config.chunk_frames:
            found.append(
                f"{self.frames} latent frames are not one or more whole chunks "
                f"of {config.chunk_frames}"
            )
        for name, size, patch in zip(
            ("height", "width"),
            (self.height, self.width),
            config.transformer.patch_size[1:],
            strict=True,
        ):
            step = config.vae.spatial_stride * patch
            if size < 1 or size % step:
                found.append(f"{name} {size} is not a positive multiple of {step} pixels")
        return found


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


def training_steps(config: TrainConfig, films: FilmBatch, mesh: Mesh) -> list[PlannedStep]:
    """Every update of the stage, as the training loop runs it.

    Raises:
      UsageError: config and mesh do not fit.
    """
    for optim in (config.optim, config.critic_optim):
        check_batch(mesh, config.batch, optim.accumulation)
    stage = abstract_stage(config)
    batch = _batch(config, films, mesh)
    metrics = metric_names(stage, stage.trained, stage.fixed, batch)
    state = jax.eval_shape(lambda nets: new_state(stage, nets, metrics), stage.trained)
    shardings = state_shardings(mesh, state)
    state, fixed = (
        _placed(state, shardings),
        _placed(stage.fixed, state_shardings(mesh, stage.fixed)),
    )
    parts = {
        "parameters": state.params,
        "EMA": state.ema,
        "optimizer": state.opt_state,
        **{f"{name}, not trained": net for name, net in fixed.items()},
        "batch": batch,
    }
    run = lambda update: jax.jit(
        make_update(stage, update, config), donate_argnums=0, out_shardings=shardings
    )
    return [
        PlannedStep(
            name=update.name or config.stage,
            trace=run(update).trace,
            arguments=(state, fixed, batch),
            parts={name: (size_of(part), device_size_of(part)) for name, part in parts.items()},
            pool=_pool(config, films, mesh, update),
            unknown_trips=config.self_forcing.sampler.steps if config.stage == "dmd" else 1,
            every=update.every,
        )
        for update in stage.updates
    ]


def abstract_stage(config: TrainConfig) -> Stage:
    """The stage that `config` means, with networks as shapes of the config's sizes, no data."""
    if config.stage not in STAGES:
        raise UsageError(
            f"stage {config.stage} is not planned: it fits one device; known: {', '.join(STAGES)}"
        )
    null = (1,) + (0,) * (config.transformer.text_len - 1)
    transformer, text_encoder = (
        shapes(Transformer, config.transformer),
        shapes(UMT5Encoder, config.text_encoder),
    )
    stored = jax.eval_shape(partial(_cast, dtype=jnp.dtype(config.dtype)), text_encoder)
    frozen = jax.eval_shape(lambda net: cast_weights(net, jnp.dtype(config.dtype)), transformer)
    fixed: dict[str, Any] = {"text_encoder": stored}
    exported: tuple[str, ...] = ("student",)
    if config.stage == "teacher_forcing":
        trained = {"transformer": transformer}
        if config.train_text_encoder:
            trained, fixed = trained | {"text_encoder": text_encoder}, {}
        updates: tuple[Update, ...] = (
            Update(
                teacher_forcing_loss(teacher_forcing_task(config, null)),
                tuple(trained),
                config.optim,
            ),
        )
        exported = ()
    elif config.stage == "ode_init":
        trained, updates = (
            {"student": transformer},
            ode_init_updates(config, ode_init_task(config, null)),
        )
        fixed |= {} if config.ode.store else {"teacher": frozen}
    else:
        trained, updates = (
            {"student": transformer, "fake_score": transformer},
            dmd_updates(config, null),
        )
        fixed |= {"teacher": frozen}
        if config.gan.on:
            sizes = config.transformer
            trained["head"] = jax.eval_shape(
                lambda: config.gan.head(sizes.dim, sizes.num_layers, key=jax.random.key(0))
            )
    return Stage(trained, fixed, updates, batches=None, export=None, exported=exported)


def shapes(network, sizes):
    """A network of these sizes as shapes."""
    return jax.eval_shape(lambda: network(sizes, key=jax.random.key(0)))


def size_of(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_size_of(tree) -> int:
    """Bytes on one device of arrays with shardings."""
    share = lambda leaf: (
        jnp.dtype(leaf.dtype).itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    )
    return sum(share(leaf) for leaf in jax.tree.leaves(tree))


def _cast(tree, dtype):
    return jax.tree.map(lambda leaf: leaf.astype(dtype), tree)


def _placed(tree, shardings):
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        tree,
        shardings,
    )


def _batch(config: TrainConfig, films: FilmBatch, mesh: Mesh):
    """A batch as the loader yields it. A trajectory store's records span all that they hold."""
    stride, chunks, records = config.vae.spatial_stride, films.frames // config.chunk_frames, 1
    if config.stage == "ode_init" and config.ode.store:
        records = len(ode_init_task(config, ()).kept) + 2
    arrays = {
        "latents": (
            (
                records * films.frames,
                films.height // stride,
                films.width // stride,
                config.transformer.in_dim,
            ),
            jnp.float32,
        ),
        "token_ids": ((films.shots, config.transformer.text_len), jnp.int32),
        "shot_of_chunk": ((records * chunks,), jnp.int32),
    }
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.ShapeDtypeStruct((config.batch, *shape), dtype, sharding=sharding)
        for name, (shape, dtype) in arrays.items()
    }


def _pool(config: TrainConfig, films: FilmBatch, mesh: Mesh, update: Update) -> int:
    """Bytes per device of the history that a rollout, or the teacher's trajectories, keep."""
    if config.stage == "teacher_forcing" or (config.stage == "ode_init" and config.ode.store):
        return 0
    histories = 2 if config.stage == "ode_init" and config.ode.sampler(1.0).guided else 1
    count = config.batch // update.optim.accumulation * histories
    stride = config.vae.spatial_stride
    rows, columns = token_grid(config.transformer, films.height // stride, films.width // stride)
    dtype = jnp.dtype(config.dtype)
    pool = jax.eval_shape(
        lambda: KVCache.empty(
            config.transformer, count, films.frames, rows * columns, config.chunk_frames, dtype
        )
    )
    shardings = jax.tree.map(lambda a: NamedSharding(mesh, PartitionSpec(*axes_of(a))), pool)
    return device_size_of(_placed(pool, shardings))
