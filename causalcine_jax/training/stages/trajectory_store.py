"""Teacher trajectories on disk: made once, resumably, and then read as often as wanted.

A trajectory store is a latent store with longer films, so it is written, checked and loaded like
any other. A record has (K + 2) F frames: the teacher's x at each of the student's K times, then the
end of its ODE, then the true film of its history. The spec records what the store was made from:
another teacher, sampler or set of films is another store.

A trajectory's noise depends on the seed and the trajectory's number alone. So devices and processes
may share the work in any way: each process writes shards of its own.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float

from causalcine_jax.data.latent_store import LatentStore, StoreRecord, StoreSpec
from causalcine_jax.data.latent_writer import LatentStoreWriter, NewRecord
from causalcine_jax.data.loader import ReadableRecords, Visit
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.data.store_layout import partial_path
from causalcine_jax.errors import UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.parallel.mesh import make_mesh, own_part
from causalcine_jax.parallel.processes import by_all, by_first, check_same, check_shared, is_first
from causalcine_jax.parallel.sharding import own_rows, put_batch, state_shardings
from causalcine_jax.training.stages.ode import ODEInit, teacher_trajectory
from causalcine_jax.utils.output import one_writer
from causalcine_jax.utils.progress import progress_bar

FLAG = "--config.ode.store"
SHARD = 8  # an interruption costs each process at most so many trajectories


@dataclass(frozen=True)
class TrajectorySettings:
    """How a trajectory store is made.

    count   trajectories, of films spread evenly over the film store
    source  what else the store's spec tells, such as the hash of the teacher
    seq     devices that share a film
    batch   films that each such group of devices makes at once
    visits  what changes a film's record before; it may add "text", in place of a text encoder
    max_bad_fraction  fraction of damaged films above which none is made; the next readable film
            takes the place of one
    """

    count: int
    seed: int
    source: dict[str, Any]
    seq: int = 1
    batch: int = 1
    visits: tuple[Visit, ...] = ()
    max_bad_fraction: float = 0.01


def trajectory_spec(
    films: LatentStore | MixedStore, task: ODEInit, settings: TrajectorySettings
) -> StoreSpec:
    """The spec of the store of trajectories over `films`."""
    count = settings.count
    if len(films.sizes) > 1:
        raise UsageError(
            f"ode.store: {films.path} have films of {len(films.sizes)} sizes, and trajectories are "
            "of one: name stores of one size as data.store, or leave ode.store out"
        )
    if count > len(films):
        raise UsageError(f"ode.films {count} is more than the {len(films)} films of {films.path}")
    told = {
        "trajectories": [float(t) for t in task.times],
        "teacher": dataclasses.asdict(task.teacher),
        "null_prompt": list(task.null_prompt),
        "memory": dataclasses.asdict(task.passes.memory),
        "of": films.spec.source,
        **settings.source,
        "seed": settings.seed,
    }
    return dataclasses.replace(
        films.spec,
        films=count,
        latent_frames=films.spec.latent_frames * (len(task.teacher_steps) + 2),
        films_per_shard=SHARD,
        source=told,
    )


def write_trajectories(
    path: Path,
    films: LatentStore | MixedStore,
    task: ODEInit,
    nets: tuple[Transformer, UMT5Encoder | None],
    settings: TrajectorySettings,
    check: Callable[[jax.stages.Compiled], None] = lambda program: None,
) -> LatentStore:
    """The store at `path`, after `nets` (the teacher's) have computed missing trajectories.

    A trajectory depends on its film, its number and the seed. Several processes, which must share
    the folder, write it together. `check` is given the program before it runs.

    Raises:
      UsageError: the store has another spec, there are fewer films than trajectories, the processes
        do not share the folder, or another run is writing it.
      DataError: a file cannot be written, or too many films are damaged.
    """
    spec = trajectory_spec(films, task, settings)
    check_same({f"whether {path} is there": path.exists()})
    if path.exists():
        return LatentStoreWriter(path, spec, flag=FLAG).finish()
    with contextlib.ExitStack() as held:
        by_first(lambda: held.enter_context(one_writer(path, beside=True, flag=FLAG)))
        # The first makes the folder that the others open.
        by_first(lambda: LatentStoreWriter(path, spec, flag=FLAG))
        check_shared(partial_path(path), "ode.store")
        writer = by_all(lambda: LatentStoreWriter(path, spec, flag=FLAG))
        missing = by_all(writer.pending)  # listed by all before any of them writes
        check_same({f"shards missing in {path}": str(missing)})
        if missing:
            _write(writer, missing, films, task, nets, settings, check)
        by_all(lambda: None)  # waits until all have written
        by_first(writer.finish)
    return by_all(lambda: LatentStore.open(path))


def _write(
    writer: LatentStoreWriter,
    missing: Sequence[range],
    films: LatentStore | MixedStore,
    task: ODEInit,
    nets: tuple[Transformer, UMT5Encoder | None],
    settings: TrajectorySettings,
    check: Callable[[jax.stages.Compiled], None],
) -> None:
    """Computes the missing shards; the processes of each part of the mesh take some of them."""
    mesh = make_mesh(settings.seq)
    part, parts = own_part(mesh)
    size = settings.batch * mesh.shape["data"] // parts  # films that a part makes at once
    queues = [[number for shard in missing[i::parts] for number in shard] for i in range(parts)]
    left = sum(map(len, queues))
    if is_first():
        print(
            f"computing {left} of {settings.count} trajectories of {task.teacher.steps} steps "
            f"into {writer.path}",
            flush=True,
        )
    shards, made = [*missing[part::parts]], []
    readable = ReadableRecords(films, settings.max_bad_fraction)
    # Of the processes that share films, the first writes them.
    writes = jax.process_index() % (jax.process_count() // parts) == 0
    nets, program = jax.device_put(nets, state_shardings(mesh, nets)), None
    there = settings.count - left
    with (
        progress_bar(settings.count, "film", "trajectories", done=there, shown=is_first()) as bar,
        jax.set_mesh(mesh),
    ):
        for first in range(0, max(map(len, queues)), size):
            own = queues[part][first : first + size]
            # Filled up where films run out: all processes run the same program, equally often.
            numbers = [*own, *[0] * (size - len(own))]
            read = [readable[number * len(films) // settings.count] for number in numbers]
            batch = put_batch(mesh, _inputs(read, numbers, settings.visits))
            if program is None:
                program = _trajectories(task, settings.seed, mesh).lower(nets, batch).compile()
                check(program)
            rows = own_rows(program(nets, batch))
            made += [_record(row, film) for row, film in zip(rows[: len(own)], read)]
            while shards and len(made) >= len(shards[0]):
                shard = shards.pop(0)
                if writes:
                    writer.write(shard, made[: len(shard)])
                del made[: len(shard)]
            bar.update(sum(len(queue[first : first + size]) for queue in queues))


def _trajectories(task: ODEInit, seed: int, mesh: Mesh) -> jax.stages.Wrapped:
    """A function (nets, batch) -> a trajectory's points and its end, one after the other."""

    def make(nets: tuple[Transformer, UMT5Encoder | None], batch) -> Float[Array, "b kf h w c"]:
        shape, key = batch["latents"].shape[1:], jax.random.key(seed)
        draw = lambda number: jax.random.normal(jax.random.fold_in(key, number), shape)
        made = teacher_trajectory(task, *nets, batch, jax.vmap(draw)(batch["number"]))
        return jnp.concatenate([*made.points, made.end], axis=1)

    return jax.jit(make, out_shardings=NamedSharding(mesh, PartitionSpec("data")))


def _inputs(
    read: list[StoreRecord], numbers: list[int], visits: Sequence[Visit]
) -> dict[str, np.ndarray]:
    draws = np.random.default_rng(0)  # no visit of these films draws anything
    for visit in visits:
        read = [visit(film, draws) for film in read]
    stacked = jax.tree.map(lambda *films: np.stack(films), *read)
    return stacked | {"number": np.array(numbers, np.int32)}


def _record(row: np.ndarray, film: StoreRecord) -> NewRecord:
    """Captions stay with the films; every part of the record is under the film's shots."""
    latents = np.concatenate([row, film["latents"]])
    shots = np.tile(film["shot_of_chunk"], len(latents) // len(film["latents"]))
    return NewRecord(latents, film["token_ids"], shots, [])
