"""ODE initialisation: the student learns the teacher's ODE endpoints (paper 3.4, Eq. 10).

    teacher: film's clean chunks, committed one by one -> pool of ground-truth history
        noise -> Euler steps, all chunks at once against that pool
        -> Trajectory: x at the student's times, and the end
    student: one packed pass over (clean film, x at its first time, x at its second, ...)
        -> x0 -> mean squared error to the end

History is the true film's, never the student's. Every chunk of a trajectory starts from noise and
ends where the teacher's ODE ends, given the clean chunks before it. So the student learns the
teacher's causal visibility before its own rollouts. The 48 steps, shared times and squared error
are those of Causal Forcing (arXiv 2602.02214).

A trajectory costs far more than the student's step on it, so the student learns from all its times
at once. A noisy segment of the pass attends only to itself and to earlier clean chunks. So the
film's clean half is computed once for all times or, if memory is short, once per group of times.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float, Int

from causalcine_jax.config import PassConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.diffusion.solvers import SamplerConfig, memory_guided, sample
from causalcine_jax.errors import UsageError, least_faults, range_faults
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.packed import pool_forced, teacher_forced
from causalcine_jax.parallel.sharding import place_rollout_weights
from causalcine_jax.training.stages.clean_history import clean_history
from causalcine_jax.training.stages.prompts import null_text_of, text_of
from causalcine_jax.training.state import Loss, Metrics, Nets, weighted
from causalcine_jax.utils.arrays import AnyArray

# Public step lists are rounded, so a student's time matches a teacher's this close, of 1000.
NEAR = 1.0


@dataclass(frozen=True)
class ODEConfig:
    """The teacher's trajectories.

    steps     of its Euler solver; the student's times must be among theirs
    guidance  its classifier-free guidance, which the student learns to do without; 1 means none
    store     folder of trajectories, made first if missing; "" computes each batch's on the fly
    films     in that store, spread evenly over the latent store's
    times_at_once  of a trajectory that the student learns from in one pass; 0 for all. Fewer save
                   memory, because the backward pass then recomputes each pass
    memory_guidance  of its sampler (diffusion/solvers.py), learned in the same way; 0 means none
    batch     of the store: films that each group of `seq` devices makes at once. No trajectory
              depends on it
    """

    steps: int = 48
    guidance: float = 6.0
    store: str = ""
    films: int = 256
    times_at_once: int = 0
    memory_guidance: float = 0.0
    batch: int = 1

    def faults(self) -> Iterable[str]:
        yield from range_faults("ode.steps", self.steps, 1, flow.TRAIN_TIMES)
        from_0 = ("guidance", "memory_guidance", "times_at_once")
        yield from least_faults(self, from_0, 0, "ode.")
        yield from least_faults(self, ("films", "batch"), 1, "ode.")

    def sampler(self, shift: float) -> SamplerConfig:
        """The teacher's sampler, on the student's schedule."""
        return SamplerConfig(
            "euler", self.steps, shift, self.guidance, memory_guidance=self.memory_guidance
        )


@dataclass(frozen=True)
class ODEInit:
    """What the loss needs beside networks and data.

    null_prompt       token ids [T] of the prompt that guidance steers away from
    passes            how the networks' passes run
    student, teacher  their samplers. `UsageError` if a student's time is none of the teacher's
    stored            batches hold trajectories (trajectory_store.py); False: they hold films
    times_at_once     None for all; a number that does not divide them is a `UsageError`
    """

    null_prompt: tuple[int, ...]
    student: SamplerConfig
    teacher: SamplerConfig
    passes: PassConfig = PassConfig()
    rollout_weights: str = "gathered"
    stored: bool = False
    times_at_once: int | None = None

    def __post_init__(self):
        times = len(self.teacher_steps)
        if self.times_at_once and times % self.times_at_once:
            raise UsageError(
                f"ode.times_at_once {self.times_at_once} does not divide the student's "
                f"{times} times"
            )

    @property
    def teacher_steps(self) -> tuple[int, ...]:
        """At which of the teacher's steps the student's times are."""
        times, wanted = self.teacher.times, self.student.times
        steps = [int(np.argmin(np.abs(times - t))) for t in wanted]
        strangers = [
            f"{t:g} (nearest {times[step]:g})"
            for t, step in zip(wanted, steps, strict=True)
            if abs(times[step] - t) > NEAR
        ]
        if strangers:
            raise UsageError(
                f"the student's times {', '.join(strangers)} are not among the teacher's "
                f"{len(times)} steps at shift {self.teacher.shift:g}: "
                "choose self_forcing.step_list from them, or another ode.steps"
            )
        return tuple(steps)

    @property
    def times(self) -> Float[np.ndarray, " k"]:
        """The student's times, 0..1000, as the teacher's solver has them."""
        return self.teacher.times[list(self.teacher_steps)]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Trajectory:
    """A teacher's ODE from noise: x at the student's K times, and its end. It has no gradient."""

    points: Float[AnyArray, "k b f h w c"]
    end: Float[AnyArray, "b f h w c"]


def teacher_trajectory(
    task: ODEInit, teacher: Transformer, text_encoder, batch, noise: Float[Array, "b f h w c"]
) -> Trajectory:
    """The teacher's ODE from `noise`, for every chunk of the batch's films, given clean history.

    With guidance, the null prompt has a history of its own, as in generation. `text_encoder` may be
    None for a batch with "text".
    """
    teacher = place_rollout_weights(teacher, task.rollout_weights)
    film, shots = batch["latents"].astype(jnp.float32), batch["shot_of_chunk"]
    text = text_of(text_encoder, batch)
    if task.teacher.guided:
        null = null_text_of(text_encoder, task.null_prompt, batch, text)
        text, shots = jnp.concatenate([text, null]), jnp.concatenate([shots, shots])
    films = jnp.concatenate([film, film]) if task.teacher.guided else film
    passes = dataclasses.replace(task.passes, remat=0)
    history = clean_history(teacher, films, text, shots, passes)

    def velocity(x, t):
        def under(memory):
            how = dataclasses.replace(passes, memory=memory)
            return pool_forced(teacher, history, x, t, text, shots, how)

        memory = passes.memory
        return memory_guided(under(memory), under, memory, task.teacher.memory_guidance)

    unused = jax.random.key(0)  # Euler's method draws nothing
    end, points = sample(velocity, noise, task.teacher, unused, keep=task.teacher_steps)
    return jax.lax.stop_gradient(Trajectory(points, end))


def student_velocity(
    task: ODEInit,
    student: Transformer,
    clean: Float[Array, "b f h w c"],
    points: Float[Array, "k b f h w c"],
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
) -> Float[Array, "k b f h w c"]:
    """The student's velocity at `points`, x at each of its K times, given clean history.

    Equals K calls of `teacher_forced`, in one pass or a few, which the backward pass recomputes.
    """
    times = jnp.asarray(task.times, jnp.float32)
    some = lambda part: _velocity_at(task, student, clean, part[0], part[1], text, shot_of_chunk)
    if task.times_at_once in (None, len(times)):
        return some((points, times))
    groups = jax.tree.map(
        lambda a: a.reshape(-1, task.times_at_once, *a.shape[1:]), (points, times)
    )
    return jax.lax.map(jax.checkpoint(some, prevent_cse=False), groups).reshape(points.shape)


def _velocity_at(
    task: ODEInit,
    student: Transformer,
    clean,
    points,
    times: Float[Array, " k"],
    text,
    shot_of_chunk,
):
    """`student_velocity` at K of its times."""
    films, chunks = shot_of_chunk.shape
    noisy, t = jnp.concatenate([*points], axis=1), jnp.repeat(times, chunks)
    t = jnp.broadcast_to(t, (films, len(t)))
    velocity = teacher_forced(student, clean, noisy, t, text, shot_of_chunk, task.passes)
    return rearrange(velocity, "b (k f) h w c -> k b f h w c", k=len(points))


def ode_init_loss(task: ODEInit) -> Loss:
    """The student's loss (trained, fixed, batch, key) -> (loss, metrics).

    Networks: student, text_encoder, and teacher unless trajectories are stored.

    Metrics: the error at each of the student's times, x0_t1000 and so on.
    """
    times = jnp.asarray(task.times, jnp.float32)

    def loss(trained: Nets, fixed: Nets, batch, key):
        nets = {**fixed, **trained}
        if task.stored:
            batch, trajectory = split_record(batch, len(task.teacher_steps))
        else:
            noise = jax.random.normal(key, batch["latents"].shape)
            trajectory = teacher_trajectory(
                task, nets["teacher"], nets.get("text_encoder"), batch, noise
            )
        text = jax.lax.stop_gradient(text_of(nets.get("text_encoder"), batch))
        clean = batch["latents"].astype(jnp.float32)

        velocity = student_velocity(
            task, nets["student"], clean, trajectory.points, text, batch["shot_of_chunk"]
        )
        x0 = jax.vmap(flow.x0_from_velocity)(trajectory.points, velocity.astype(jnp.float32), times)
        errors = jnp.mean(jnp.square(x0 - trajectory.end), axis=(1, 2, 3, 4, 5))
        return jnp.mean(errors), _by_time(task, errors)

    return loss


def split_record(batch, points: int):
    """A batch of a trajectory store, as the films in it and the Trajectory of each."""
    latents, shots = batch["latents"].astype(jnp.float32), batch["shot_of_chunk"]
    parts = jnp.moveaxis(
        jnp.reshape(latents, (latents.shape[0], points + 2, -1, *latents.shape[2:])), 1, 0
    )
    film = {
        **batch,
        "latents": parts[points + 1],
        "shot_of_chunk": shots[:, : shots.shape[1] // (points + 2)],
    }
    return film, Trajectory(parts[:points], parts[points])


def _by_time(task: ODEInit, errors: Float[Array, " k"]) -> Metrics:
    return weighted(
        {f"x0_t{round(float(t))}": error for t, error in zip(task.times, errors, strict=True)}
    )
