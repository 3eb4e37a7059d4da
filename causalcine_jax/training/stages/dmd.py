"""Stage 3: matches the few-step student to its teacher on the student's own rollouts (DMD).

    generator_loss: prompts -> student_rollout -> film -> noised at t
        -> fake score's x0 - teacher's x0 (frozen, guided) = gradient of the film -> student
    critic_loss: prompts -> student_rollout -> film -> noised at t
        -> fake score's flow-matching loss, head's logistic loss -> fake score, head

Both scores are causal multi-shot models in the packed pass. The critic (fake score and head) has
its own rollouts, and is updated several times for each update of the student. Sources: paper 3.4,
Eq. 2 and 11; DMD (arXiv 2311.18828), DMD2 (2405.14867), Self-Forcing `model/dmd.py`.
"""

import dataclasses
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from causalcine_jax.config import PassConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.diffusion.solvers import apply_guidance, memory_guided
from causalcine_jax.errors import raise_faults
from causalcine_jax.parallel.sharding import place_rollout_weights
from causalcine_jax.training.stages import gan
from causalcine_jax.training.stages.clean_history import clean_history
from causalcine_jax.training.stages.dmd_gradient import DMDConfig, dmd_gradient, loss_with_gradient
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.prompts import null_text_of, text_of
from causalcine_jax.training.stages.scoring import FilmSlice, Noised, score_times, slice_velocity
from causalcine_jax.training.stages.self_forcing import (
    SelfForcingConfig,
    StudentRollout,
    generated,
    student_rollout,
)
from causalcine_jax.training.state import Loss, Nets, weighted


@dataclass(frozen=True)
class Guidance:
    """Of a score: classifier-free guidance by text (1: none), and memory guidance (0: none)."""

    text: float = 1.0
    memory: float = 0.0


@dataclass(frozen=True)
class DistributionMatching:
    """What both losses need beside networks and data.

    null_prompt  token ids [T] of the prompt that guidance steers away from
    passes       how the networks' passes run
    time_weight  of the fake score's squared error (diffusion/flow.py)

    `UsageError` listing every fault of the parts and between them.
    """

    null_prompt: tuple[int, ...]
    passes: PassConfig = PassConfig()
    self_forcing: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    dmd: DMDConfig = field(default_factory=DMDConfig)
    gan: GANConfig = field(default_factory=GANConfig)
    rollout_weights: str = "gathered"
    time_weight: str = "none"

    def __post_init__(self):
        faults = [*self.self_forcing.faults(), *self.dmd.faults(), *self.gan.faults()]
        if self.self_forcing.grad_frames % self.passes.chunk_frames:
            faults.append(
                f"self_forcing.grad_frames {self.self_forcing.grad_frames} are not whole chunks "
                f"of {self.passes.chunk_frames}"
            )
        raise_faults("distribution matching", faults)


def generator_loss(task: DistributionMatching) -> Loss:
    """The student's loss (trained, fixed, batch, key) -> (loss, metrics).

    Networks: student, teacher, fake_score, text_encoder, and head with a GAN.
    """
    dmd = task.dmd

    def loss(trained: Nets, fixed: Nets, batch, key):
        nets = {**fixed, **trained}
        key_rollout, key_score = jax.random.split(key)
        text, null = _texts(task, nets, batch)
        shots = batch["shot_of_chunk"]
        rollout = _rollout(task, nets, text, batch, key_rollout)
        film, part = rollout.x0, _gradient_slice(task, rollout)
        t, noise = _noise(task, key_score, film, dmd.shift)
        films = Noised(film, flow.add_noise(film, noise, t), t)

        def denoised(net: str, by: Guidance):
            velocity = _velocity(task, nets[net], films, (text, null), shots, part, by)
            return flow.x0_from_velocity(part.of(films.noisy), velocity, t)

        real, fake = (
            denoised("teacher", Guidance(dmd.real_guidance, dmd.real_memory_guidance)),
            denoised("fake_score", Guidance(dmd.fake_guidance)),
        )
        gradient = dmd_gradient(
            part.of(film),
            real,
            fake,
            chunk_frames=task.passes.chunk_frames,
            normalizer=dmd.normalizer,
        )
        metrics = {
            "dmd_gradient": jnp.mean(jnp.abs(gradient)),
            "exit_step": rollout.exit.astype(jnp.float32),
        }

        logits_of = lambda films: gan.logits(
            task.gan, task.passes, nets, films, (text, shots), part
        )
        t_head, noise_head = _noise_of_head(task, key_score, film, (t, noise))

        def adversarial_of(x):
            noisy = flow.add_noise(part.put(film, x), noise_head, t_head)
            again = Noised(film, noisy, t_head)
            return gan.generator_term(logits_of(again))

        pull = None
        if task.gan.on:
            # The GAN's gradient too is taken with respect to x. So one pass of the student serves
            # both terms, and the sizes of their gradients are comparable.
            adversarial, pull_back = jax.vjp(adversarial_of, part.of(film))
            pull = jax.lax.stop_gradient(pull_back(jnp.ones(()))[0])

        x = _frames_with_gradient(
            task, nets["student"], rollout, text, shots, after=(gradient, pull)
        )
        metrics["dmd"] = value = loss_with_gradient(x, jax.lax.stop_gradient(gradient))
        if pull is not None:
            weight = task.gan.generator_weight
            adversarial += jnp.sum(pull * (x - jax.lax.stop_gradient(x)))
            value += weight * adversarial
            # The term of distribution matching is a mean over x: multiply for the same scale.
            metrics |= {
                "adversarial": adversarial,
                "adversarial_gradient": weight * x.size * jnp.mean(jnp.abs(pull)),
            }
        return value, weighted(metrics)

    return loss


def _frames_with_gradient(
    task: DistributionMatching, student, rollout: StudentRollout, text, shots, *, after
) -> Float[Array, "b g h w c"]:
    """The rollout's frames with their gradient, computed after `after`.

    Otherwise this pass's saved activations would take memory while the film is scored.
    """
    if task.self_forcing.recommit:
        film = dataclasses.replace(rollout, pool=None)
        film, committing, _ = jax.lax.optimization_barrier(
            (*jax.lax.stop_gradient((film, student)), after)
        )
        committing = place_rollout_weights(committing, task.rollout_weights)
        pool = clean_history(committing, film.x0, text, shots, task.passes)
        with_pool = dataclasses.replace(film, pool=pool)
    else:
        with_pool, _ = jax.lax.optimization_barrier((jax.lax.stop_gradient(rollout), after))
    return generated(student, with_pool, text, shots, task.self_forcing, task.passes)


def critic_loss(task: DistributionMatching) -> Loss:
    """The loss of fake score and head, on the critic's own rollout and noise.

    Networks: fake_score, student, text_encoder, and head with a GAN. Only the head reads the films
    of `batch`, as real ones.
    """
    dmd = task.dmd

    def loss(trained: Nets, fixed: Nets, batch, key):
        nets = {**fixed, **trained}
        key_rollout, key_score, key_r1 = jax.random.split(key, 3)
        text, _ = jax.lax.stop_gradient(_texts(task, nets, batch))
        shots = batch["shot_of_chunk"]
        rollout = _rollout(task, nets, text, batch, key_rollout)
        film, part = rollout.x0, _gradient_slice(task, rollout)
        t, noise = _noise(task, key_score, film, dmd.shift)
        films = Noised(film, flow.add_noise(film, noise, t), t)
        velocity = slice_velocity(
            nets["fake_score"], films, text, shots, part, task.passes,
            from_noisy=dmd.score_context == "noisy_causal",
        )  # fmt: skip
        target = part.of(flow.velocity_target(film, noise))
        error = jnp.mean(jnp.square(velocity.astype(jnp.float32) - target), axis=(1, 2, 3, 4))
        value = jnp.mean(flow.loss_weight(t, task.time_weight, s=dmd.shift) * error)
        metrics = {"critic_mse": value}
        if task.gan.on:
            t, noise = _noise_of_head(task, key_score, film, (t, noise))
            real, fake = (
                Noised(latents, flow.add_noise(latents, noise, t), t)
                for latents in (batch["latents"].astype(jnp.float32), film)
            )
            head, of_head = gan.head_loss(
                task.gan, task.passes, nets, (real, fake), (text, shots), part, key_r1
            )
            value += task.gan.discriminator_weight * head
            metrics |= of_head
        return value, weighted(metrics)

    return loss


def _velocity(
    task: DistributionMatching, net, films: Noised, texts, shots, part: FilmSlice, by: Guidance
) -> Float[Array, "b g h w c"]:
    """A score's velocity of the window's frames, without gradient in the score's weights.

    With guidance by text it is a batch of two, [prompt, null], each with its own history. Memory
    guidance repeats the pass without memory, in the clean chunks too.
    """
    text, null = texts
    net, passes = jax.lax.stop_gradient(net), dataclasses.replace(task.passes, remat=0)
    if by.text != 1:
        twice = lambda a: jnp.concatenate([a, a])
        films, text, shots = jax.tree.map(twice, films), jnp.concatenate([text, null]), twice(shots)

    def velocity(memory):
        how = dataclasses.replace(passes, memory=memory)
        from_noisy = task.dmd.score_context == "noisy_causal"
        v = slice_velocity(net, films, text, shots, part, how, from_noisy=from_noisy)
        return v.astype(jnp.float32)

    v = memory_guided(velocity(passes.memory), velocity, passes.memory, by.memory)
    if by.text == 1:
        return v
    v_cond, v_uncond = jnp.split(v, 2)
    return apply_guidance(v_cond, v_uncond, by.text)


def _gradient_slice(task: DistributionMatching, rollout: StudentRollout) -> FilmSlice:
    """The rollout's frames that carry gradient."""
    frames = task.self_forcing.frames(rollout.x0.shape[1])
    return FilmSlice(rollout.start, frames, task.passes.chunk_frames)


def _texts(task: DistributionMatching, nets: Nets, batch):
    """The films' prompts, embedded, and the null prompt in the place of each."""
    text_encoder = nets.get("text_encoder")
    text = text_of(text_encoder, batch)
    return text, null_text_of(text_encoder, task.null_prompt, batch, text)


def _rollout(task: DistributionMatching, nets: Nets, text, batch, key):
    student = place_rollout_weights(nets["student"], task.rollout_weights)
    return student_rollout(
        student, text, batch["shot_of_chunk"], batch["latents"].shape[2:], key,
        task.self_forcing, task.passes,
    )  # fmt: skip


def _noise(task: DistributionMatching, key, film, shift: float, highest: float = flow.TRAIN_TIMES):
    """A time per film, from dmd.t_min to `highest`, and noise."""
    key_time, key_noise = jax.random.split(key)
    t = score_times(key_time, film.shape[0], shift, task.dmd.t_min, task.dmd.t_max, highest)
    return t, jax.random.normal(key_noise, film.shape)


def _noise_of_head(task: DistributionMatching, key, film, of_scores):
    """Time and noise in front of the head: those of the scores, unless it has its own."""
    if not task.gan.shift:
        return of_scores
    return _noise(task, jax.random.fold_in(key, 2), film, task.gan.shift, task.gan.t_max)
