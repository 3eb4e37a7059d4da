"""Loads modules from a model on disk, on one device or sharded over a mesh.

Headers are checked completely before the first weight is read. Then only each device's slices are
read, one parameter after the other. A slice of a parameter is a slice of every layer's tensor, with
the axes in the checkpoint's order.
"""

import contextlib
import functools
import os
from pathlib import Path
from typing import Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from tokenizers import Tokenizer as Backend

from causalcine_jax.convert import orbax_copy, tables
from causalcine_jax.convert.describe import (
    Config,
    NetworkTensors,
    describe,
    from_config,
    network_places,
)
from causalcine_jax.convert.find import home
from causalcine_jax.convert.finite import check_finite
from causalcine_jax.convert.formats import open_part
from causalcine_jax.convert.lora import AskedLoras
from causalcine_jax.convert.metadata import read_settings
from causalcine_jax.convert.sentencepiece import tokenizer_json
from causalcine_jax.convert.tensor_files import open_tensors
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import stays_float32
from causalcine_jax.models.text.tokenizer import Tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.tiny_decoder import TinyDecoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.parallel.sharding import state_shardings

Network = TypeVar("Network", bound=nnx.Module)


def load_transformer(
    path: str | os.PathLike,
    dtype=jnp.float32,
    *,
    weights: str = "auto",
    lora: AskedLoras = None,
    mesh: Mesh | None = None,
) -> Transformer:
    """Loads the transformer of a model folder, Wan2.1, Diffusers, or a fine-tuned causal model.

    Args:
      path: a file or folder; see `formats`. Sizes come from the shapes; heads, text_len and eps
        from config.json.
      dtype: of the parameters in memory. Those that Wan2.1 computes in float32 are float32
        (`nn.stays_float32`), as in training.
      weights: generator or generator_ema, for a .pt that has both; auto takes the one that its
        authors recommend.
      lora: adapters to merge while reading, see `lora.loras`.
      mesh: shards the parameters over its devices, as training does (`parallel.sharding`); this
        process reads its own devices' slices. Without a mesh, they go to the default device.

    Raises:
      DataError: missing or damaged files; tensors that are not finite, or not those of a Wan2.1
        transformer (all listed); or an adapter of another network.
    """
    return _load(path, "transformer", dtype, mesh, weights=weights, lora_path=lora)


def load_vae(path: str | os.PathLike, dtype=jnp.float32, *, mesh: Mesh | None = None) -> VAE:
    """Loads the VAE from the same formats, or from Wan2.1_VAE.pth. See `load_transformer`."""
    return _load(path, "vae", dtype, mesh)


def load_text_encoder(
    path: str | os.PathLike, dtype=jnp.float32, *, mesh: Mesh | None = None
) -> UMT5Encoder:
    """Loads the text encoder from the same formats, or from models_t5_umt5-xxl-enc-bf16.pth.

    See `load_transformer`. `load_tokenizer` takes the same folder.
    """
    return _load(path, "text_encoder", dtype, mesh)


def load_tiny_decoder(
    path: str | os.PathLike, dtype=jnp.float32, *, mesh: Mesh | None = None
) -> TinyDecoder:
    """Loads TAEHV's decoder for Wan2.1 from taew2_1.pth or taew2_1.safetensors.

    Raises:
      DataError: the file is missing or damaged, or has other tensors (all listed).
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"no tiny decoder at {path}: there is no such file "
            "(taew2_1.pth of github.com/madebyollin/taehv)"
        )
    with open_tensors(path) as tensors:
        decoder = NetworkTensors(tensors, "tiny_decoder", beside=r"encoder\..*")
        shapes = jax.eval_shape(lambda: TinyDecoder(key=jax.random.key(0)))
        what = "TAEHV's decoder for Wan2.1 (taew2_1)"
        places = network_places(what, shapes, tables.TINY_DECODER, decoder)
        return fill(shapes, places, decoder, dtype, mesh)


def abstract_network(path: str | os.PathLike, part: str) -> tuple[Config, nnx.Module]:
    """(sizes, module with abstract arrays) of the `part` of a model, from its headers alone.

    Raises:
      DataError: it is missing or damaged.
    """
    if (copy := orbax_copy.find(Path(path), part)) is not None:
        config = copy / "config.json"
        return from_config(part, read_settings(config), str(config))
    with open_part(path, part) as tensors:
        network = describe(part, tensors)
        return network.config, network.shapes


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """The tokenizer of a model's text encoder: found by `Tokenizer.load`, else inside its file.

    ComfyUI packs it into the encoder's file.

    Raises:
      DataError: there is none.
    """
    folder = home(Path(path), "text_encoder")
    try:
        return Tokenizer.load(folder)
    except DataError:
        packed = None
        with contextlib.suppress(DataError), open_part(folder, "text_encoder") as tensors:
            packed = tensors.packed_tokenizer()
        if packed is None:
            raise
        return Tokenizer(
            Backend.from_str(
                tokenizer_json(packed, f"the spiece_model in {folder}").decode("utf-8")
            )
        )


class SlicedTensors(Protocol):
    """A network's tensors under the keys of its table, such as `PartTensors`."""

    @property
    def path(self) -> Path: ...
    @property
    def part(self) -> str: ...
    def read_slice(self, key: str, index: tuple[slice, ...]) -> np.ndarray: ...
    def source_key(self, key: str) -> str: ...


def fill(
    shapes: Network,
    places: list[tables.TensorPlace],
    tensors: SlicedTensors,
    dtype: tables.Dtypes,
    mesh: Mesh | None = None,
) -> Network:
    """The module of `shapes`, filled from the checkpoint's tensors at `places`.

    Beyond the module itself, memory holds this process's part of one parameter.
    """
    layers: dict[str, list[tables.TensorPlace]] = {}
    for place in places:
        layers.setdefault(place.path, []).append(place)
    parameters = tables.parameters(shapes)
    shardings = None if mesh is None else state_shardings(mesh, parameters)
    leaves = []
    for path, leaf in parameters.items():
        own = tables.dtype_of(dtype, path)
        read = functools.partial(_read, layers[path], tensors, leaf.shape, own)
        if shardings is None:
            # jnp.asarray would compile a program per shape.
            leaves.append(jax.device_put(read((slice(None),) * leaf.ndim)))
        else:
            leaves.append(jax.make_array_from_callback(leaf.shape, shardings[path], read))
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def _read(
    places: list[tables.TensorPlace],
    tensors: SlicedTensors,
    shape: tuple[int, ...],
    dtype: np.dtype,
    index: tuple[slice, ...],
) -> np.ndarray:
    """The slice `index` of a parameter of `shape`, from its one tensor or its layers' tensors."""
    index = tuple(slice(*part.indices(size)) for part, size in zip(index, shape, strict=True))
    values = np.empty([part.stop - part.start for part in index], dtype)
    layers = [(values, places[0], index)]
    if places[0].layer is not None:
        layers = [(values[layer], place, index[1:]) for layer, place in enumerate(places[index[0]])]
    for value, place, part in layers:
        value[...] = place.read(tensors, part)
        check_finite(value, tensors, place.key)
    return values


def _load(path, part: str, dtype, mesh: Mesh | None, **how):
    copy = orbax_copy.find(Path(path), part)
    if part == "transformer":
        whole = dtype
        dtype = lambda name: jnp.float32 if stays_float32(name) else whole
    if copy is not None:
        if how.get("lora_path"):
            raise UsageError(
                f"{copy} is an orbax copy, into which no LoRA is merged: "
                "name the model that it was converted from"
            )
        return orbax_copy.load(copy, part, dtype, mesh)
    with open_part(path, part, **how) as tensors:
        network = describe(part, tensors)
        return fill(network.shapes, network.places, tensors, dtype, mesh)
