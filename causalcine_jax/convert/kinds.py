"""The kind of a file of tensors (transformer, VAE, text encoder or adapter), by its keys alone.

The keys are compared with those of each Wan2.1 network, in its own naming and in Diffusers'.
"""

import functools
import re
from collections.abc import Iterable
from pathlib import Path

from causalcine_jax.convert import checkpoint_keys, unsupported
from causalcine_jax.convert.diffusers_tables import TEXT_ENCODER, TRANSFORMER, KeyTable
from causalcine_jax.convert.lora_keys import is_adapter_key
from causalcine_jax.convert.tensor_files import open_tensors

ADAPTER = "adapter"
NAMES = {
    "transformer": "a transformer",
    "vae": "a VAE",
    "text_encoder": "a text encoder",
    ADAPTER: "a LoRA",
}
_FLAT = re.compile(rf"({'|'.join(checkpoint_keys.FLAT)})\.")
_TABLES = {"transformer": KeyTable(TRANSFORMER), "text_encoder": KeyTable(TEXT_ENCODER)}
# A VAE's key table depends on its decoder's stages; the names of its modules do not.
_VAE = re.compile(
    r"(?:encoder|decoder)\.(?:conv1|conv_in|conv_out|norm_out|middle|mid_block|head|downsamples"
    r"|down_blocks|upsamples|up_blocks)\..+"
    r"|(?:conv1|conv2|quant_conv|post_quant_conv)\.(?:weight|bias)"
)


def kind_of(path: Path) -> str | None:
    """transformer, vae, text_encoder or ADAPTER; None for unknown keys.

    Args:
      path: a file, or a folder of shards.

    Raises:
      DataError: it cannot be read.
    """
    stat = path.stat()
    return _kind_of(path.absolute(), stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=256)
def _kind_of(path: Path, changed: int, size: int) -> str | None:
    with open_tensors(path) as tensors:
        return kind_of_keys(tensors.shapes)


def kind_of_keys(keys: Iterable[str]) -> str | None:
    """`kind_of` for the keys of a file, as saved."""
    keys = list(keys)
    plain = {checkpoint_keys.plain_key(key) for key in keys}
    if any(key.startswith(f"{checkpoint_keys.LORA}/") for key in keys) or sum(
        map(is_adapter_key, plain)
    ) * 2 > len(plain):
        return ADAPTER
    plain = {checkpoint_keys.plain_key(_FLAT.sub("", name)) for name in plain}
    known = {part: sum(_known(table, key) for key in plain) for part, table in _TABLES.items()}
    known["vae"] = sum(_VAE.fullmatch(key) is not None for key in plain)
    best = max(known, key=known.__getitem__)
    return best if known[best] else None


def what_else(path: Path) -> str:
    """What a file of unknown kind seems to be, for a message."""
    with open_tensors(path) as tensors:
        plain = sorted(checkpoint_keys.plain_key(key) for key in tensors.shapes)
    relative = next(
        (what for part in (*_TABLES, "vae") if (what := unsupported.kind(part, plain))), None
    )
    if relative:
        return f"is {relative}"
    return f"holds no known network: {said_of(plain)}"


def said_of(keys: Iterable[str]) -> str:
    """Whose keys they are, or how they begin, for a message."""
    if kind := kind_of_keys(keys := sorted(keys)):
        return f"its keys are those of {NAMES[kind]}"
    return f"its keys begin with {', '.join(keys[:3]) or 'nothing'}"


def _known(table: KeyTable, key: str) -> bool:
    return table.to_diffusers(key) is not None or table.to_original(key) is not None
