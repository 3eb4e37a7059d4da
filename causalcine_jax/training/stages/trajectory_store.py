"""Teacher trajectories on disk: made once, resumably, and then read as often as wanted.

A trajectory store is a latent store with longer films, so it is written, checked and loaded like
any other. A record has (K + 2) F frames. In order, these are the teacher's x at each of the
student's K times, the end of its ODE, and the true film of its history. The spec records what the
store was made from: another teacher, sampler or set of films is another store.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from causalcine_jax.data.latent_store import LatentStore, StoreSpec
from causalcine_jax.data.latent_writer import LatentStoreWriter, NewRecord
from causalcine_jax.data.mixed_store import MixedStore
from causalcine_jax.errors import UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.parallel.mesh import make_mesh
from causalcine_jax.parallel.processes import several
from causalcine_jax.parallel.sharding import put_batch, state_shardings
from causalcine_jax.training.stages.ode import ODEInit, teacher_trajectory
from causalcine_jax.utils.output import one_writer
from causalcine_jax.utils.progress import progress_bar

SHARD = 8  # an interruption costs at least so many trajectories


@dataclass(frozen=True)
class TrajectorySettings:
    """How a trajectory store is made.

    count   trajectories, of films spread evenly over the film store
    batch   trajectories made at once
    source  what else the store's spec tells, such as the hash of the teacher
    seq     devices that share a film
    """

    count: int
    batch: int
    seed: int
    source: dict[str, Any]
    seq: int = 1


def trajectory_spec(
    films: LatentStore | MixedStore, task: ODEInit, settings: TrajectorySettings
) -> StoreSpec:
    """The spec of the store of trajectories over `films`."""
    count = settings.count
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
        "batch": settings.batch,
    }
    return dataclasses.replace(
        films.spec,
        films=count,
        latent_frames=films.spec.latent_frames * (len(task.teacher_steps) + 2),
        films_per_shard=-(-SHARD // settings.batch) * settings.batch,
        source=told,
    )


def write_trajectories(
    path: Path,
    films: LatentStore | MixedStore,
    task: ODEInit,
    nets: tuple[Transformer, UMT5Encoder],
    settings: TrajectorySettings,
) -> LatentStore:
    """The store at `path`, after `nets` (the teacher's) have computed missing trajectories.

    A trajectory depends on its film, its place in the batch and the seed.

    Raises:
      UsageError: the store has another spec, there are fewer films than trajectories, several
        processes are asked to complete the store, or another run is writing it.
      DataError: a file cannot be written.
    """
    if path.exists():
        return LatentStoreWriter(path, trajectory_spec(films, task, settings)).finish()
    if several():
        raise UsageError(
            f"ode.store {path} is missing or incomplete, and only a single process can make it: "
            "run this command in one process first, or leave ode.store empty"
        )
    with one_writer(path, beside=True):
        return _write(path, films, task, nets, settings)


def _write(
    path: Path,
    films: LatentStore | MixedStore,
    task: ODEInit,
    nets: tuple[Transformer, UMT5Encoder],
    settings: TrajectorySettings,
) -> LatentStore:
    writer = LatentStoreWriter(path, trajectory_spec(films, task, settings))
    pending = writer.pending()
    if pending:
        missing = sum(len(part) for part in pending)
        print(
            f"computing {missing} of {settings.count} trajectories of {task.teacher.steps} steps "
            f"into {path}",
            flush=True,
        )
        mesh = make_mesh(settings.seq)
        nets = jax.device_put(nets, state_shardings(mesh, nets))
        trajectory = jax.jit(
            lambda nets, batch, key: teacher_trajectory(task, nets[0], nets[1], batch, key)
        )
        make = lambda records, key: trajectory(nets, put_batch(mesh, records), key)
        there = settings.count - missing
        with progress_bar(settings.count, "film", "trajectories", done=there) as bar:
            for part in pending:
                with jax.set_mesh(mesh):
                    writer.write(part, _shard(films, part, settings, make, bar.update))
    return writer.finish()


def _shard(
    films: LatentStore | MixedStore,
    part: range,
    settings: TrajectorySettings,
    make: Callable,
    on_progress: Callable[[int], object],
) -> list[NewRecord]:
    records, batch = [], settings.batch
    for first in range(part.start, part.stop, batch):
        # The last batch may be short: it is filled up, so that it needs no other program, and cut.
        numbers = [min(first + i, part.stop - 1) for i in range(batch)]
        read = [films[number * len(films) // settings.count] for number in numbers]
        inputs = {
            name: np.stack([record[name] for record in read])
            for name in ("latents", "token_ids", "shot_of_chunk")
        }
        key = jax.random.fold_in(jax.random.key(settings.seed), first)
        trajectory = jax.device_get(make(inputs, key))
        own = read[: part.stop - first]
        for i, record in enumerate(own):
            parts = [*trajectory.points[:, i], trajectory.end[i], record["latents"]]
            # Captions stay with the films; every part of the record is under the film's shots.
            shots = np.tile(record["shot_of_chunk"], len(parts))
            records.append(NewRecord(np.concatenate(parts), record["token_ids"], shots, []))
        on_progress(len(own))
    return records
