"""Identifies a model's weights by a sample of each tensor.

Reading a sample takes seconds; hashing the files of 14B takes a minute.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from causalcine_jax.convert.formats import open_part
from causalcine_jax.errors import UsageError
from causalcine_jax.film.model_folder import Model
from causalcine_jax.parallel.gathering import gather_to_host

SAMPLED = 64  # values of each tensor, or of each layer's tensor in a loaded stack
TEXT = "text encoder"
SHOWN = 12  # digits of a hash: enough to tell two apart


class OtherWeights(UsageError):
    """The networks are not those that a film was begun with."""


def weights_sample(folder: Path, part: str) -> str:
    """The beginning of a SHA-256 over a network's settings, tensor shapes and first values."""
    with open_part(folder, part) as tensors:
        told = json.dumps([tensors.settings, tensors.dtypes], sort_keys=True, default=str)
        digest = hashlib.sha256(told.encode())
        for key, shape in sorted(tensors.shapes.items()):
            corner = (*(slice(1) for _ in shape[:-1]), slice(SAMPLED))[: len(shape)]
            numbers = np.ascontiguousarray(tensors.read_slice(key, corner)).tobytes()
            digest.update(f"{key} {shape}".encode() + numbers)
    return digest.hexdigest()[:SHOWN]


def loaded_sample(model: Model) -> dict[str, str]:
    """The same of each network as it was loaded: its dtype and merged adapters count.

    If the weights span several processes, every process must call this.
    """
    networks = {
        "transformer": model.transformer,
        "vae": model.vae,
        TEXT: model.text_encoder,
        "tiny decoder": model.tiny_decoder,
    }
    return {name: network_sample(net) for name, net in networks.items() if net is not None}


def network_sample(network: Any) -> str:
    """The same of one loaded network, or of a part of one."""
    leaves = jax.tree.leaves(network)
    told = [(leaf.shape, str(leaf.dtype)) for leaf in leaves]
    numbers = gather_to_host(_sampled(leaves))
    return hashlib.sha256(repr(told).encode() + numbers.tobytes()).hexdigest()[:SHOWN]


@jax.jit
def _sampled(leaves: list[Array]) -> Float[Array, " n"]:
    """The first values of every tensor; of a stack [layers, ...], those of every layer."""
    return jnp.concatenate([_corner(leaf).astype(jnp.float32).ravel() for leaf in leaves])


def _corner(leaf: Array) -> Array:
    if leaf.ndim < 2:
        return leaf.ravel()[:SAMPLED]
    rows = (slice(None),) if leaf.ndim > 2 else ()
    return leaf[(*rows, *[0] * (leaf.ndim - len(rows) - 1), slice(SAMPLED))]
