"""Distribution matching on given scores: its config, its gradient, and a loss with that gradient.

Sources: DMD (arXiv 2311.18828), and the normaliser of Self-Forcing's `model/dmd.py`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from causalcine_jax.diffusion import flow
from causalcine_jax.errors import choice_faults

NORMALIZERS = ("chunk", "film", "none")
SCORE_CONTEXTS = ("clean_rollout", "noisy_causal")
SMALLEST_NORM = 1e-6


@dataclass(frozen=True)
class DMDConfig:
    """Distribution matching. What the paper leaves out is as in Self-Forcing or LongLive.

    shift, t_min, t_max  of the times at which films are scored: uniform positions, stratified over
                         the batch, bent by `shift`, then clamped
    real_guidance        of the teacher; 1: none. 4 equals Self-Forcing's formula c + 3 (c - u)
    real_memory_guidance  of the teacher (diffusion/solvers.py); 0: none
    fake_guidance        of the fake score
    normalizer           the gradient is divided by the mean of |x - teacher's x0| over a chunk or
                         a film; none: not divided
    score_context        history of a chunk in both scores. clean_rollout: the rollout's clean
                         chunks, as a teacher-forced model expects. noisy_causal: noised ones
    """

    shift: float = 5.0
    t_min: float = 20.0
    t_max: float = 980.0
    real_guidance: float = 4.0
    real_memory_guidance: float = 0.0
    fake_guidance: float = 1.0
    normalizer: str = "chunk"
    score_context: str = "clean_rollout"

    def faults(self) -> Iterable[str]:
        if not 0 < self.shift < float("inf"):
            yield f"dmd.shift must be positive and finite, not {self.shift}"
        if not 0 < self.t_min <= self.t_max <= flow.TRAIN_TIMES:
            yield (
                f"dmd.t_min and dmd.t_max must be 0 < t_min <= t_max <= {flow.TRAIN_TIMES}, "
                f"not {self.t_min} and {self.t_max}"
            )
        for name in ("real_guidance", "fake_guidance"):
            if not 0 <= getattr(self, name) < float("inf"):
                yield (
                    f"dmd.{name} must be finite and not negative (1 means none), "
                    f"not {getattr(self, name)}"
                )
        if not 0 <= self.real_memory_guidance < float("inf"):
            yield (
                "dmd.real_memory_guidance must be finite and not negative (0 means none), "
                f"not {self.real_memory_guidance}"
            )
        yield from choice_faults("dmd.normalizer", self.normalizer, NORMALIZERS)
        yield from choice_faults("dmd.score_context", self.score_context, SCORE_CONTEXTS)


def dmd_gradient(
    x: Float[Array, "b f h w c"],
    real_x0: Float[Array, "b f h w c"],
    fake_x0: Float[Array, "b f h w c"],
    *,
    chunk_frames: int,
    normalizer: str = "chunk",
) -> Float[Array, "b f h w c"]:
    """The direction in which x raises the reverse KL to the teacher's distribution (paper Eq. 2).

    It is the gradient up to a positive factor. real_x0 and fake_x0 are the estimates of the two
    scores from the noised x. If they are not finite, neither is the result, and the training step
    refuses it.
    """
    difference = fake_x0 - real_x0
    if normalizer == "none":
        return difference
    size = chunk_frames if normalizer == "chunk" else x.shape[1]
    norm = jnp.mean(
        jnp.abs(rearrange(x - real_x0, "b (n c) ... -> b n c (...)", c=size)), axis=(2, 3)
    )
    norm = jnp.repeat(norm, size, axis=1)[:, :, None, None, None]
    return difference / jnp.maximum(norm, SMALLEST_NORM)


def loss_with_gradient(x: Float[Array, "*x"], gradient: Float[Array, "*x"]) -> Float[Array, ""]:
    """A loss whose gradient in x is `gradient` divided by its number of elements.

    It is half the mean squared distance to the point one step down.
    """
    return 0.5 * jnp.mean(jnp.square(x - jax.lax.stop_gradient(x - gradient)))
