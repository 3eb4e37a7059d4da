"""Flags compared with the disk: latent stores, and sizes of the model that a run starts from.

The same values in a config file pass: a run may make its store, and the sizes of `init` replace
the file's sizes.
"""

import re
from pathlib import Path

from causalcine_jax.convert import abstract_network
from causalcine_jax.convert.find import holds
from causalcine_jax.data.latent_store import partial_path
from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.network_sizes import OF_LATENTS, TransformerConfig
from causalcine_jax.training.config import TrainConfig


def check_flags(arguments: list[str], config: TrainConfig) -> None:
    """`UsageError` for a latent store that is not there, or sizes that contradict the models."""
    named = {
        match[1] for word in arguments if (match := re.match(r"--?config\.([\w.]+)(?:=|$)", word))
    }
    if "data.store" in named:
        _check_stores(config.data.store)
    raise_faults("config", _size_faults(named, config))


def _check_stores(stores: str) -> None:
    """A misspelled store must not be made anew."""
    missing = [
        store
        for part in stores.split(",")
        if (store := part.strip())
        and not (Path(store).is_dir() or partial_path(Path(store)).is_dir())
    ]
    if missing:
        raise UsageError(
            f"there is no latent store {', '.join(missing)} (--config.data.store): "
            f"causalcine encode --out {missing[0]} makes one; "
            "without that flag, the run makes its own"
        )


def _size_faults(named: set[str], config: TrainConfig) -> list[str]:
    """A run takes its sizes from the model it starts from, so a flag must not ask for others."""
    field = "teacher" if config.facts.student else "init"
    model, faults = getattr(config, field), []
    for part in config.facts.networks:
        flags = [name for name in sorted(named) if name.startswith(f"{part}.")]
        if not (flags and model and Path(model).exists() and holds(Path(model), part)):
            continue
        sizes, _ = abstract_network(model, part)
        for name in flags:
            size = name.partition(".")[2]
            if config.new_latents and size in OF_LATENTS:
                continue
            added = isinstance(sizes, TransformerConfig) and config.adds_skip(sizes)
            if added and size == "skip_dim":
                continue
            asked, there = getattr(getattr(config, part), size), getattr(sizes, size)
            if asked != there:
                faults.append(
                    f"{name}={asked} contradicts {field} {model}, where it is {there}: "
                    "leave out the flag"
                )
    return faults
