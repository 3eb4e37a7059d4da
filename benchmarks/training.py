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
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.settings import Settings
from benchmarks.timing import memory, program_bytes, rates, spread, timed
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.parallel.mesh import check_batch, make_mesh
from causalcine_jax.parallel.sharding import put_batch, state_shardings
from causalcine_jax.planning.flops import FilmFlops
from causalcine_jax.planning.update_flops import update_flops
from causalcine_jax.training import flags
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.stages.distillation import dmd_updates, ode_init_task, ode_init_updates
from causalcine_jax.training.stages.teacher_forcing import TeacherForcing, teacher_forcing_loss
from causalcine_jax.training.state import Nets, Stage, Update, new_state
from causalcine_jax.training.step import make_update, metric_names

# Configs of a preset: stage 1's file, and the preset's name in the files of the later stages.
CONFIGS = {
    "storyworld-base": ("base", "base"),
    "storyworld": ("storyworld", "storyworld"),
    "wan-1.3b": ("wan_1_3b", "wan_1_3b"),
    "wan-14b": ("wan_14b", "wan_14b"),
}


def configs(settings: Settings) -> list[TrainConfig]:
    """Returns the configs of the requested stages, with the settings' batch and dtype."""
    first, size = CONFIGS[settings.preset]
    changes = {
        name: value
        for name, value in (("batch", settings.batch), ("dtype", settings.dtype))
        if value is not None
    }
    files = {
        "teacher_forcing": f"{first}.py",
        "ode_init": f"ode_init.py:{size}",
        "dmd": f"dmd.py:{size}",
    }
    wanted = [file for stage, file in files.items() if stage in settings.stages]
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
    result = {}
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
    steps, flop = max(update.every for update in run.updates), update_flops(run.config, run.films)
    programs, compilation = {}, {}
    for update in run.updates:
        begun = time.perf_counter()
        programs[update.name] = run.program(update)
        compilation[update.name] = time.perf_counter() - begun
    runs = {
        name: sum(update.due(step) for step in range(steps))
        for name, update in zip(programs, run.updates, strict=True)
    }
    for update in run.updates:
        run.step(programs[update.name])
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    turns = []
    for _ in range(repeats):
        spent = []
        for step in range(steps):
            for update in run.updates:
                if update.due(step):
                    spent.append(timed(lambda program=programs[update.name]: run.step(program)))
                    seconds[update.name].append(spent[-1])
        turns.append(sum(spent))
    total = sum(count * flop[name] for name, count in runs.items())
    by_update = {
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
        text_len = config.transformer.text_len
        trained, fixed, self.updates = _networks(config, null_prompt=(1,) + (0,) * (text_len - 1))
        self.batch = put_batch(
            self.mesh, _random_films(config, latent_size, world.latent_frames, world.max_shots)
        )
        dtype = jnp.dtype(config.dtype)
        self.fixed = self._made(lambda key: cast_weights(_each(fixed, key), dtype))
        self._stage = Stage(
            trained, self.fixed, self.updates, batches=None, export=None, exported=_exported(config)
        )
        metrics = metric_names(
            self._stage,
            jax.eval_shape(lambda key: _each(trained, key), jax.random.key(0)),
            self.fixed,
            self.batch,
        )
        self._state = self._made(lambda key: new_state(self._stage, _each(trained, key), metrics))

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


def _networks(
    config: TrainConfig, null_prompt: tuple[int, ...]
) -> tuple[Nets, Nets, tuple[Update, ...]]:
    """Returns the makers of a stage's trained and fixed networks, and its updates."""
    transformer, text_encoder = (
        (lambda key: Transformer(config.transformer, key=key)),
        (lambda key: UMT5Encoder(config.text_encoder, key=key)),
    )
    if config.stage == "teacher_forcing":
        task = TeacherForcing(
            null_prompt,
            config.memory,
            config.time,
            config.chunk_frames,
            config.caption_dropout,
            **config.saving,
        )
        trained, fixed = {"transformer": transformer, "text_encoder": text_encoder}, {}
        if not config.train_text_encoder:
            fixed["text_encoder"] = trained.pop("text_encoder")
        return trained, fixed, (Update(teacher_forcing_loss(task), tuple(trained), config.optim),)
    trained, fixed = {"student": transformer}, {"text_encoder": text_encoder}
    if config.stage == "ode_init":
        if not config.ode.store:
            fixed["teacher"] = transformer
        return trained, fixed, ode_init_updates(config, ode_init_task(config, null_prompt))
    trained["fake_score"] = fixed["teacher"] = transformer
    if config.gan.on:
        trained["head"] = lambda key: config.gan.head(
            config.transformer.dim, config.transformer.num_layers, key=key
        )
    return trained, fixed, dmd_updates(config, null_prompt)


def _exported(config: TrainConfig) -> tuple[str, ...]:
    """Returns the networks that the run averages; empty means all of them."""
    return () if config.stage == "teacher_forcing" else ("student",)


def _each(makers: Nets, key) -> Nets:
    return {
        name: make(part)
        for (name, make), part in zip(
            makers.items(), jax.random.split(key, max(1, len(makers))), strict=False
        )
    }


def _random_films(
    config: TrainConfig, latent_size: tuple[int, int], frames: int, shots: int
) -> dict[str, np.ndarray]:
    """Returns this process's part of a batch, of films or trajectories, as stores hold it."""
    rng, films = np.random.default_rng(0), config.batch // jax.process_count()
    chunks = frames // config.chunk_frames
    records = (
        config.self_forcing.sampler.steps + 2
        if config.stage == "ode_init" and config.ode.store
        else 1
    )
    shot_of_chunk = np.tile(np.arange(chunks) * shots // chunks, records)
    ids = rng.integers(
        2, config.text_encoder.vocab_size, (films, shots, config.transformer.text_len), np.int32
    )
    return {
        "latents": rng.standard_normal(
            (films, records * frames, *latent_size, config.transformer.in_dim), np.float32
        ),
        "token_ids": ids,
        "shot_of_chunk": np.broadcast_to(shot_of_chunk.astype(np.int32), (films, records * chunks)),
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
