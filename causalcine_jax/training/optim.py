"""The update rule: AdamW for everything, or Muon for the matrices of transformer blocks and convolutions and AdamW for the rest.

Transformations here give updates for a learning rate of 1; the step multiplies them by `learning_rate(step)`, so that the rate
depends on the step alone and not on a count inside the optimizer's state.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from causalcine_jax.training.config import OptimConfig
from causalcine_jax.training.muon import scale_by_muon

FEW_CHANNELS = 8  # a convolution from or to fewer (pixels, say) is left to AdamW


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
    adam = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
    if config.optimizer == "muon":
        by_rule = lambda params: jax.tree.map(lambda is_matrix: "muon" if is_matrix else "adam", matrices(params))
        rule = optax.partition({"muon": scale_by_muon(), "adam": adam}, by_rule)
    else:
        rule = adam
    return optax.chain(rule, optax.add_decayed_weights(config.weight_decay, mask=decayed), optax.scale(-1.0))


def name_of(path) -> str:
    """A parameter's path, such as transformer.blocks.self_attn.q.weight."""
    return jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")


def decayed(params):
    """True for weights of linear layers and convolutions; norms, biases, embeddings and modulation are not decayed."""
    return jax.tree_util.tree_map_with_path(lambda path, _: _is_weight(name_of(path)), params)


def matrices(params):
    """True for what muon updates: the weight matrices of blocks, all layers stacked on a leading axis, and kernels between many channels."""

    def is_matrix(path, leaf) -> bool:
        name = name_of(path)
        of_block = ".blocks." in name and leaf.ndim == 3
        of_convolution = leaf.ndim >= 4 and min(leaf.shape[-2:]) >= FEW_CHANNELS
        return _is_weight(name) and (of_block or of_convolution)

    return jax.tree_util.tree_map_with_path(is_matrix, params)


def _is_weight(name: str) -> bool:
    return name.endswith("weight") and "norm" not in name
