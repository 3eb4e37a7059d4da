"""Muon: momentum with all singular values brought near 1, for matrices of blocks and convolutions.

Source: Keller Jordan et al., github.com/KellerJordan/Muon (Newton-Schulz coefficients, Nesterov
momentum), scaled to the size of an AdamW update as in arXiv 2502.16982. optax.contrib.muon iterates
matrix by matrix. Here all matrices of one shape share one batched iteration, which compiles several
times faster.
"""

from collections import defaultdict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5
# Scaling by sqrt(max(rows, columns)) * 0.2 gives the root mean square of a typical AdamW update, so
# both rules share one learning rate.
RMS = 0.2
MOMENTUM = 0.95


class MuonState(NamedTuple):
    momentum: optax.Params


def scale_by_muon() -> optax.GradientTransformation:
    """Updates for a tree of stacked matrices [layers, rows, columns] and kernels [..., i, o].

    A kernel is one matrix: all inputs of an output channel by the output channels.
    """

    def init(params):
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
        del params
        carried = jax.tree.map(
            lambda m, g: MOMENTUM * m + (1 - MOMENTUM) * g, state.momentum, gradients
        )
        ahead = jax.tree.map(lambda m, g: MOMENTUM * m + (1 - MOMENTUM) * g, carried, gradients)
        leaves, structure = jax.tree.flatten(ahead)
        done = _orthogonal([_matrices(leaf) for leaf in leaves])
        done = [result.reshape(leaf.shape) for result, leaf in zip(done, leaves, strict=True)]
        return jax.tree.unflatten(structure, done), MuonState(carried)

    return optax.GradientTransformation(init, update)


def _orthogonal(leaves: list[Array]) -> list[Array]:
    """Every matrix of `leaves` orthogonalised and scaled.

    Those of one shape, or of its transpose, are done together.
    """
    groups = defaultdict(list)
    for number, leaf in enumerate(leaves):
        groups[tuple(sorted(leaf.shape[-2:]))].append(number)
    results = {}
    for (short, long), members in groups.items():
        wide = [_wide(leaves[number]).reshape(-1, short, long) for number in members]
        done = RMS * long**0.5 * newton_schulz(jnp.concatenate(wide))
        start = 0
        for number, part in zip(members, wide, strict=True):
            leaf = leaves[number]
            result, start = done[start : start + len(part)], start + len(part)
            tall = leaf.shape[-2] > leaf.shape[-1]
            results[number] = (jnp.swapaxes(result, -1, -2) if tall else result).reshape(leaf.shape)
    return [results[number] for number in range(len(leaves))]


def newton_schulz(x: Float[Array, "n r c"]) -> Float[Array, "n r c"]:
    """Roughly the nearest (semi-)orthogonal matrices, r <= c; singular values become 0.7 to 1.2."""
    a, b, c = COEFFICIENTS

    def iterate(_, x):
        gram = x @ jnp.swapaxes(x, -1, -2)
        return a * x + (b * gram + c * gram @ gram) @ x

    x = x / (jnp.linalg.norm(x, axis=(-2, -1), keepdims=True) + 1e-7)
    return jax.lax.fori_loop(0, ITERATIONS, iterate, x)


def _matrices(x: Array) -> Array:
    return x.reshape(-1, x.shape[-1]) if x.ndim >= 4 else x


def _wide(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2) if x.shape[-2] > x.shape[-1] else x
