"""The update rule: AdamW for everything, or Muon for matrices and AdamW for the rest.

Muon's matrices are those of transformer blocks and convolutions. Transformations here give updates
for a learning rate of 1, and the step multiplies them by `learning_rate(step)`. So the rate depends
on the step alone, and not on a count inside the optimizer's state.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from causalcine_jax.errors import choice_faults, least_faults, range_faults
from causalcine_jax.parallel.sharding import path_of
from causalcine_jax.training.muon import scale_by_muon

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "constant")
FEW_CHANNELS = 8  # AdamW updates a convolution from or to fewer channels, such as pixels


@dataclass(frozen=True)
class OptimConfig:
    """The optimizer.

    optimizer     adamw; or muon: orthogonalised momentum for matrices of blocks and convolutions,
                  adamw for everything else
    lr            peak learning rate. One rate serves both rules: muon's updates are scaled to the
                  size of adamw's
    schedule      cosine (down to final_lr * lr at the last step) or constant; both after `warmup`
                  linear steps
    warmup        steps over which the rate grows from zero
    final_lr      the rate at the last step of the cosine, as a fraction of lr
    b1, b2, eps   of adamw
    weight_decay  of the weights of linear layers and convolutions only
    clip          largest gradient norm of a network, each by itself; 0: no clipping
    accumulation  micro-batches per step: the batch is cut into so many, and gradients are averaged
    ema_decay     of the exponential moving average of the weights, which is exported; 0 exports
                  the weights themselves
    ema_start     first step of the average; until then it is the weights themselves. 0: the decay
                  grows from 0.1 to ema_decay, so that the random first weights are forgotten
    """

    optimizer: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup: int = 100
    final_lr: float = 0.02
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float = 1.0
    accumulation: int = 1
    ema_decay: float = 0.999
    ema_start: int = 0

    def faults(self, name: str = "optim") -> Iterable[str]:
        yield from choice_faults(f"{name}.optimizer", self.optimizer, OPTIMIZERS)
        yield from choice_faults(f"{name}.schedule", self.schedule, SCHEDULES)
        yield from range_faults(f"{name}.lr", self.lr, 0, 10, open_low=True)
        yield from range_faults(f"{name}.final_lr", self.final_lr, 0, 1)
        yield from range_faults(f"{name}.eps", self.eps, 0, 1, open_low=True)
        from_0 = ("warmup", "weight_decay", "clip", "ema_start")
        yield from least_faults(self, from_0, 0, f"{name}.")
        yield from range_faults(f"{name}.accumulation", self.accumulation, 1)
        for part in ("b1", "b2", "ema_decay"):
            yield from range_faults(f"{name}.{part}", getattr(self, part), 0, 1, open_high=True)


def learning_rate(config: OptimConfig, steps: int) -> Callable[[jax.Array | int], jax.Array]:
    """The rate of a step (counted from 0) of a run of `steps`."""

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, (step + 1) / max(1, config.warmup))
        if config.schedule == "constant":
            return config.lr * warm
        progress = jnp.clip((step - config.warmup) / max(1, steps - config.warmup), 0, 1)
        return (
            config.lr
            * warm
            * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))
        )

    return rate


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """The update rule without clipping and learning rate; acts on a dict of networks."""
    if config.b1:
        adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    else:  # the same rule without its unused first moment: four bytes per parameter less
        adam = optax.scale_by_rms(config.b2, config.eps, eps_in_sqrt=False, bias_correction=True)
    if config.optimizer == "muon":
        by_rule = lambda params: jax.tree.map(
            lambda is_matrix: "muon" if is_matrix else "adam", muon_mask(params)
        )
        rule = optax.partition({"muon": scale_by_muon(), "adam": adam}, by_rule)
    else:
        rule = adam
    return optax.chain(
        rule,
        optax.add_decayed_weights(config.weight_decay, mask=weight_decay_mask),
        optax.scale(-1.0),
    )


def weight_decay_mask(params):
    """True for weights of linear layers and convolutions.

    Norms, biases, embeddings and modulation are not decayed.
    """
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_weight(path_of(path)), params)


def muon_mask(params):
    """True for what muon updates.

    These are the weight matrices of blocks, stacked over layers on a leading axis, and kernels
    between many channels.
    """

    def is_matrix(path, leaf) -> bool:
        name = path_of(path)
        of_block = ".blocks." in name and leaf.ndim == 3
        of_convolution = leaf.ndim >= 4 and min(leaf.shape[-2:]) >= FEW_CHANNELS
        return _is_weight(name) and (of_block or of_convolution)

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def _is_weight(name: str) -> bool:
    return name.endswith("weight") and "norm" not in name
