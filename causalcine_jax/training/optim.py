"""The update rule: AdamW for everything, or Muon for the matrices of transformer blocks and AdamW for the rest.

Transformations here give updates for a learning rate of 1; the step multiplies them by `learning_rate(step)`, so that the rate
depends on the step alone and not on a count inside the optimizer's state.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from causalcine_jax.training.config import OptimConfig

# sqrt(max(fan_in, fan_out)) * 0.2 is the root mean square of a typical AdamW update (arXiv 2502.16982), so that both share one rate.
MUON_RMS = 0.2


def learning_rate(config: OptimConfig, steps: int) -> Callable[[jax.Array], jax.Array]:
    """The rate of a step (counted from 0) of a run of `steps`."""

    def rate(step):
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, (step + 1) / max(1, config.warmup))
        if config.schedule == "constant":
            return config.lr * warm
        progress = jnp.clip((step - config.warmup) / max(1, steps - config.warmup), 0, 1)
        return config.lr * warm * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))

    return rate


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """The update rule without clipping and learning rate; acts on a dict of networks."""
    adamw = {"b1": config.b1, "b2": config.b2, "eps": config.eps}
    if config.optimizer == "adamw":
        return optax.adamw(1.0, **adamw, weight_decay=config.weight_decay, mask=decayed)
    return optax.contrib.muon(
        1.0,
        muon_weight_dimension_numbers=matrices,
        consistent_rms=MUON_RMS,
        weight_decay=config.weight_decay,
        weight_decay_mask=decayed,
        adam_b1=config.b1,
        adam_b2=config.b2,
        eps=config.eps,
        adam_weight_decay=config.weight_decay,
    )


def name_of(path) -> str:
    """A parameter's path, such as transformer.blocks.self_attn.q.weight."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def decayed(params):
    """True for weights of linear layers and convolutions; norms, biases, embeddings and modulation are not decayed."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_weight(name_of(path)), params)


def matrices(params):
    """Muon's view of the parameters: the axes of the matrices in stacked blocks, None for everything else."""

    def axes(path, leaf):
        name = name_of(path)
        stacked = ".blocks." in name and leaf.ndim == 3 and _is_weight(name)
        return optax.contrib.MuonDimensionNumbers(reduction_axis=-2, output_axis=-1) if stacked else None

    return jax.tree_util.tree_map_with_path(axes, params)


def _is_weight(name: str) -> bool:
    return name.endswith("weight") and "norm" not in name
