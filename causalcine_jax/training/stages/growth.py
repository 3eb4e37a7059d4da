"""A transformer that a run goes on with, and the parts that are new in it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from causalcine_jax.models.dit import DiTBlock, Transformer
from causalcine_jax.models.nn import Module
from causalcine_jax.network_sizes import OF_LATENTS, TransformerConfig
from causalcine_jax.training.config import TrainConfig

ENDS = ("patch_embedding", "head")  # the transformer's parts whose sizes are those of latents


def grown(transformer: Transformer, config: TrainConfig) -> Transformer:
    """The transformer of config.init, with new parts where the config asks for them.

    With new latents, its first and last layer are new: patch embedding random, head zero. A skip
    that it does not have begins at zero. New layers change nothing until they are trained.
    """
    old, asked = transformer.config, config.transformer
    new_skip = config.adds_skip(old)
    sizes = replace(old, skip_dim=asked.skip_dim) if new_skip else old
    if config.new_latents:
        sizes = replace(sizes, **{name: getattr(asked, name) for name in OF_LATENTS})
    new = ENDS if config.new_latents else ()
    if sizes.skip_dim and (new or new_skip):
        new = (*new, "skip")
    if new:
        make = lambda key: [getattr(Transformer(sizes, key=key), name) for name in new]
        made = jax.jit(make)(jax.random.key(config.seed))
        transformer = _with(transformer, sizes, dict(zip(new, made, strict=True)))
    return deeper(transformer, config.new_layers) if config.new_layers else transformer


def grown_sizes(config: TrainConfig) -> TrainConfig:
    """The config with the transformer's sizes that `new_layers` leads to: a plan loads no init."""
    if not config.new_layers:
        return config
    layers = config.transformer.num_layers + config.new_layers
    return replace(config, transformer=replace(config.transformer, num_layers=layers), new_layers=0)


def deeper(transformer: Transformer, count: int) -> Transformer:
    """The transformer with `count` more layers, spread evenly over its depth.

    Each is a copy of the layer before it, but adds nothing: the last matrices of its attentions
    and of its feed-forward are zero. So the output is as before.
    """
    old = transformer.config.num_layers
    copied = [max(0, (number + 1) * old // count - 1) for number in range(count)]
    layers = np.sort([*range(old), *copied])
    added = np.diff(layers, prepend=-1) == 0
    sizes = replace(transformer.config, num_layers=old + count)
    blocks = jax.jit(lambda blocks: _copied(blocks, layers, added))(transformer.blocks)
    return _with(transformer, sizes, {"blocks": blocks})


def _copied(blocks: DiTBlock, layers: np.ndarray, added: np.ndarray) -> DiTBlock:
    """The stacked layers of these numbers; those `added` give zero."""
    silent = lambda leaf: jnp.where(added.reshape(-1, *[1] * (leaf.ndim - 1)), 0, leaf)
    blocks = jax.tree.map(lambda leaf: leaf[layers], blocks)
    for module, name in ((blocks.self_attn, "o"), (blocks.cross_attn, "o"), (blocks, "ffn_2")):
        setattr(module, name, jax.tree.map(silent, getattr(module, name)))
    return blocks


def _with(
    transformer: Transformer, sizes: TransformerConfig, parts: dict[str, Module]
) -> Transformer:
    """The network of `sizes` that has these parts, and all others of the given one."""
    other = jax.eval_shape(lambda: Transformer(sizes, key=jax.random.key(0)))
    for name, part in (vars(transformer) | parts).items():
        if name != "config" and not name.startswith("_"):  # names with _ are NNX's own
            setattr(other, name, part)
    return other
