"""`causalcine encode`: a StoryWorld store from a model folder, in this process or in several.

On a CPU, one process per core encodes more films than one process with all cores.
The VAE's small convolutions do not keep all cores busy.
Each process writes its own shards of the store; the parent reports progress and finishes it.
"""

import dataclasses
import multiprocessing
import queue
import time
from pathlib import Path

from causalcine_jax.convert import load_tokenizer, load_vae
from causalcine_jax.convert.find import holds
from causalcine_jax.data.encode import (
    StoryWorldFilms,
    encode_films,
    encoding_vae,
    storyworld_spec,
)
from causalcine_jax.data.encode_config import EncodeConfig
from causalcine_jax.data.latent_store import LatentStore
from causalcine_jax.data.latent_writer import LatentStoreWriter
from causalcine_jax.data.worker_process import begin_worker
from causalcine_jax.errors import DataError, UsageError, kept_when_stopped
from causalcine_jax.models.text.tokenizer import Tokenizer, word_tokenizer
from causalcine_jax.presets import preset
from causalcine_jax.storyworld import VOCABULARY, WORLDS
from causalcine_jax.utils.interrupts import children_without_ctrl_c
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
    pending = sum(len(shard) for shard in task.writer.pending())
    check_disk(pending * task.writer.spec.film_bytes, config.out, flag=flag)
    start = time.monotonic()
    there = config.films - pending
    with progress_bar(config.films, "film", "encode", done=there, shown=progress) as bar:
        # A shard is written by one process, so more processes would have nothing to do.
        processes = min(config.processes, task.writer.spec.shards)
        if processes == 1:
            task.run(0, 1, bar.update)
        else:
            _in_processes(dataclasses.replace(config, processes=processes), bar.update)
    if pending and progress:
        seconds = time.monotonic() - start
        print(
            f"{config.out}: {pending} films encoded in {seconds:.0f} s, "
            f"{pending / seconds:.2f} films/s"
        )
    return task.writer.finish()


class _Task:
    """What one process needs to encode its part."""

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

    def run(self, index: int, count: int, on_progress) -> None:
        encode_films(
            self.vae,
            self.tokenizer,
            self.source,
            self.writer,
            batch=self.batch,
            process_index=index,
            process_count=count,
            on_progress=on_progress,
        )


def _in_processes(config: EncodeConfig, on_progress) -> None:
    context = multiprocessing.get_context("spawn")  # forking is unsafe with JAX's threads
    results = context.Queue()
    workers = [
        context.Process(target=_worker, args=(config, i, results), daemon=True)
        for i in range(config.processes)
    ]
    try:
        with children_without_ctrl_c():
            for worker in workers:
                worker.start()
        running = set(range(config.processes))
        while running:
            try:
                index, films, error = results.get(timeout=1.0)
            except queue.Empty:
                died = [
                    i for i in running if not workers[i].is_alive() and workers[i].exitcode != 0
                ]
                if died:
                    raise DataError(
                        f"an encoding process died (exit code {workers[died[0]].exitcode}); "
                        f"is there memory for {config.processes} of them? Run again to resume"
                    ) from None
                continue
            if error is not None:
                raise error
            if films is None:
                running.discard(index)
            else:
                on_progress(films)
        for worker in workers:
            worker.join()
    finally:
        for worker in workers:
            if worker.is_alive():
                worker.terminate()


def _worker(config: EncodeConfig, index: int, results) -> None:
    begin_worker(index, config.processes)
    try:
        _Task(config).run(index, config.processes, lambda films: results.put((index, films, None)))
        results.put((index, None, None))
    except (UsageError, DataError) as error:
        results.put((index, None, error))


def tokenizer_of(model: Path) -> Tokenizer:
    """Returns the model's tokenizer, or StoryWorld's if the model has no text encoder."""
    if holds(model, "text_encoder"):
        return load_tokenizer(model)
    return word_tokenizer(VOCABULARY, preset("storyworld").text_encoder.vocab_size)
