"""A scan over layers, and what the backward pass keeps of them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from causalcine_jax.errors import UsageError
from causalcine_jax.models.attention.kept import kept


def scan_layers(
    body: Callable, x: Array, inputs, layers: int, taps: tuple[int, ...] = (), remat: int = 0
):
    """Scans `body(x, inputs of a layer) -> (x, outputs)` over the layers.

    Args:
      taps: layers after which x is returned too.
      remat: layers that the backward pass recomputes together (`_scan`); 0: it keeps all that it
        needs.

    Returns:
      x, the stacked outputs, and x after each layer in `taps`.

    Raises:
      UsageError: a tap is not a layer.
    """
    wrong = [tap for tap in taps if not 0 <= tap < layers]
    if wrong:
        raise UsageError(f"features {wrong} are not layers of this model (0..{layers - 1})")
    stops = sorted({tap + 1 for tap in taps} | {layers})
    tapped, outputs, start = {}, [], 0
    for stop in stops:
        x, out = _scan(body, x, _part(inputs, start, stop), stop - start, remat)
        outputs.append(out)
        tapped[stop - 1] = x
        start = stop
    return x, _joined(outputs), tuple(tapped[tap] for tap in taps)


def _scan(body, x, inputs, layers: int, remat: int):
    """`jax.lax.scan` whose backward pass keeps x before every `remat`-th layer only.

    From there it recomputes x before each layer of the group, then each layer, but for what
    attention/kept.py keeps.
    """
    body = jax.checkpoint(body, prevent_cse=False, policy=kept(remat)) if remat else body
    groups = layers // remat if remat > 1 else 0
    if groups < 2:
        return jax.lax.scan(body, x, inputs)
    group = jax.checkpoint(lambda x, part: jax.lax.scan(body, x, part))
    whole = groups * remat
    x, out = jax.lax.scan(
        group,
        x,
        jax.tree.map(lambda a: a.reshape(groups, remat, *a.shape[1:]), _part(inputs, 0, whole)),
    )
    outputs = [jax.tree.map(lambda a: a.reshape(whole, *a.shape[2:]), out)]
    if whole < layers:
        x, out = group(x, _part(inputs, whole, layers))
        outputs.append(out)
    return x, _joined(outputs)


def _part(stacked, start: int, stop: int):
    return jax.tree.map(lambda a: a if (start, stop) == (0, a.shape[0]) else a[start:stop], stacked)


def _joined(parts: list):
    return (
        parts[0]
        if len(parts) == 1
        else jax.tree.map(lambda *arrays: jnp.concatenate(arrays), *parts)
    )
