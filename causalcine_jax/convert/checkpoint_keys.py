"""From the keys of a checkpoint as it was saved to plain ones: the dictionary that holds the network, wrappers' prefixes stripped.

The public causal children of Wan2.1 are .pt files of several dictionaries (`generator`, `critic`, `generator_ema`, ...), and what
torch wrapped around the network while it was trained is still in the keys: `model._fsdp_wrapped_module.blocks.0...`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from causalcine_jax.errors import DataError, UsageError, nearest

WEIGHTS = ("auto", "generator", "generator_ema")
# Dictionaries that hold a network, the better first; `module` is DeepSpeed's, `net` rCM's.
_NETWORKS = (
    "generator_ema",
    "generator",
    "net_ema",
    "net",
    "model",
    "ema",
    "state_dict",
    "model_state_dict",
    "module",
)
FLAT = (
    "generator_ema",
    "generator",
    "critic",
    "net_ema",
    "net",
    "net_fake_score",
)  # dictionaries that some files flatten: "generator.blocks.0..."
_WRAPPERS = (
    "_fsdp_wrapped_module.",
    "_checkpoint_wrapped_module.",
    "_orig_mod.",
)  # anywhere in a key
_PREFIXES = ("model.", "diffusion_model.", "module.", "net.", "pipe.dit.", "dit.")  # at its start
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
    paths = {key: key for key in keys}
    if all(key.startswith(tuple(f"{name}." for name in FLAT)) for key in keys):
        paths = {key: key.replace(".", "/", 1) for key in keys}
    while inside := dict.fromkeys(path.split("/", 1)[0] for path in paths.values() if "/" in path):
        below = weights != "auto" and any(f"/{weights}/" in path for path in paths.values())
        name = _choose(inside, file, "auto" if below else weights)
        weights = "auto" if name == weights else weights
        paths = {
            key: path.removeprefix(f"{name}/")
            for key, path in paths.items()
            if path.startswith(f"{name}/")
        }
    if weights != "auto":
        raise UsageError(f"{file} has one set of weights and no {weights}: leave the choice out")
    return _stripped(paths, file)


def stored_networks(keys: Iterable[str]) -> set[str]:
    """The dictionaries of a file that hold a network, where it has several to choose from."""
    found = {key.split("/" if "/" in key else ".", 1)[0] for key in keys}
    return found & set(_NETWORKS)


def lora_keys(keys: Iterable[str], file: Path) -> dict[str, str]:
    """Plain key -> key as saved, of an adapter's file."""
    keys = list(keys)
    chosen = [key for key in keys if key.startswith(f"{LORA}/")] or [
        key for key in keys if "/" not in key
    ]
    if (
        not chosen and len({key.split("/", 1)[0] for key in keys}) == 1
    ):  # all in one dictionary, such as state_dict
        chosen = keys
    return _stripped({key: key for key in chosen}, file)


def _stripped(paths: Mapping[str, str], file: Path) -> dict[str, str]:
    """Plain key -> key as saved, of each key and its path in the dictionary that was chosen."""
    plain: dict[str, str] = {}
    for key, path in paths.items():
        name = plain_key(path)
        if name in plain:
            raise DataError(f"{file}: {plain[name]} and {key} are both the tensor {name}")
        plain[name] = key
    return plain


def plain_key(key: str) -> str:
    """A key without the dictionaries it is in and without wrappers' prefixes."""
    name = key.rsplit("/", 1)[-1]
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    while prefix := next((p for p in _PREFIXES if name.startswith(p)), None):
        name = name.removeprefix(prefix)
    return name


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
    raise DataError(
        f"{file} holds {', '.join(inside)}: expected one of {', '.join(_NETWORKS)}, or the tensors themselves"
    )
