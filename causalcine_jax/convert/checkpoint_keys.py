"""From the keys of a checkpoint as it was saved to plain ones: the dictionary that holds the network, wrappers' prefixes stripped.

The public causal children of Wan2.1 are .pt files of several dictionaries (`generator`, `critic`, `generator_ema`, ...), and what
torch wrapped around the network while it was trained is still in the keys: `model._fsdp_wrapped_module.blocks.0...`.
"""

from collections.abc import Iterable
from pathlib import Path

from causalcine_jax.errors import DataError, UsageError, nearest

WEIGHTS = ("auto", "generator", "generator_ema")
_NETWORKS = ("generator_ema", "generator", "model", "ema", "state_dict")  # dictionaries that hold a network, the better first
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")  # anywhere in a key
_PREFIXES = ("model.", "diffusion_model.", "module.")  # at its start
LORA = "generator_lora"


def network_keys(keys: Iterable[str], file: Path, weights: str = "auto") -> dict[str, str]:
    """Plain key -> key as saved, of the network in a checkpoint; empty if it has no tensors.

    Args:
      keys: as saved; those of a dictionary inside the file are "generator/model.blocks.0...".
      file: for messages; and the chunkwise checkpoints of Causal-Forcing are known by its path.
      weights: generator, generator_ema, or auto: the averaged weights where a file has them, except those of Causal-Forcing's
        chunkwise models, which are published to be used without.

    Raises:
      UsageError: the dictionary asked for is not there.
      DataError: no dictionary that is known, or two keys that are the same one once stripped.
    """
    keys = list(keys)
    if weights not in WEIGHTS:
        raise UsageError(f"unknown weights {weights!r}, {nearest(weights, WEIGHTS)}")
    inside = dict.fromkeys(key.split("/", 1)[0] for key in keys if "/" in key)
    if not inside:
        if weights != "auto":
            raise UsageError(f"{file} has one set of weights and no {weights}: leave the choice out")
        return stripped(keys, file)
    name = _choose(inside, file, weights)
    return stripped([key for key in keys if key.startswith(f"{name}/")], file)


def lora_keys(keys: Iterable[str], file: Path) -> dict[str, str]:
    """Plain key -> key as saved, of an adapter's file."""
    keys = list(keys)
    chosen = [key for key in keys if key.startswith(f"{LORA}/")] or [key for key in keys if "/" not in key]
    return stripped(chosen, file)


def stripped(keys: Iterable[str], file: Path) -> dict[str, str]:
    plain: dict[str, str] = {}
    for key in keys:
        name = key.rsplit("/", 1)[-1]
        for wrapper in _WRAPPERS:
            name = name.replace(wrapper, "")
        while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
            name = name.removeprefix(prefix)
        if name in plain:
            raise DataError(f"{file}: {plain[name]} and {key} are both the tensor {name}")
        plain[name] = key
    return plain


def _choose(inside: Iterable[str], file: Path, weights: str) -> str:
    inside = list(inside)
    if weights != "auto":
        if weights not in inside:
            raise UsageError(f"{file} holds {', '.join(inside)}, but no {weights}")
        return weights
    if "generator" in inside and "chunkwise" in file.absolute().parts:
        return "generator"
    known = [name for name in _NETWORKS if name in inside]
    if known:
        return known[0]
    if LORA in inside:
        raise DataError(f"{file} is a LoRA ({LORA}): name its base, and this file as --lora")
    raise DataError(f"{file} holds {', '.join(inside)}: expected one of {', '.join(_NETWORKS)}, or the tensors themselves")
