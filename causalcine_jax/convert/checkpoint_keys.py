"""Maps the saved keys of a checkpoint to plain keys: selects the network, strips wrapper prefixes.

Public causal models fine-tuned from Wan2.1 are .pt files of several dictionaries: `generator`,
`critic`, `generator_ema` and others. Their keys keep the names of torch's training wrappers, such
as `model._fsdp_wrapped_module.blocks.0...`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from causalcine_jax.errors import DataError, UsageError, check_choice

WEIGHTS = ("auto", "generator", "generator_ema")
# Dictionaries that hold a network, preferred ones first; `module` is DeepSpeed's, `net` rCM's.
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
# Dictionaries that some files flatten: "generator.blocks.0...".
FLAT = ("generator_ema", "generator", "critic", "net_ema", "net", "net_fake_score")
# Removed anywhere in a key.
_WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
# Removed at its start.
_PREFIXES = ("model.", "diffusion_model.", "module.", "net.", "pipe.dit.", "dit.")
LORA = "generator_lora"


def network_keys(keys: Iterable[str], file: Path, weights: str = "auto") -> dict[str, str]:
    """Plain key -> saved key of the network in a checkpoint; empty if it has no tensors.

    Args:
      keys: as saved; those of a dictionary inside the file are "generator/model.blocks.0...".
      file: for messages, and to recognise Causal-Forcing's chunkwise checkpoints by their path.
      weights: generator, generator_ema, or auto. auto takes the averaged weights where a file has
        them. The exception is Causal-Forcing's chunkwise models, whose authors use the plain ones.

    Raises:
      UsageError: the requested dictionary is not there.
      DataError: no known dictionary, or two keys that are equal after stripping.
    """
    keys = list(keys)
    check_choice("weights", weights, WEIGHTS)
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
    """The dictionaries of a file that hold a network, if it has several."""
    found = {key.split("/" if "/" in key else ".", 1)[0] for key in keys}
    return found & set(_NETWORKS)


def lora_keys(keys: Iterable[str], file: Path) -> dict[str, str]:
    """Plain key -> saved key of an adapter's file."""
    keys = list(keys)
    chosen = [key for key in keys if key.startswith(f"{LORA}/")] or [
        key for key in keys if "/" not in key
    ]
    # All may be in one dictionary, such as state_dict.
    if not chosen and len({key.split("/", 1)[0] for key in keys}) == 1:
        chosen = keys
    return _stripped({key: key for key in chosen}, file)


def _stripped(paths: Mapping[str, str], file: Path) -> dict[str, str]:
    """Plain key -> saved key, from each saved key and its path in the chosen dictionary."""
    plain: dict[str, str] = {}
    for key, path in paths.items():
        name = plain_key(path)
        if name in plain:
            raise DataError(f"{file}: {plain[name]} and {key} are both the tensor {name}")
        plain[name] = key
    return plain


def plain_key(key: str) -> str:
    """A key without its dictionaries and without wrapper prefixes."""
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
        f"{file} holds {', '.join(inside)}: expected one of {', '.join(_NETWORKS)}, "
        "or the tensors themselves"
    )
