"""Low-rank adapters of a transformer's linear layers (LoRA, Hu et al. 2021, arXiv 2106.09685).

    y = x W + b + scale (x down) up

`down` and `up` are trained, W and b are not. An adapter of a transformer is a dict of `LowRank`, by
the name that the layer has in Wan2.1 within its block; each is stacked over all blocks.
"""

import functools

import jax
import jax.numpy as jnp

from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import Linear, LowRank, Param, stack_init
from causalcine_jax.network_sizes import TransformerConfig

# The layers of a block that can have one: Wan2.1's name -> the path in dit.DiTBlock.
LAYERS = {
    **{
        f"{part}.{name}": f"{part}.{name}"
        for part in ("self_attn", "cross_attn")
        for name in "qkvo"
    },
    "ffn.0": "ffn_0",
    "ffn.2": "ffn_2",
}
Adapters = dict[str, LowRank]


def layers_of(named: str) -> tuple[str, ...]:
    """The layers that comma-separated names select: ffn selects all layers `ffn.*`.

    A name that selects no layer is returned unchanged, so that the caller can report it.
    """
    found: dict[str, None] = {}
    for name in named.split(","):
        wanted = [layer for layer in LAYERS if layer == name or layer.startswith(f"{name}.")]
        found |= dict.fromkeys(wanted or [name])
    return tuple(found)


def new_adapters(
    config: TransformerConfig, layers: tuple[str, ...], rank: int, *, key: jax.Array
) -> Adapters:
    """Adapters that change nothing yet, for a transformer of those sizes; float32."""
    sizes = {"ffn.0": (config.dim, config.ffn_dim), "ffn.2": (config.ffn_dim, config.dim)}
    keys = jax.random.split(key, len(layers))
    make = lambda layer, key: stack_init(
        lambda key: LowRank(*sizes.get(layer, (config.dim, config.dim)), rank, key=key),
        config.num_layers,
        key,
    )
    return {layer: make(layer, key) for layer, key in zip(layers, keys, strict=True)}


def adapted(transformer: Transformer, adapters: Adapters, scale: float) -> Transformer:
    """The transformer with adapters in its layers; its own weights are shared, not copied."""
    other = _shallow_copy(transformer)
    for layer, each in adapters.items():
        part = _shallow_copy(each)
        part.up = Param(scale * each.up[...])
        _layer(other, layer).adapt(part)
    return other


def merged(transformer: Transformer, adapters: Adapters, scale: float) -> Transformer:
    """The transformer with W + scale down up in place of W, summed in float32, in W's dtype."""
    other = _shallow_copy(transformer)
    for layer, each in adapters.items():
        linear = _layer(other, layer)
        down, up, weight = (p[...] for p in (each.down, each.up, linear.weight))
        change = jnp.einsum("lir,lro->lio", *(x.astype(jnp.float32) for x in (down, up)))
        total = weight.astype(jnp.float32) + scale * change
        linear.weight = Param(total.astype(weight.dtype))
    return other


def _shallow_copy(module):
    """Another object with the same parameters."""
    return jax.tree.unflatten(jax.tree.structure(module), jax.tree.leaves(module))


def _layer(transformer: Transformer, layer: str) -> Linear:
    return functools.reduce(getattr, LAYERS[layer].split("."), transformer.blocks)
