"""A model on disk to modules: one tensor after the other into place.

What a folder or file holds is checked completely, from the headers alone, before the first weight is read.
"""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from causalcine_jax.convert import orbax_copy, tables
from causalcine_jax.convert.describe import Description, describe
from causalcine_jax.convert.formats import PartTensors, open_part
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.umt5 import UMT5Encoder
from causalcine_jax.models.vae import VAE


def load_transformer(path: str | os.PathLike, dtype=jnp.float32, *, weights: str = "auto") -> Transformer:
    """Loads the transformer from a model folder, a folder or file of Wan2.1, Diffusers, or one of Wan2.1's causal children.

    Args:
      path: where; see `formats` for all that it may be. Sizes come from the shapes; heads, text_len and eps from config.json.
      dtype: of all parameters in memory.
      weights: generator or generator_ema, for a .pt that has both; auto takes the one that its authors recommend.

    Raises:
      DataError: missing or damaged files, or tensors that are not those of a Wan2.1 transformer (all are listed).
    """
    return _load(path, "transformer", dtype, weights)


def load_vae(path: str | os.PathLike, dtype=jnp.float32) -> VAE:
    """Loads the VAE from any of the same, or from Wan2.1_VAE.pth. See `load_transformer`."""
    return _load(path, "vae", dtype, "auto")


def load_text_encoder(path: str | os.PathLike, dtype=jnp.float32) -> UMT5Encoder:
    """Loads the text encoder from any of the same, or from models_t5_umt5-xxl-enc-bf16.pth. See `load_transformer`.

    `Tokenizer.load` takes the same folder.
    """
    return _load(path, "text_encoder", dtype, "auto")


def fill(network: Description, tensors: PartTensors, dtype) -> nnx.Module:
    """The module of `network` with the checkpoint's tensors; besides it, one parameter (all its layers) and one tensor are in memory."""
    by_path: dict[str, list[tables.Place]] = {}
    for place in network.places:
        by_path.setdefault(place.path, []).append(place)
    leaves = []
    for path, leaf in tables.parameters(network.shapes).items():
        parameter = np.empty(leaf.shape, np.dtype(dtype))
        for place in by_path[path]:
            parameter[... if place.layer is None else place.layer] = place.to_ours(tensors.read(place.key))
        leaves.append(jnp.asarray(parameter))
    return jax.tree.unflatten(jax.tree.structure(network.shapes), leaves)


def _load(path, part: str, dtype, weights: str):
    copy = orbax_copy.find(Path(path), part)
    if copy is not None:
        return orbax_copy.load(copy, part, dtype)
    with open_part(path, part, weights=weights) as tensors:
        return fill(describe(part, tensors), tensors, dtype)
