"""The student's own rollout, and its gradient (paper 3.4; Self-Forcing, arXiv 2506.08009).

    no gradient: noise -> each chunk: few-step sampler up to a random exit step
                       -> its x0 prediction, committed -> StudentRollout
    gradient:    StudentRollout's x_t at the exit step + StudentRollout's pool -> one packed pass
                       -> x0 of the chunks in the window

The rollout is that of generation: the same moves against the same pool. All chunks leave the
sampler at the same step, drawn once, so that no process waits for another. Backpropagation would
need a pool per chunk, but no gradient passes through history. So the rollout's final pool serves
all exit steps, and one packed pass of all chunks has the gradient of autodiff through the rollout
(test_self_forcing.py). The clean half is not computed again.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from causalcine_jax.config import PassConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.diffusion.solvers import SamplerConfig, sample_until, schedule
from causalcine_jax.errors import UsageError, choice_faults, range_faults
from causalcine_jax.film.rollout import chunk_velocity, commit_chunk, empty_cache
from causalcine_jax.film.state import noise_of
from causalcine_jax.models import dit
from causalcine_jax.models.cache.kv_cache import KVCache
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.gather import gather
from causalcine_jax.models.packed import pool_forced
from causalcine_jax.training.stages.scoring import FilmSlice

EXITS = ("random", "last")


@dataclass(frozen=True)
class SelfForcingConfig:
    """The student's rollout in training.

    steps          of the student's sampler
    shift          of its times: 4 steps and 5 give 1000, 937.5, 833.3, 625
    step_list      the exact times instead, descending; empty for those of `steps` and `shift`
    exit           the step whose x0 prediction a chunk keeps: random (one for all chunks of all
                   films) or last (always all steps)
    grad_frames    frames of the film that carry gradient: whole chunks from a random chunk on; 0
                   for the whole film
    context_noise  time to which a chunk is noised before its commit, in training only: films
                   commit every chunk clean, as 0 does here
    recommit       drops the rollout's pool while the film is scored and commits the film again for
                   the student's gradient. Saves a pool's memory; costs a commit per chunk and
                   another gathering of the weights
    """

    steps: int = 4
    shift: float = 5.0
    step_list: tuple[float, ...] = ()
    exit: str = "random"
    grad_frames: int = 21
    context_noise: float = 0.0
    recommit: bool = False

    @property
    def sampler(self) -> SamplerConfig:
        """The student's sampler, for training and generation. `UsageError` if it is invalid."""
        steps = len(self.step_list) or self.steps
        return SamplerConfig(
            "few_step", steps, self.shift, guidance=1.0, step_list=tuple(self.step_list) or None
        )

    def exit_step(self, key) -> Int[Array, ""]:
        """The step that all chunks leave the sampler at."""
        last = self.sampler.steps - 1
        return jnp.int32(last) if self.exit == "last" else jax.random.randint(key, (), 0, last + 1)

    def grad_start(self, key, chunks: int, chunk_frames: int) -> Int[Array, ""]:
        """The chunk that the frames with gradient begin at.

        Starts beyond both ends are drawn too, and clipped. Otherwise the film's first and last
        chunks would rarely be trained.
        """
        inside = self.frames(chunks * chunk_frames) // chunk_frames
        if inside == chunks:
            return jnp.int32(0)
        return jnp.clip(jax.random.randint(key, (), 1 - inside, chunks), 0, chunks - inside)

    def frames(self, film_frames: int) -> int:
        """How many frames of a film carry gradient."""
        return min(self.grad_frames or film_frames, film_frames)

    def faults(self) -> Iterable[str]:
        try:
            _ = self.sampler
        except UsageError as error:
            yield f"self_forcing: {str(error).removeprefix('sampler: ')}"
        yield from choice_faults("self_forcing.exit", self.exit, EXITS)
        yield from range_faults("self_forcing.grad_frames", self.grad_frames, 0)
        noise, most = self.context_noise, flow.TRAIN_TIMES
        yield from range_faults("self_forcing.context_noise", noise, 0, most, open_high=True)
        if self.recommit and self.context_noise:
            yield "self_forcing.recommit commits films clean: it needs self_forcing.context_noise=0"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class StudentRollout:
    """A student's films, as numbers: no gradient passes through any of this.

    x0     what was committed, chunk by chunk
    xt     what the sampler's exit step started from
    exit   that step, counted from 0
    start  the first chunk of those with gradient
    pool   the keys and values of all chunks; None where they are to be made again
    """

    x0: Float[Array, "b f h w c"]
    xt: Float[Array, "b f h w c"]
    exit: Int[Array, ""]
    start: Int[Array, ""]
    pool: KVCache | None


def student_rollout(
    model: Transformer,
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    frame_shape: tuple[int, int, int],
    key: Array,
    config: SelfForcingConfig,
    passes: PassConfig,
) -> StudentRollout:
    """Films of N chunks of frames [h, w, c] from noise. The pool holds all chunks without eviction.

    Chunk i's noise is what generation draws from the same key for the same number of films.
    """
    model, text = jax.lax.stop_gradient((model, text))
    (films, chunks), sampler = shot_of_chunk.shape, config.sampler
    memory, chunk_frames = passes.memory, passes.chunk_frames
    key_exit, key_noise, key_window = jax.random.split(key, 3)
    exit_step = config.exit_step(key_exit)
    prompts = dit.text_keys_values(model, text)
    pool = empty_cache(
        model, films, chunks * chunk_frames, frame_shape[:2], chunk_frames, memory=memory
    )

    def chunk(pool: KVCache, index):
        shot = shot_of_chunk[:, index, None]
        context = jax.tree.map(lambda a: jax.vmap(gather, (0, None))(a, shot), prompts)
        noise, key_solver = noise_of(key_noise, index, (films, chunk_frames, *frame_shape))
        velocity = lambda x, t: chunk_velocity(model, pool, x, t, context, index, memory)
        xt, x0 = sample_until(velocity, noise, sampler, key_solver, exit_step)
        committed = x0
        if config.context_noise:
            fresh = jax.random.normal(jax.random.fold_in(key_solver, sampler.steps), x0.shape)
            committed = flow.add_noise(x0, fresh, config.context_noise)
        pool = commit_chunk(
            model, pool, committed, context, index, memory=memory, t=config.context_noise
        )
        return pool, (x0, xt)

    pool, made = jax.lax.scan(chunk, pool, jnp.arange(chunks, dtype=jnp.int32))
    x0, xt = (
        jnp.moveaxis(a, 0, 1).reshape(films, chunks * chunk_frames, *frame_shape) for a in made
    )
    return StudentRollout(
        x0, xt, exit_step, config.grad_start(key_window, chunks, chunk_frames), pool
    )


def generated(
    model: Transformer,
    rollout: StudentRollout,
    text: Float[Array, "b shots tokens text_dim"],
    shot_of_chunk: Int[Array, "b n"],
    config: SelfForcingConfig,
    passes: PassConfig,
) -> Float[Array, "b g h w c"]:
    """The rollout's `grad_frames` frames from `start`, with their gradient in model and text."""
    table = schedule(config.sampler)
    t, sigma = (
        jnp.asarray(column, jnp.float32)[rollout.exit] for column in (table.times, table.sigmas)
    )
    frames = config.frames(rollout.xt.shape[1])
    xt = FilmSlice(rollout.start, frames, passes.chunk_frames).of(rollout.xt)
    assert rollout.pool is not None
    pool = jax.lax.stop_gradient(rollout.pool)
    velocity = pool_forced(model, pool, xt, t, text, shot_of_chunk, passes, first=rollout.start)
    return xt - sigma * velocity.astype(jnp.float32)
