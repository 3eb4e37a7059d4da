"""The preset's model with random weights, in memory or as a model folder.

A start needs a folder to read from disk. Networks are written one after the other:

    settings -> is there room on the disk
        -> transformer/, vae/, text_encoder/ by convert/save.py, tiny_decoder.safetensors
        -> load_model

For float8, the folder has bfloat16 weights, which are quantised while they are loaded.
"""

import dataclasses
import shutil
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np

from benchmarks.film import TINY_DECODER
from benchmarks.settings import CHUNK_FRAMES, SIZED, Settings, network
from causalcine_jax.convert import save_model, tables
from causalcine_jax.convert.safetensors_files import write_tensors
from causalcine_jax.errors import DataError
from causalcine_jax.film.model_folder import Model
from causalcine_jax.models.dit import Transformer
from causalcine_jax.models.nn import Module
from causalcine_jax.models.text.tokenizer import Tokenizer, word_tokenizer
from causalcine_jax.models.text.umt5 import UMT5Encoder
from causalcine_jax.models.vae.tiny_decoder import TinyDecoder
from causalcine_jax.models.vae.wan_vae import VAE
from causalcine_jax.storyworld.grammar import VOCABULARY
from causalcine_jax.utils.arrays import tree_bytes
from causalcine_jax.utils.machine_memory import GB


def random_model(settings: Settings) -> Model:
    """Returns the preset's networks, with TAEHV in the VAE's place if requested."""
    return Model(
        network(settings, Transformer),
        network(settings, VAE),
        network(settings, UMT5Encoder),
        tokenizer(settings),
        chunk_frames=CHUNK_FRAMES,
        tiny_decoder=network(settings, TinyDecoder) if settings.tiny_decoder else None,
    )


def tokenizer(settings: Settings) -> Tokenizer:
    """Returns StoryWorld's words for any text encoder.

    Prompts are padded, so they all cost the encoder the same.
    """
    return word_tokenizer(VOCABULARY, settings.sizes.text_encoder.vocab_size)


def model_folder(settings: Settings, folder: str) -> dict:
    """Writes the model to `folder`; returns its bytes on disk and the seconds.

    Raises:
      DataError: the disk has too little room; nothing is written then.
    """
    begun, path = time.perf_counter(), Path(folder)
    on_disk = dataclasses.replace(settings, dtype=str(settings.inference_dtype))
    _check_disk(path.parent, folder_bytes(on_disk))
    dtype, words = on_disk.dtype, tokenizer(settings)
    save_model(path, transformer=network(on_disk, Transformer), dtype=dtype)
    save_model(path, vae=network(on_disk, VAE), dtype=dtype)
    save_model(path, text_encoder=network(on_disk, UMT5Encoder), tokenizer=words, dtype=dtype)
    if settings.tiny_decoder:
        _save_tiny_decoder(network(on_disk, TinyDecoder), path / TINY_DECODER)
    written = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "bytes": written,
        "seconds_to_make": time.perf_counter() - begun,
        "page_cache": "warm: written just before",
    }


def folder_bytes(settings: Settings) -> int:
    """Returns the networks' bytes in the dtype of inference, without computing anything."""
    kinds: list[type[Module]] = [*SIZED, TinyDecoder] if settings.tiny_decoder else [*SIZED]
    shapes = [jax.eval_shape(partial(network, settings, kind)) for kind in kinds]
    return tree_bytes(shapes)


def _check_disk(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < 1.02 * needed:
        raise DataError(
            f"a start reads its weights from disk, so {needed / GB:.3g} GB must first be written "
            f"to {folder}, and only {free / GB:.3g} GB are free there; free some space (a start "
            "that was killed leaves a folder .bench.start beside its --out), or give an --out "
            "on another disk"
        )


def _save_tiny_decoder(net: TinyDecoder, file: Path) -> None:
    """Writes the file that `load_tiny_decoder` reads."""
    places, parameters = tables.places(net, tables.TINY_DECODER), tables.parameters(net)
    tensors = (place.to_torch(np.asarray(parameters[place.path])) for place in places)
    write_tensors(
        file,
        [(place.key, place.shape) for place in places],
        next(iter(parameters.values())).dtype,
        tensors,
    )
