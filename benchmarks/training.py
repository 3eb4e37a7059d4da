"""Training steps as in configs/*.py, on random films: stage 1, ODE initialisation, a DMD cycle.

    config -> networks with random weights
        -> the stage's own updates, jitted and donated as in training/loop.py
        -> seconds, operations, bytes

A cycle of distribution matching (DMD) is `generator_every` steps of the run: one update of the
student and that many of the critic, each with its own rollout. Its ratio is its time, over the
time that its operations would take at the rate of stage 1's step.
"""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.flops import FilmFlops
from benchmarks.settings import Settings
from benchmarks.timing import memory, program_bytes, programs_loaded, rates, spread, timed
from benchmarks.update_flops import update_flops
from causalcine_jax.parallel.mesh import check_batch, make_mesh
from causalcine_jax.parallel.sharding import put_batch, state_shardings
from causalcine_jax.training import flags
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.stages.spec import StageSpec, init_networks, stage_spec
from causalcine_jax.training.stages.table import FILM_STAGES, STAGES
from causalcine_jax.training.state import Update, new_state
from causalcine_jax.training.step import make_update, metric_names

# The configs of a preset: stage 1's, and the size that the later stages' files know it by.
CONFIGS = {
    "storyworld-base": ("base.py", "base"),
    "storyworld": ("storyworld.py", "storyworld"),
    "wan-1.3b": ("wan.py:1.3b", "wan_1_3b"),
    "wan-14b": ("wan.py:14b", "wan_14b"),
}


def configs(settings: Settings) -> list[TrainConfig]:
    """Returns the configs of the requested stages, with the settings' batch and dtype."""
    first, size = CONFIGS[settings.preset]
    changes: dict[str, Any] = {
        name: value
        for name, value in (
            ("batch", settings.batch),
            ("dtype", settings.dtype),
            ("remat", settings.remat),
        )
        if value is not None
    }
    wanted = [
        f"{stage}.py:{size}" if STAGES[stage].student else first
        for stage in FILM_STAGES
        if stage in settings.stages
    ]
    return [
        dataclasses.replace(
            flags.parse([f"--config={Path(settings.configs) / file}"])[0], **changes
        )
        for file in wanted
    ]


def training(settings: Settings) -> dict:
    """Measures the stages, and the ratio of the DMD cycle."""
    wanted = configs(settings)
    return {
        "film": _film(settings, wanted[0]),
        **stages(wanted, settings.latent_size, settings.repeats),
    }


def stages(configs: list[TrainConfig], latent_size: tuple[int, int], repeats: int) -> dict:
    """Measures the stages one after the other.

    With stage 1 among them, compares the DMD cycle with its rate. A stage's own memory is its
    programs' `bytes`. `memory` is the process's peak over all stages so far and their compilation.
    """
    result: dict[str, Any] = {}
    for config in configs:
        print(f"  {config.stage} ...", flush=True)
        result[config.stage] = measured(StageRun(config, latent_size), repeats)
    result["memory"] = memory()
    if {"teacher_forcing", "dmd"} <= result.keys():
        first, cycle = result["teacher_forcing"], result["dmd"]
        cycle["seconds_at_stage_1_rate"] = cycle["flop"] / first["flop_per_second"]
        # The mean, because each rollout draws its exit step.
        cycle["ratio"] = cycle["seconds"]["mean"] / cycle["seconds_at_stage_1_rate"]
    return result


def measured(run: "StageRun", repeats: int) -> dict:
    """Measures `repeats` turns of a stage: the steps after which every update has run."""
    cycle, flop = max(update.every for update in run.updates), update_flops(run.config, run.films)
    # The first whole cycle in which all updates have begun.
    first = -(-max(update.start for update in run.updates) // cycle) * cycle
    steps = range(first, first + cycle)
    programs, compilation, before = {}, {}, programs_loaded()
    for update in run.updates:
        begun = time.perf_counter()
        programs[update.name] = run.program(update)
        compilation[update.name] = time.perf_counter() - begun
    loaded = programs_loaded() - before
    runs = {
        name: sum(update.due(step) for step in steps)
        for name, update in zip(programs, run.updates, strict=True)
    }
    for update in run.updates:
        timed(partial(run.step, programs[update.name]))  # warms up, and is over before the first
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    turns = []
    for _ in range(repeats):
        spent = []
        for step in steps:
            for update in run.updates:
                if update.due(step):
                    spent.append(timed(partial(run.step, programs[update.name])))
                    seconds[update.name].append(spent[-1])
        turns.append(sum(spent))
    total = sum(count * flop[name] for name, count in runs.items())
    by_update: dict[str, dict[str, Any]] = {
        name: {
            "runs": runs[name],
            "seconds": spread(times),
            "flop": flop[name],
            "bytes": program_bytes(programs[name]),
        }
        for name, times in seconds.items()
    }
    return {
        "batch": run.config.batch,
        "dtype": run.config.dtype,
        "remat": run.config.remat,
        "seconds": spread(turns),
        **rates(total, spread(turns)["median"], run.config.dtype, run.mesh.size),
        "compile_seconds": sum(compilation.values()),
        "programs_loaded": loaded,  # not compiled: JAX_COMPILATION_CACHE_DIR had them
        "bytes": max(
            (update["bytes"] for update in by_update.values()), key=lambda size: size["together"]
        ),
        **({"updates": by_update} if len(by_update) > 1 else {}),
    }


class StageRun:
    """A stage ready to run, with random weights and films instead of checkpoints and stores."""

    def __init__(self, config: TrainConfig, latent_size: tuple[int, int]):
        self.config, self.mesh = config, make_mesh(config.seq)
        for optim in (config.optim, config.critic_optim):
            check_batch(self.mesh, config.batch, optim.accumulation)
        world, (_, rows, columns) = config.world, config.transformer.patch_size
        tokens = latent_size[0] // rows * (latent_size[1] // columns)
        self.films = FilmFlops(
            config.transformer,
            config.memory,
            config.batch,
            world.chunks,
            tokens,
            world.max_shots,
            config.chunk_frames,
        )
        spec = stage_spec(config, (1,) + (0,) * (config.transformer.text_len - 1))
        self._stage, self.updates = spec.shapes(), spec.updates
        self.batch = put_batch(self.mesh, _random_films(config, spec, latent_size))
        self.fixed = self._made(lambda key: init_networks(spec.fixed, key))
        metrics = metric_names(self._stage, self._stage.trained, self.fixed, self.batch)
        self._state = self._made(
            lambda key: new_state(self._stage, init_networks(spec.trained, key), metrics)
        )

    def program(self, update: Update):
        """Compiles an update as the loop does."""
        shardings = state_shardings(self.mesh, self._state)
        jitted = jax.jit(
            make_update(self._stage, update, self.config), donate_argnums=0, out_shardings=shardings
        )
        with jax.set_mesh(self.mesh):
            return jitted.lower(self._state, self.fixed, self.batch).compile()

    def step(self, program):
        self._state = program(self._state, self.fixed, self.batch)
        return self._state

    def _made(self, make):
        """Makes `make(key)`, created with its shardings."""
        key = jax.random.key(self.config.seed)
        return jax.jit(make, out_shardings=state_shardings(self.mesh, jax.eval_shape(make, key)))(
            key
        )


def _random_films(
    config: TrainConfig, spec: StageSpec, latent_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """This process's part of a batch as stores hold it: of films, or of trajectories."""
    rng, world = np.random.default_rng(0), config.world
    films, shots = config.batch // jax.process_count(), world.max_shots
    shapes = spec.batch(config, films, world.latent_frames, latent_size, shots)
    chunks = world.latent_frames // config.chunk_frames
    shot_of_chunk = np.tile(np.arange(chunks) * shots // chunks, spec.films_per_record)
    known = {
        name: rng.standard_normal(shape.shape, np.float32).astype(shape.dtype)
        for name, shape in shapes.items()
        if name in ("text", "null_text")
    }
    return {
        **known,
        "latents": rng.standard_normal(shapes["latents"].shape, np.float32),
        "token_ids": rng.integers(
            2, config.text_encoder.vocab_size, shapes["token_ids"].shape, np.int32
        ),
        "shot_of_chunk": np.broadcast_to(
            shot_of_chunk.astype(np.int32), shapes["shot_of_chunk"].shape
        ),
    }


def _film(settings: Settings, config: TrainConfig) -> dict:
    return {
        "width": settings.width,
        "height": settings.height,
        "latent_frames": config.world.latent_frames,
        "chunks": config.world.chunks,
        "shots": config.world.max_shots,
        "tokens_per_frame": settings.tokens,
    }
