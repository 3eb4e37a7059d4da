"""Training loss of the VAE and the measured statistics of its latents.

A clip is encoded to a mean and a log-variance, and one sample of that Gaussian is decoded. The loss
is, with KL summed over a clip and divided by the number of its pixel values,

    L1(video) + edge * L1(spatial differences) + kl * KL(q || N(0, 1))

The edge term keeps outlines of small figures sharp without a perceptual network. With
`adversarial` a critic of pictures (models/vae/critic.py) learns beside the VAE. After training,
`latent_statistics` measures the mean and std of every latent channel. They are stored in the VAE's
config.json and normalise its latents.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.errors import DataError, choice_faults, range_faults
from causalcine_jax.models.vae.critic import STRIDE, PatchCritic
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.network_sizes import VAEConfig
from causalcine_jax.training.stages.gan import approximate_r1, discriminator_term, generator_term
from causalcine_jax.utils.arrays import AnyArray

TRAIN = {"all": (), "encoder": ("conv2", "decoder"), "decoder": ("encoder", "conv1")}  # fixed parts

R1_SIGMA = 0.05  # of the noise of the critic's penalty; pixels reach from -1 to 1


@dataclass(frozen=True)
class AutoencoderConfig:
    """Stage autoencoder: the loss and the clips.

    kl      weight of the KL divergence, in nats per pixel value of the clip; L1 of the pixels has 1
    edge    weight of the L1 of horizontal and vertical differences
    cuts    fraction of clips that hold a cut for certain. The first frame after a cut is the
            hardest, and most clips drawn at random hold none
    crop    height and width in pixels of the part of a film that a clip shows; (0, 0) for whole
            frames. Half of the crops show a character
    train   which part learns: all, encoder or decoder. With the encoder fixed, latents that were
            encoded before stay valid
    noise   largest std of the noise that is added to a clip's latents, in units of each channel's
            std; a clip's own is drawn from 0 to it. The decoder learns to draw latents that a
            transformer made, which are not exact (RAE, arXiv 2510.11690)
    adversarial  weight of the critic's term; 0 for no critic, which critic_optim trains
    r1      weight of the critic's penalty: how much its logits of true clips change with a little
            noise
    """

    kl: float = 1e-3
    edge: float = 0.5
    cuts: float = 0.0
    crop: tuple[int, int] = (0, 0)
    train: str = "all"
    noise: float = 0.0
    adversarial: float = 0.0
    r1: float = 10.0

    def faults(self) -> Iterable[str]:
        yield from range_faults("autoencoder.kl", self.kl, 0)
        yield from range_faults("autoencoder.edge", self.edge, 0)
        yield from range_faults("autoencoder.noise", self.noise, 0)
        yield from range_faults("autoencoder.adversarial", self.adversarial, 0)
        yield from range_faults("autoencoder.r1", self.r1, 0)
        yield from range_faults("autoencoder.cuts", self.cuts, 0, 1)
        yield from choice_faults("autoencoder.train", self.train, TRAIN)
        if (
            len(self.crop) != 2
            or min(self.crop) < 0
            or (min(self.crop) == 0) != (max(self.crop) == 0)
        ):
            yield (
                "autoencoder.crop must be a height and a width in pixels, or (0, 0) for whole "
                f"frames, not {self.crop}"
            )
        elif self.adversarial and any(side % STRIDE for side in self.crop):
            yield (
                f"autoencoder.adversarial needs an autoencoder.crop of multiples of {STRIDE}, "
                f"not {self.crop}"
            )

    def faults_beside(self, init: str, weight_decay: float) -> Iterable[str]:
        """Faults with other fields of a config of this stage."""
        if TRAIN.get(self.train) and weight_decay:
            yield (
                f"autoencoder.train={self.train} needs optim.weight_decay=0, which "
                "would shrink the fixed part"
            )
        if self.noise and not init:
            yield (
                "autoencoder.noise is in units of the latents' std, which is measured after "
                "training: it needs init, a trained VAE"
            )


def autoencoder_loss(
    vae: VAE,
    video: Float[Array, "b t h w 3"],
    key: Array,
    config: AutoencoderConfig,
    critic: PatchCritic | None = None,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Loss of one batch of video in [-1,1], T = 4F - 3, differentiable in `vae`, and its parts.

    They are loss, l1, edge, kl and psnr (dB, peak 2), and adversarial with a critic. `key` draws
    the latent sample and the noise.
    """
    decoded, mean, log_variance = _decoded(vae, video, key, config)
    l1 = jnp.mean(jnp.abs(decoded - video))
    edge = edge_difference(decoded, video)
    kl = 0.5 * jnp.sum(jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance) / video.size
    loss = l1 + config.edge * edge + config.kl * kl
    psnr = -10 * jnp.log10(jnp.mean(jnp.square(jnp.clip(decoded, -1, 1) - video)) / 4)
    parts = {"l1": l1, "edge": edge, "kl": kl, "psnr": psnr}
    if critic is not None:
        parts["adversarial"] = adversarial = generator_term(critic(decoded))
        loss = loss + config.adversarial * adversarial
    return loss, {"loss": loss, **parts}


def picture_critic_loss(
    critic: PatchCritic,
    vae: VAE,
    video: Float[Array, "b t h w 3"],
    key: Array,
    config: AutoencoderConfig,
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Logistic loss of true clips against what the VAE makes of them, differentiable in `critic`.

    The penalty is R1 by finite differences, as that of distribution matching. The parts are loss,
    logit_true, logit_decoded and r1.
    """
    decoded, _, _ = jax.lax.stop_gradient(_decoded(vae, video, key, config))
    noise = R1_SIGMA * jax.random.normal(jax.random.fold_in(key, 2), video.shape)
    true, generated, perturbed = (critic(clips) for clips in (video, decoded, video + noise))
    r1 = approximate_r1(true, perturbed)
    loss = discriminator_term(true, generated) + config.r1 * r1
    logits = {"logit_true": jnp.mean(true), "logit_decoded": jnp.mean(generated)}
    return loss, {"loss": loss, **logits, "r1": r1}


def _decoded(vae: VAE, video, key: Array, config: AutoencoderConfig) -> tuple[Array, Array, Array]:
    """Decoded video, not clipped, and the mean and log-variance of its latents, float32."""
    vae = with_fixed(vae, TRAIN[config.train])
    mean, log_variance = vae.encode_moments(video)
    mean, log_variance = (
        mean.astype(jnp.float32),
        jnp.clip(log_variance.astype(jnp.float32), -30, 20),
    )
    sample = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(key, mean.shape)
    if config.noise:
        key_size, key_noise = jax.random.split(jax.random.fold_in(key, 1))
        size = jax.random.uniform(key_size, (len(video), 1, 1, 1, 1), maxval=config.noise)
        noise = jax.random.normal(key_noise, mean.shape)
        sample = sample + size * jnp.asarray(vae.cfg.std) * noise
    return vae.decode_raw(sample).astype(jnp.float32), mean, log_variance


def with_fixed(vae: VAE, parts: tuple[str, ...]) -> VAE:
    """The same network, of which no gradient reaches `parts`."""
    return in_parts(vae, lambda part: part in parts, jax.lax.stop_gradient)


def in_parts(vae: VAE, wanted: Callable[[str], bool], change: Callable[[Array], Array]) -> VAE:
    """The same network, with `change` made to the weights of the parts that are `wanted`."""
    changed = lambda path, leaf: change(leaf) if wanted(path[0].name) else leaf
    return jax.tree_util.tree_map_with_path(changed, vae)


def edge_difference(a: Float[Array, "b t h w c"], b: Float[Array, "b t h w c"]) -> Float[Array, ""]:
    """Mean absolute difference of two videos' first differences, horizontal plus vertical."""
    difference = a - b
    down = jnp.diff(difference, axis=2)
    right = jnp.diff(difference, axis=3)
    return jnp.mean(jnp.abs(down)) + jnp.mean(jnp.abs(right))


def latent_statistics(vae: VAE, clips: Iterable[Float[AnyArray, "b t h w 3"]]) -> VAEConfig:
    """The config of `vae` with the mean and std of each latent channel.

    They are measured over `clips` in [-1,1]. `DataError` if there is no clip, or a channel is
    constant because the VAE does not use it.
    """
    encode = jax.jit(lambda vae, video: vae.encode_moments(video)[0].astype(jnp.float32))
    count, total, square = 0, 0.0, 0.0
    for video in clips:
        latents = np.asarray(encode(vae, video), np.float64).reshape(-1, vae.cfg.z_dim)
        count, total, square = (
            count + len(latents),
            total + latents.sum(0),
            square + np.square(latents).sum(0),
        )
    if not count:
        raise DataError("latent statistics: no clip to measure")
    mean = np.asarray(total / count)
    std = np.sqrt(np.maximum(square / count - mean**2, 0))
    dead = np.flatnonzero(std < 1e-6)
    if dead.size:
        raise DataError(
            f"latent statistics: latent channels {dead.tolist()} are constant; "
            "train with a smaller kl weight"
        )
    return replace(
        vae.cfg,
        mean=tuple(round(float(m), 6) for m in mean),
        std=tuple(round(float(s), 6) for s in std),
    )
