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
from causalcine_jax.diffusion.solvers import guided
from causalcine_jax.errors import raise_faults
from causalcine_jax.parallel.sharding import place_rollout_weights
from causalcine_jax.training.stages import gan
from causalcine_jax.training.stages.clean_history import clean_history
from causalcine_jax.training.stages.dmd_gradient import DMDConfig, dmd_gradient, follow
from causalcine_jax.training.stages.gan import GANConfig
from causalcine_jax.training.stages.scoring import Noised, Window, score_times, window_velocity
from causalcine_jax.training.stages.self_forcing import (
    Rollout,
    SelfForcingConfig,
    generated,
    student_rollout,
)
from causalcine_jax.training.state import Loss, Metrics, Nets


@dataclass(frozen=True)
class DistributionMatching:
    """What both losses need beside networks and data.

    null_prompt  token ids [T] of the prompt that guidance steers away from
    passes       how the networks' passes run

    `UsageError` listing every fault of the parts and between them.
    """

    null_prompt: tuple[int, ...]
    passes: PassConfig = PassConfig()
    self_forcing: SelfForcingConfig = field(default_factory=SelfForcingConfig)
    dmd: DMDConfig = field(default_factory=DMDConfig)
    gan: GANConfig = field(default_factory=GANConfig)
    rollout_weights: str = "gathered"

    def __post_init__(self):
        faults = [*self.self_forcing.faults(), *self.dmd.faults(), *self.gan.faults()]
        if self.self_forcing.grad_frames % self.passes.chunk_frames:
            faults.append(
                f"self_forcing.grad_frames {self.self_forcing.grad_frames} are not whole chunks "
                f"of {self.passes.chunk_frames}"
            )
        raise_faults("distribution matching", faults)


def check_networks(nets: Nets) -> None:
    """`UsageError` unless all transformers have the same latent and text dimensions.

    Their widths and depths may differ.
    """
    student = nets["student"].config
    sizes = [
        (name, part, getattr(nets[name].config, part), getattr(student, part))
        for name in ("teacher", "fake_score")
        for part in ("in_dim", "out_dim", "text_dim")
        if name in nets
    ]
    raise_faults(
        "networks",
        [
            f"{name}.{part} is {theirs}, the student's {ours}"
            for name, part, theirs, ours in sizes
            if theirs != ours
        ],
    )


def generator_loss(task: DistributionMatching) -> Loss:
    """The student's loss (trained, fixed, batch, key) -> (loss, metrics).

    Networks: student, teacher, fake_score, text_encoder, and head with a GAN.
    """
    dmd = task.dmd

    def loss(trained: Nets, fixed: Nets, batch, key):
        nets = {**fixed, **trained}
        check_networks(nets)
        key_rollout, key_score = jax.random.split(key)
        text, null = _texts(task, nets, batch)
        shots = batch["shot_of_chunk"]
        rollout = _rollout(task, nets, text, batch, key_rollout)
        film, part = rollout.x0, _window(task, rollout)
        t, noise = _noise(task, key_score, film)
        films = Noised(film, flow.add_noise(film, noise, t), t)

        def denoised(net: str, guidance: float):
            velocity = _velocity(task, nets[net], films, (text, null), shots, part, guidance)
            return flow.x0_from_velocity(part.of(films.noisy), velocity, t)

        real, fake = (
            denoised("teacher", dmd.real_guidance),
            denoised("fake_score", dmd.fake_guidance),
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

        def adversarial_of(x):
            noisy = flow.add_noise(part.put(film, x), noise, t)
            again = Noised(film, noisy, t)
            return gan.generator_term(_logits(task, nets, again, text, shots, part))

        pull = None
        if task.gan.on:
            # In x, both terms share the student's pass, and their gradients can be compared.
            adversarial, pull_back = jax.vjp(adversarial_of, part.of(film))
            pull = jax.lax.stop_gradient(pull_back(jnp.ones(()))[0])

        x = _again(task, nets["student"], rollout, text, shots, after=(gradient, pull))
        metrics["dmd"] = value = follow(x, jax.lax.stop_gradient(gradient))
        if pull is not None:
            weight = task.gan.generator_weight
            adversarial += jnp.sum(pull * (x - jax.lax.stop_gradient(x)))
            value += weight * adversarial
            # Undo the mean over x.
            metrics |= {
                "adversarial": adversarial,
                "adversarial_gradient": weight * x.size * jnp.mean(jnp.abs(pull)),
            }
        return value, _weighted(metrics)

    return loss


def _again(
    task: DistributionMatching, student, rollout: Rollout, text, shots, *, after
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
        kept = dataclasses.replace(film, pool=pool)
    else:
        kept, _ = jax.lax.optimization_barrier((jax.lax.stop_gradient(rollout), after))
    return generated(student, kept, text, shots, task.self_forcing, task.passes)


def critic_loss(task: DistributionMatching) -> Loss:
    """The loss of fake score and head, on the critic's own rollout and noise.

    Networks: fake_score, student, text_encoder, and head with a GAN. Only the head reads the films
    of `batch`, as real ones.
    """
    dmd = task.dmd

    def loss(trained: Nets, fixed: Nets, batch, key):
        nets = {**fixed, **trained}
        check_networks(nets)
        key_rollout, key_score, key_r1 = jax.random.split(key, 3)
        text, _ = jax.lax.stop_gradient(_texts(task, nets, batch))
        shots = batch["shot_of_chunk"]
        rollout = _rollout(task, nets, text, batch, key_rollout)
        film, part = rollout.x0, _window(task, rollout)
        t, noise = _noise(task, key_score, film)
        films = Noised(film, flow.add_noise(film, noise, t), t)
        velocity = window_velocity(
            nets["fake_score"], films, text, shots, part, task.passes,
            from_noisy=dmd.score_context == "noisy_causal",
        )  # fmt: skip
        target = part.of(flow.velocity_target(film, noise))
        value = jnp.mean(jnp.square(velocity.astype(jnp.float32) - target))
        metrics = {"critic_mse": value}
        if task.gan.on:
            real = batch["latents"].astype(jnp.float32)
            real = Noised(real, flow.add_noise(real, noise, t), t)
            head, of_head = _head_loss(task, nets, real, films, (text, shots), part, key_r1)
            value += task.gan.discriminator_weight * head
            metrics |= of_head
        return value, _weighted(metrics)

    return loss


def _head_loss(
    task: DistributionMatching, nets: Nets, real: Noised, generated: Noised, prompts, part, key
):
    """The discriminator's loss on real and generated films noised alike, in one pass."""
    each = [real, generated]
    if task.gan.r1_weight:
        noise = jax.random.normal(key, real.clean.shape)
        each.append(dataclasses.replace(real, noisy=real.noisy + task.gan.r1_sigma * noise))
    if not task.gan.trunk:
        nets = {**nets, "fake_score": jax.lax.stop_gradient(nets["fake_score"])}
    films = jax.tree.map(lambda *parts: jnp.concatenate(parts), *each)
    text, shots = (jnp.concatenate([a] * len(each)) for a in prompts)
    logits = _logits(task, nets, films, text, shots, part)
    logit_real, logit_generated, *perturbed = jnp.split(logits, len(each))
    value = gan.discriminator_term(logit_real, logit_generated)
    metrics = {
        "discriminator": value,
        "logit_real": jnp.mean(logit_real),
        "logit_generated": jnp.mean(logit_generated),
    }
    if perturbed:
        penalty = gan.approximate_r1(logit_real, perturbed[0])
        value += task.gan.r1_weight * penalty
        metrics |= {"r1": penalty}
    return value, metrics


def _logits(
    task: DistributionMatching, nets: Nets, films: Noised, text, shots, part: Window
) -> Float[Array, " b"]:
    fake_score = nets["fake_score"]
    taps = task.gan.layers(fake_score.config.num_layers)
    passes = dataclasses.replace(task.passes, features=taps)
    from_noisy = task.gan.context == "noisy_causal"
    _, features = window_velocity(
        fake_score, films, text, shots, part, passes, from_noisy=from_noisy
    )
    return nets["head"](features)


def _velocity(
    task: DistributionMatching, net, films: Noised, texts, shots, part: Window, guidance: float
) -> Float[Array, "b g h w c"]:
    """A score's velocity of the window's frames, without gradient in the score's weights.

    With guidance it is a batch of two, [prompt, null], each with its own history.
    """
    text, null = texts
    how = {"from_noisy": task.dmd.score_context == "noisy_causal"}
    net, passes = jax.lax.stop_gradient(net), dataclasses.replace(task.passes, remat=0)
    if guidance == 1:
        velocity = window_velocity(net, films, text, shots, part, passes, **how)
        return velocity.astype(jnp.float32)
    twice = lambda a: jnp.concatenate([a, a])
    films, texts = jax.tree.map(twice, films), jnp.concatenate([text, null])
    both = window_velocity(net, films, texts, twice(shots), part, passes, **how)
    v_cond, v_uncond = jnp.split(both.astype(jnp.float32), 2)
    return guided(v_cond, v_uncond, guidance)


def _window(task: DistributionMatching, rollout: Rollout) -> Window:
    """The rollout's frames that carry gradient."""
    frames = task.self_forcing.frames(rollout.x0.shape[1])
    return Window(rollout.start, frames, task.passes.chunk_frames)


def _texts(task: DistributionMatching, nets: Nets, batch):
    """The films' prompts, embedded, and the null prompt in the place of each."""
    ids, null = batch["token_ids"], jnp.asarray(task.null_prompt)[None, None]
    text = nets["text_encoder"](ids, ids != 0)
    return text, jnp.broadcast_to(nets["text_encoder"](null, null != 0), text.shape)


def _rollout(task: DistributionMatching, nets: Nets, text, batch, key):
    student = place_rollout_weights(nets["student"], task.rollout_weights)
    return student_rollout(
        student, text, batch["shot_of_chunk"], batch["latents"].shape[2:], key,
        task.self_forcing, task.passes,
    )  # fmt: skip


def _noise(task: DistributionMatching, key, film):
    """A time per film, and noise."""
    key_time, key_noise = jax.random.split(key)
    t = score_times(key_time, film.shape[0], task.dmd.shift, task.dmd.t_min, task.dmd.t_max)
    return t, jax.random.normal(key_noise, film.shape)


def _weighted(metrics: dict[str, Array]) -> Metrics:
    return {name: (value, jnp.ones(())) for name, value in metrics.items()}
