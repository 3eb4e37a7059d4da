"""metadata.json of a converted model: how it is sampled, and what it was made from."""

import collections
import re
from pathlib import Path
from typing import Any

from causalcine_jax import families
from causalcine_jax.convert import guess_family
from causalcine_jax.convert.convert_config import ConvertConfig
from causalcine_jax.convert.layouts import Network
from causalcine_jax.convert.lora import Lora, loras
from causalcine_jax.convert.metadata import METADATA, base_entry, load_metadata
from causalcine_jax.diffusion.solvers import SamplerConfig
from causalcine_jax.errors import DataError, UsageError, shown


def converted_metadata(config: ConvertConfig, networks: list[Network]) -> dict[str, Any]:
    """The content of metadata.json.

    The sampling is that of the source's own metadata.json, else that of its family.
    """
    found = load_metadata(config.source) if config.family is None and config.source.is_dir() else {}
    _check(found, config.source / METADATA)
    if "sampler" not in found:
        family = (
            families.family(config.family)
            if config.family
            else guess_family.guess(config.source, _sizes(networks))
        )
        found = {**found, **(family.defaults() if family else {})}
    if isinstance(found.get("base"), str):  # a path relative to the folder, which changes
        found = {**found, "base": base_entry(config.source / found["base"], config.out)}
    if asked := loras(config.lora):
        merged = (str(Lora(Path(each.path.name), each.strength)) for each in asked)
        found = {**found, "loras": [*found.get("loras", []), *merged]}
    return {**found, "converted_from": config.source.name}


def _check(found: dict[str, Any], file: Path) -> None:
    """Raises `DataError` for a family or loras of another type, as an edited file may have."""
    if not isinstance(found.get("family", ""), str):
        raise DataError(f"{file}: family must be a name, not {shown(found['family'])}: correct it")
    names = found.get("loras", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{file}: loras must be a list of names, not {shown(names)}: correct it")


def recorded_shift(config: ConvertConfig, metadata: dict[str, Any]) -> float:
    """The flow shift of the recorded sampler, or Wan2.1's."""
    recorded = metadata.get("sampler", {})
    try:
        return SamplerConfig(**recorded).shift
    except (TypeError, UsageError) as error:
        raise DataError(
            f"{config.source / METADATA} describes no sampler with {recorded!r}: correct it, "
            "or give --family"
        ) from error


def sampling_note(metadata: dict[str, Any]) -> str:
    """For the user: adapters that may be merged twice, and how the model will be sampled."""
    names = metadata.get("loras", [])
    counted = collections.Counter(re.sub(r":[^:]*$", "", name) for name in names)
    if max(counted.values(), default=0) > 1:
        merged = f"note: merged by now: {', '.join(names)}; strengths of the same file add up\n"
        return merged + _sampling(metadata)
    return _sampling(metadata)


def _sampling(metadata: dict[str, Any]) -> str:
    """One line for the user: how the converted model will be sampled."""
    family = families.FAMILIES.get(metadata.get("family", ""))
    if family is not None:
        return f"family: {family.name} (licence of its weights: {family.licence}). {family.note}"
    if "sampler" in metadata:
        return "sampled as the source's metadata.json says"
    return (
        "family: unknown, so metadata.json does not set the sampling, and films are made as by "
        f"{families.ASSUMED}; if it is a model of another kind, convert it again with "
        f"--family NAME ({', '.join(families.FAMILIES)})"
    )


def _sizes(networks: list[Network]):
    """The transformer's config, if there is a transformer."""
    return next(
        (network.description.config for network in networks if network.part == "transformer"), None
    )
