"""Maps the saved keys of a checkpoint to plain keys: selects the network, strips wrapper prefixes.

Public causal models fine-tuned from Wan2.1 are .pt files of several dictionaries: `generator`,
`critic`, `generator_ema` and others. Their keys keep the names of torch's training wrappers, such
as `model._fsdp_wrapped_module.blocks.0...`.
"""

import collections
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from causalcine_jax.errors import DataError, UsageError, check_choice

WEIGHTS = ("auto", "generator", "generator_ema")
# Dictionaries that hold a network, preferred ones first; `module` is DeepSpeed's, `net` rCM's.
_AVERAGED = (
    "generator_ema", "net_ema", "ema", "ema_model", "model_ema", "ema_state_dict", "shadow_params",
)  # fmt: skip
_PLAIN = ("generator", "net", "model", "state_dict", "model_state_dict", "module", "transformer")
_NETWORKS = (*_AVERAGED, *_PLAIN)
# Dictionaries that some files flatten: "generator.blocks.0...".
FLAT = (
    "generator_ema", "generator", "critic", "net_ema", "net", "net_fake_score", "ema", "ema_model",
    "model_ema", "transformer",
)  # fmt: skip
# Removed anywhere in a key.
_WRAPPERS = (
    "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.", "_forward_module.",
)  # fmt: skip
# Removed at its start.
_PREFIXES = ("model.", "diffusion_model.", "module.", "net.", "pipe.dit.", "dit.")
LORA = "generator_lora"
# Dictionaries of other networks, and of what training needs.
_OTHERS = re.compile(r"critic|teacher|fake_score|net_fake_score|real_score|discriminator|optim")


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
    check_choice("weights", weights, WEIGHTS)
    paths = _split_flat({key: key for key in keys})
    while any("/" in path for path in paths.values()):
        below = weights != "auto" and any(f"/{weights}/" in path for path in paths.values())
        name = _choose(paths.values(), file, "auto" if below else weights)
        weights = weights if below else "auto"
        paths = _split_flat(
            {
                key: path.removeprefix(f"{name}/")
                for key, path in paths.items()
                if path.startswith(f"{name}/")
            }
        )
    if weights != "auto":
        raise UsageError(f"{file} has one set of weights and no {weights}: leave the choice out")
    return _stripped(paths, file)


def stored_networks(keys: Iterable[str]) -> list[str]:
    """The dictionaries of a file that hold a network, those preferred first."""
    return _candidates(_split_flat({key: key for key in keys}).values())


def _split_flat(paths: dict[str, str]) -> dict[str, str]:
    """`paths` (values) with flattened dictionaries as dictionaries: generator.x is generator/x.

    Wrappers may enclose all of them: module.generator.x. Keys without a dot are a trainer's own
    numbers, such as step.
    """
    if any("/" in path for path in paths.values()):
        return paths
    for stripped in (str, plain_key):
        found = {key: stripped(path) for key, path in paths.items()}
        dotted = [path for path in found.values() if "." in path]
        if any(_in(path, FLAT) for path in dotted) and all(
            _in(path, (*FLAT, "model")) for path in dotted
        ):
            return {key: path.replace(".", "/", 1) for key, path in found.items()}
    return paths


def _in(path: str, names: Iterable[str]) -> bool:
    return path.partition(".")[0] in names


def lora_keys(keys: Iterable[str], file: Path) -> dict[str, str]:
    """Plain key -> saved key of an adapter's file.

    Raises:
      DataError: its dictionaries are those of other networks, or none can be preferred.
    """
    keys = list(keys)
    inside = dict.fromkeys(key.split("/", 1)[0] for key in keys if "/" in key)
    known = [name for name in inside if not _OTHERS.match(name)]
    chosen = [key for key in keys if f"/{LORA}/" in f"/{key}"] or [
        key for key in keys if "/" not in key
    ]
    if not chosen and (name := next(iter(_candidates(keys)), None) or _only(known)):
        chosen = [key for key in keys if key.startswith(f"{name}/")]
    if not chosen and inside:
        raise DataError(
            f"{file} holds {', '.join(inside)}: an adapter is expected in {LORA}, or by itself"
        )
    return _stripped({key: key for key in chosen}, file)


def _only(names: list[str]) -> str | None:
    return names[0] if len(names) == 1 else None


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


def _candidates(paths: Iterable[str]) -> list[str]:
    """The dictionaries in `paths` that hold a network, preferred ones first.

    Fewer than half of another's weights are no network: an average may hold its decay alone.
    """
    counts = collections.Counter(
        path.split("/", 1)[0] for path in paths if "/" in path and "." in path.rsplit("/", 1)[1]
    )
    most = max(counts[name] for name in _NETWORKS)
    return [name for name in _NETWORKS if counts[name] and counts[name] * 2 >= most]


def _choose(paths: Collection[str], file: Path, weights: str) -> str:
    """The dictionary to take. generator and generator_ema also mean other names of the same."""
    inside = list(dict.fromkeys(path.split("/", 1)[0] for path in paths if "/" in path))
    known = _candidates(paths)
    if weights in inside:
        return weights
    if weights != "auto":
        asked = [name for name in known if (name in _AVERAGED) == (weights == "generator_ema")]
        if not asked:
            raise UsageError(f"{file} holds {', '.join(inside)}, but no {weights}")
        return asked[0]
    if "generator" in known and "chunkwise" in file.absolute().parts:
        return "generator"
    if known:
        return known[0]
    if LORA in inside:
        raise DataError(f"{file} is a LoRA ({LORA}): name its base, and this file as --lora")
    raise DataError(
        f"{file} holds {', '.join(inside)}: expected one of {', '.join(_NETWORKS)}, "
        "or the tensors themselves"
    )
