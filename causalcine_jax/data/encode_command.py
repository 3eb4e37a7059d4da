"""`causalcine encode`: a StoryWorld store from a model folder, in this process or in several.

On a CPU, one process per core encodes more films than one process with all cores.
The VAE's small convolutions do not keep all cores busy.
Each process writes its own shards of the store; the parent reports progress and finishes it.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from causalcine_jax.convert import load_tokenizer, load_vae
from causalcine_jax.convert.find import holds
from causalcine_jax.data import pool
from causalcine_jax.data.encode import (
    StoryWorldFilms,
    encode_films,
    encoding_vae,
    storyworld_spec,
)
from causalcine_jax.data.encode_config import EncodeConfig
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.latent_writer import LatentStoreWriter
from causalcine_jax.errors import DataError, kept_when_stopped
from causalcine_jax.models.text.tokenizer import Tokenizer, word_tokenizer
from causalcine_jax.presets import preset
from causalcine_jax.storyworld import VOCABULARY, WORLDS
from causalcine_jax.utils.output import check_disk, one_writer
from causalcine_jax.utils.progress import progress_bar


def encode_storyworld(
    config: EncodeConfig, *, progress: bool = True, flag: str = "--out"
) -> LatentStore:
    """Writes the store and returns it, open. Called again after an interruption, it resumes.

    `flag` names `config.out` in messages.

    Raises:
      UsageError: the request is bad, or `config.out` is another store or cannot be had
        (`one_writer`).
      DataError: the model's files are bad, the disk is full, or a process died.
      StoppedEarly: for a KeyboardInterrupt; the films so far are kept.
    """
    kept = "stopped: the films so far are kept; the same command goes on from there"
    with one_writer(config.out, beside=True, flag=flag), kept_when_stopped(kept):
        return _encode(config, progress, flag)


def _encode(config: EncodeConfig, progress: bool, flag: str) -> LatentStore:
    task = _Task(config, flag)
    check_disk(task.writer.fewest_bytes(), config.out, flag=flag)
    shards = task.writer.pending()
    pending = sum(map(len, shards))
    check_disk(pending * task.writer.spec.film_bytes, config.out, flag=flag)
    start = time.monotonic()
    there = config.films - pending
    with progress_bar(config.films, "film", "encode", done=there, shown=progress) as bar:
        if config.processes == 1:
            task.encode(shards, bar.update)
        else:
            _in_processes(config, shards, bar.update)
    if pending and progress:
        seconds = time.monotonic() - start
        print(
            f"{config.out}: {pending} films encoded in {seconds:.0f} s, "
            f"{pending / seconds:.2f} films/s"
        )
    return task.writer.finish()


class _Task:
    """What a process needs to encode shards."""

    def __init__(self, config: EncodeConfig, flag: str = "--out"):
        self.batch = config.batch
        vae = load_vae(config.model)
        self.vae = encoding_vae(config.model, vae)
        self.tokenizer = tokenizer_of(config.model)
        self.source = StoryWorldFilms(WORLDS[config.world](), config.seed)
        spec = storyworld_spec(self.source, config.films, vae, self.tokenizer, config.text_len)
        self.writer = LatentStoreWriter(
            config.out, dataclasses.replace(spec, films_per_shard=config.films_per_shard), flag=flag
        )

    def encode(
        self, shards: Sequence[range], on_progress: Callable[[int], object] = lambda films: None
    ) -> None:
        encode_films(
            self.vae,
            self.tokenizer,
            self.source,
            self.writer,
            batch=self.batch,
            shards=shards,
            on_progress=on_progress,
        )


def _in_processes(
    config: EncodeConfig, shards: Sequence[range], on_progress: Callable[[int], object]
) -> None:
    function = functools.partial(_encode_shard, config)
    for shard, died in pool.each(function, shards, config.processes):
        if died:
            raise DataError(
                f"the process that encoded films {shard.start} to {shard.stop - 1} died, also when "
                "no other ran: is memory short? Run again to resume, or with --processes 1"
            )
        on_progress(len(shard))


def _encode_shard(config: EncodeConfig, shard: range) -> None:
    _task(config).encode([shard])


@functools.lru_cache(1)
def _task(config: EncodeConfig) -> _Task:
    """Of this process: the model is loaded once."""
    return _Task(config)


def tokenizer_of(model: Path) -> Tokenizer:
    """Returns the model's tokenizer, or StoryWorld's if the model has no text encoder."""
    if holds(model, "text_encoder"):
        return load_tokenizer(model)
    return word_tokenizer(VOCABULARY, preset("storyworld").text_encoder.vocab_size)
