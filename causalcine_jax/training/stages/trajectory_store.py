"""Teacher trajectories on disk: made once, resumably, and then read as often as wanted.

A trajectory store is a latent store whose films are longer: the teacher's x at each of the student's K times, then where its ODE ends, then the
true film that was its history, one after the other, (K + 2) F frames in all. So it is written, checked and loaded like any other.
What it was made from is in its spec: another teacher, sampler or set of films is another store.
"""

import dataclasses
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

SHARD = 8  # trajectories at least that an interruption costs


def trajectory_spec(
    films: LatentStore | MixedStore, task: ODEInit, count: int, batch: int, source: dict[str, Any]
) -> StoreSpec:
    """The spec of a store of `count` trajectories, made `batch` at a time, over films spread evenly over `films`."""
    if count > len(films):
        raise UsageError(f"ode.films {count} is more than the {len(films)} films of {films.path}")
    told = {
        "trajectories": [float(t) for t in task.times],
        "teacher": dataclasses.asdict(task.teacher),
        "null_prompt": list(task.null_prompt),
        "memory": dataclasses.asdict(task.memory),
        "of": films.spec.source,
        **source,
    }
    frames = films.spec.latent_frames * (len(task.kept) + 2)
    return dataclasses.replace(
        films.spec,
        films=count,
        latent_frames=frames,
        films_per_shard=-(-SHARD // batch) * batch,
        source=told,
    )


def write_trajectories(
    path: Path,
    films: LatentStore | MixedStore,
    task: ODEInit,
    teacher: Transformer,
    text_encoder: UMT5Encoder,
    *,
    count: int,
    batch: int,
    seed: int,
    source: dict[str, Any],
    seq: int = 1,
) -> LatentStore:
    """The store at `path`, with what is missing of it computed first. A trajectory depends on its film, its place in the batch and `seed`.

    Raises:
      UsageError: there is a store that was made otherwise; more trajectories than films; it is not whole, and several processes are asked.
      DataError: the disk refuses.
    """
    if several() and not path.exists():
        raise UsageError(
            f"ode.store {path} is not there, or not whole, and only one process by itself makes one: run it so first, or leave ode.store empty"
        )
    spec = trajectory_spec(films, task, count, batch, {**source, "seed": seed, "batch": batch})
    writer = LatentStoreWriter(path, spec)
    pending = writer.pending()
    if pending:
        missing = sum(len(part) for part in pending)
        print(
            f"computing {missing} of {count} trajectories of {task.teacher.steps} steps into {path}",
            flush=True,
        )
        mesh = make_mesh(seq)
        nets = jax.device_put(
            (teacher, text_encoder), state_shardings(mesh, (teacher, text_encoder))
        )
        made = jax.jit(lambda nets, batch, key: teacher_trajectory(task, *nets, batch, key))
        for done, part in enumerate(pending):
            with jax.set_mesh(mesh):
                trajectories = _shard(
                    films,
                    part,
                    count,
                    batch,
                    lambda records, key: made(nets, put_batch(mesh, records), key),
                    seed,
                )
            writer.write(part, trajectories)
            print(f"trajectories: shard {done + 1} of {len(pending)}", flush=True)
    return writer.finish()


def _shard(films, part: range, count: int, batch: int, make, seed: int) -> list[NewRecord]:
    records = []
    for first in range(part.start, part.stop, batch):
        # The last batch of all may be short: it is filled up, for one compilation, and cut.
        numbers = [min(first + i, part.stop - 1) for i in range(batch)]
        read = [films[number * len(films) // count] for number in numbers]
        inputs = {
            name: np.stack([record[name] for record in read])
            for name in ("latents", "token_ids", "shot_of_chunk")
        }
        trajectory = jax.device_get(make(inputs, jax.random.fold_in(jax.random.key(seed), first)))
        for i, record in enumerate(read[: min(batch, part.stop - first)]):
            parts = [*trajectory.points[:, i], trajectory.end[i], record["latents"]]
            # Captions stay with the films; every part of the record is under the film's shots.
            records.append(
                NewRecord(np.concatenate(parts), record["token_ids"], np.tile(record["shot_of_chunk"], len(parts)), [])
            )  # fmt: skip
    return records
