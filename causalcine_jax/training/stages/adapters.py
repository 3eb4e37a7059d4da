"""A stage that trains adapters (models/lora.py) in place of its transformers' weights.

The transformers stay fixed, in the dtype of the run. Every loss receives them with their adapters
inside, so no loss has to change.
"""

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from causalcine_jax.convert import save_lora
from causalcine_jax.models.lora import adapted, merged
from causalcine_jax.models.nn import cast_weights
from causalcine_jax.training.config import TrainConfig
from causalcine_jax.training.state import Loss, Nets, Update

ADAPTED = ("transformer", "student", "fake_score")  # networks that can have adapters


def base_of(name: str) -> str:
    """The name of the fixed network that the adapters `name` change."""
    return f"{name}_base"


def bases(loaded: Nets, config: TrainConfig) -> Nets:
    """The loaded networks under the names that they have in spec.py."""
    if not config.lora.rank:
        return loaded
    cast = functools.partial(cast_weights, dtype=jnp.dtype(config.dtype))
    return {
        base_of(name) if name in ADAPTED else name: cast(net) if name in ADAPTED else net
        for name, net in loaded.items()
    }


def adapter_bases(nets: Nets) -> Nets:
    """Of the networks of `bases`, those that adapters change: none where all weights are trained.

    The run has copies of all others, so a function that is kept during the run holds only these.
    """
    return {name: nets[name] for name in map(base_of, ADAPTED) if name in nets}


def export_adapters(
    trained: Nets, loaded: Nets, folder: Path, config: TrainConfig, base: str
) -> Nets:
    """Writes the adapters beside the model folder, as `lora`; returns whole networks for it.

    Args:
      trained: averages of what the run trains.
      loaded: the `adapter_bases`.
      base: the model that the adapters belong to, for adapter_config.json.
    """
    lora = config.lora
    if not lora.rank:
        return trained
    whole = jax.jit(functools.partial(merged, scale=lora.scale))
    found: dict[str, Any] = dict(trained)
    for name in (name for name in trained if name in ADAPTED):
        save_lora(
            folder.with_name("lora"),
            loaded[base_of(name)],
            trained[name],
            alpha=lora.alpha,
            base=base,
        )
        found[name] = whole(loaded[base_of(name)], trained[name])
    return found


def with_adapters(update: Update, names: list[str], scale: float) -> Update:
    """The update of the adapters of `names`: its loss is given the networks that they make."""
    whole: Loss = update.loss
    hidden = {base_of(name) for name in names}

    def loss(trained: Nets, fixed: Nets, batch, key):
        inside = lambda nets: {
            name: adapted(fixed[base_of(name)], net, scale) if name in names else net
            for name, net in nets.items()
            if name not in hidden
        }
        return whole(inside(trained), inside(fixed), batch, key)

    return replace(update, loss=loss)
