"""Adversarial loss: a head on the fake score's features separates real and generated films.

    real and generated films with the same noise
        -> fake score's features of the chunks that carry gradient (self_forcing.grad_frames)
        -> head -> one logit per film -> logistic losses

Real and generated films get the same time and noise, so at t = 1000 the head cannot separate them.
By default a chunk's history is noisy too. With clean history, the head could separate films by a
history that gives the generator no gradient. However, the fake score is trained with clean history
(dmd.score_context), so features after noisy history are out of its distribution. Source: paper 3.4,
Eq. 11; Appendix C.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from causalcine_jax.config import PassConfig
from causalcine_jax.diffusion import flow
from causalcine_jax.errors import choice_faults, range_faults
from causalcine_jax.models.discriminator import Discriminator
from causalcine_jax.training.stages.scoring import FilmSlice, Noised, slice_velocity
from causalcine_jax.training.state import Nets

GAN_CONTEXTS = ("noisy_causal", "clean")


@dataclass(frozen=True)
class GANConfig:
    """The GAN beside distribution matching. The paper states none of these numbers.

    generator_weight      of the generator's adversarial term; 0 for no GAN at all
    head_rate             the head's learning rate divided by the critic's. The head starts
                          untrained, the fake score as the teacher
    discriminator_weight  of the head's loss in the critic's; has an effect if `trunk` is set
    context               a chunk's history in front of the head: noisy_causal or clean
    taps                  the layers whose features the head reads, as fractions of the depth; the
                          defaults are blocks 17, 28 and 39 of 40
    trunk                 the head's loss also trains the fake score (as in DMD2); False: head only
    r1_weight             of the approximate R1 penalty on real films (APT: 100); 0 for none
    r1_sigma              its perturbation of the noised latents (APT, video: 0.1)
    shift                 of the times at which the head sees films, as dmd.shift; 0: it sees them
                          at the time and with the noise that distribution matching drew
    t_max                 the highest of its own times. A head trained on films at all times told
                          real from generated in .88 of cases below t = 400, in half above 700
    """

    generator_weight: float = 1e-2
    head_rate: float = 10.0
    discriminator_weight: float = 1.0
    context: str = "noisy_causal"
    taps: tuple[float, ...] = (0.45, 0.725, 1.0)
    trunk: bool = False
    r1_weight: float = 0.0
    r1_sigma: float = 0.1
    shift: float = 0.0
    t_max: float = 1000.0

    @property
    def on(self) -> bool:
        return self.generator_weight > 0

    def layers(self, num_layers: int) -> tuple[int, ...]:
        """The tapped layers' numbers, ascending; in a shallow network several taps may coincide."""
        return tuple(sorted({max(0, round(tap * num_layers) - 1) for tap in self.taps}))

    def head(self, dim: int, num_layers: int, *, key: Array) -> Discriminator:
        """A new head for a fake score of this width and depth."""
        return Discriminator(dim, len(self.layers(num_layers)), key=key)

    def faults(self) -> Iterable[str]:
        for name in ("generator_weight", "discriminator_weight", "r1_weight", "shift"):
            if not 0 <= getattr(self, name) < float("inf"):
                yield f"gan.{name} must be finite and at least 0, not {getattr(self, name)}"
        yield from range_faults("gan.t_max", self.t_max, 0, flow.TRAIN_TIMES, open_low=True)
        if self.t_max != flow.TRAIN_TIMES and not self.shift:
            yield "gan.t_max needs times of the head's own: set gan.shift, 1 for uniform ones"
        if not 0 < self.head_rate < float("inf"):
            yield f"gan.head_rate must be finite and more than 0, not {self.head_rate}"
        if not self.r1_sigma > 0:
            yield f"gan.r1_sigma must be more than 0, not {self.r1_sigma}"
        yield from choice_faults("gan.context", self.context, GAN_CONTEXTS)
        if not self.taps or not all(0 < tap <= 1 for tap in self.taps):
            yield f"gan.taps must be parts of the depth, more than 0 and at most 1, not {self.taps}"


def generator_term(logit_generated: Float[Array, " b *part"]) -> Float[Array, ""]:
    """softplus(-d): high where the discriminator tells generated from real."""
    return jnp.mean(jax.nn.softplus(-logit_generated))


def discriminator_term(
    logit_real: Float[Array, " b *part"], logit_generated: Float[Array, " b *part"]
) -> Float[Array, ""]:
    """softplus(-d) of real films and softplus(d) of generated ones; 2 log 2 at chance."""
    return jnp.mean(jax.nn.softplus(-logit_real)) + jnp.mean(jax.nn.softplus(logit_generated))


def approximate_r1(
    logit_real: Float[Array, " b *part"], logit_perturbed: Float[Array, " b *part"]
) -> Float[Array, ""]:
    """R1 by finite differences: the squared change of real films' logits (APT, Eq. 4)."""
    return jnp.mean(jnp.square(logit_real - logit_perturbed))


def head_loss(
    config: GANConfig,
    passes: PassConfig,
    nets: Nets,
    films: tuple[Noised, Noised],
    prompts: tuple[Array, Array],
    part: FilmSlice,
    key: Array,
) -> tuple[Array, dict[str, Array]]:
    """The discriminator's loss on (real, generated) films noised alike, in one pass; metrics."""
    real, each = films[0], [*films]
    if config.r1_weight:
        noise = jax.random.normal(key, real.clean.shape)
        each.append(dataclasses.replace(real, noisy=real.noisy + config.r1_sigma * noise))
    if not config.trunk:
        nets = {**nets, "fake_score": jax.lax.stop_gradient(nets["fake_score"])}
    together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *each)
    text, shots = (jnp.concatenate([a] * len(each)) for a in prompts)
    found = logits(config, passes, nets, together, (text, shots), part)
    logit_real, logit_generated, *perturbed = jnp.split(found, len(each))
    value = discriminator_term(logit_real, logit_generated)
    metrics = {
        "discriminator": value,
        "logit_real": jnp.mean(logit_real),
        "logit_generated": jnp.mean(logit_generated),
    }
    if perturbed:
        penalty = approximate_r1(logit_real, perturbed[0])
        value += config.r1_weight * penalty
        metrics |= {"r1": penalty}
    return value, metrics


def logits(
    config: GANConfig,
    passes: PassConfig,
    nets: Nets,
    films: Noised,
    prompts: tuple[Array, Array],
    part: FilmSlice,
) -> Float[Array, " b"]:
    """What the head says of the films; `prompts` is (text, shot_of_chunk)."""
    fake_score = nets["fake_score"]
    taps = config.layers(fake_score.config.num_layers)
    _, features = slice_velocity(
        fake_score,
        films,
        *prompts,
        part,
        dataclasses.replace(passes, features=taps),
        from_noisy=config.context == "noisy_causal",
    )
    return nets["head"](features, part.start)
