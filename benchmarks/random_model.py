"""The preset's model with random weights: in memory, and as a model folder, one network after the other, so that a start has something to read.

    settings -> is there room on the disk -> transformer/, vae/, text_encoder/ by convert/save.py, tiny_decoder.safetensors -> load_model

On disk are bfloat16's weights where float8 is measured: it is made of them while they are loaded.
"""

import dataclasses
import shutil
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.film import TINY_DECODER
from benchmarks.settings import CHUNK_FRAMES, Settings, network
from causalcine_jax.convert import save_model, tables
from causalcine_jax.convert.safetensors_files import write_tensors
from causalcine_jax.errors import DataError
from causalcine_jax.film.model_folder import PARTS, Model
from causalcine_jax.models.text.tokenizer import Tokenizer, word_tokenizer
from causalcine_jax.models.vae.tiny_decoder import TinyDecoder
from causalcine_jax.storyworld.grammar import VOCABULARY

GB = 10**9


def random_model(settings: Settings) -> Model:
    """The preset's networks, and what decodes in the VAE's place where that is asked for."""
    networks = {part: network(settings, part) for part in _parts(settings)}
    return Model(**networks, tokenizer=tokenizer(settings), chunk_frames=CHUNK_FRAMES)


def tokenizer(settings: Settings) -> Tokenizer:
    """StoryWorld's words, whatever the text encoder: prompts are padded, so that one costs the encoder what any other does."""
    return word_tokenizer(VOCABULARY, settings.sizes.text_encoder.vocab_size)


def model_folder(settings: Settings, folder: str) -> dict:
    """Writes the model to `folder`: its bytes on disk, and how long that took. `DataError`, before anything is written, where the disk has no room."""
    begun, path = time.perf_counter(), Path(folder)
    on_disk = dataclasses.replace(settings, dtype=str(settings.inference_dtype))
    _check_disk(path.parent, folder_bytes(on_disk))
    for part in PARTS:
        words = {"tokenizer": tokenizer(settings)} if part == "text_encoder" else {}
        save_model(path, **{part: network(on_disk, part)}, **words, dtype=on_disk.dtype)
    if settings.tiny_decoder:
        _save_tiny_decoder(network(on_disk, "tiny_decoder"), path / TINY_DECODER)
    written = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "bytes": written,
        "seconds_to_make": time.perf_counter() - begun,
        "page_cache": "warm: written just before",
    }


def folder_bytes(settings: Settings) -> int:
    """What the networks take in the dtype of inference; nothing is computed."""
    shapes = [
        jax.eval_shape(lambda part=part: network(settings, part)) for part in _parts(settings)
    ]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))


def _parts(settings: Settings) -> tuple[str, ...]:
    return (*PARTS, "tiny_decoder") if settings.tiny_decoder else PARTS


def _check_disk(place: Path, needed: int) -> None:
    free = shutil.disk_usage(place).free
    if free < 1.02 * needed:
        raise DataError(
            f"a start reads its weights from disk: {needed / GB:.3g} GB are written to {place} before it, and {free / GB:.3g} GB are free there; "
            "make room (a start that was killed leaves a folder .bench.start beside its --out), or give an --out on another disk"
        )


def _save_tiny_decoder(net: TinyDecoder, file: Path) -> None:
    """The file that `load_tiny_decoder` reads."""
    places, parameters = tables.places(net, tables.TINY_DECODER), tables.parameters(net)
    tensors = (place.to_torch(np.asarray(parameters[place.path])) for place in places)
    write_tensors(
        file,
        [(place.key, place.shape) for place in places],
        next(iter(parameters.values())).dtype,
        tensors,
    )
