"""Reads the inputs that `fuzz.py` names, in a process with bounded memory; answers in JSON lines.

    {"kind": "story", "path": "..."} -> {"outcome": "read", "seconds": 0.01}

Outcomes: read; refused, by a UsageError or DataError; traceback, any other exception; memory, more
than MOST_BYTES beyond what the process had when it began; long, a refusal too long for a terminal.
"""

import dataclasses
import functools
import importlib
import json
import os
import re
import resource
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from benchmarks import REPOSITORY
from causalcine_jax.errors import DataError, UsageError, printable

SUPPORT = REPOSITORY / "tests" / "support"
MOST_BYTES = 2 * 2**30
LONGEST = 8000  # characters: 20 faults of a document, or the tensors that do not fit


def main() -> None:
    sys.path.insert(0, str(SUPPORT))
    importlib.import_module("tiny_checkpoints")  # so that heads of the tiny torch file are known
    readers = _readers()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    told = re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())
    assert told is not None
    size = int(told[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + MOST_BYTES, resource.RLIM_INFINITY))
    print(json.dumps({"ready": True, "peak": _peak()}), file=answers, flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        begun = time.process_time()
        answer = _outcome(readers[asked["kind"]], Path(asked["path"]))
        answer["seconds"] = round(time.process_time() - begun, 3)
        answer["peak"] = _peak()
        print(json.dumps(answer), file=answers, flush=True)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _outcome(read, path: Path) -> dict:
    try:
        read(path)
    except (UsageError, DataError) as error:
        if _of_memory(error):
            return {"outcome": "memory", "error": printable(str(error)[:200])}
        said = str(error)
        good = len(said) <= LONGEST and said.strip()  # cli.py escapes what cannot be printed
        return {"outcome": "refused" if good else "long", "error": printable(said[:200])}
    except MemoryError as error:
        return {"outcome": "memory", "error": _last(error)}
    except Exception as error:
        return {"outcome": "traceback", "error": _last(error)}
    return {"outcome": "read"}


def _of_memory(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, MemoryError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _last(error: Exception) -> str:
    """The error in a line, and where this project raised or caused it."""
    here = [f for f in traceback.extract_tb(error.__traceback__) if "causalcine_jax" in f.filename]
    where = f"{Path(here[-1].filename).name}:{here[-1].lineno}" if here else "?"
    return printable(f"{type(error).__name__} at {where}: {error}"[:300])


def _readers() -> dict:
    """What each command does with such an input before it computes."""
    from causalcine_jax.convert.load import load_tokenizer, load_transformer
    from causalcine_jax.data.latent_store import LatentStore
    from causalcine_jax.film.model_folder import load_model
    from causalcine_jax.film_folder.record import read_recipe
    from causalcine_jax.film_folder.start import read_frames
    from causalcine_jax.training.flags import parse

    def store(path: Path) -> None:
        opened = LatentStore.open(path)
        for record in range(opened.spec.films):
            opened.prompts(record)
            opened[record]

    def model(path: Path) -> None:
        load_model(path)
        load_tokenizer(path)

    def adapter(path: Path) -> None:
        load_transformer(path.parent / "model", lora=path)

    def media(path: Path) -> None:
        read_frames(path, 48, 80, 16, (9, 12))

    return {
        "story": lambda path: read_recipe(path).story.resolve(),
        "record": lambda path: read_recipe(path).story.resolve(),
        "training config": lambda path: parse([f"--config={path}"]),
        "model folder": model,
        "safetensors": load_transformer,
        "torch file": load_transformer,
        "picture": media,
        "clip": media,
        "store": store,
        "adapter": adapter,
        "prompt embeddings": _read_prompt_embeddings,
        "store embeddings": _read_store_embeddings,
        "journal": _resume,
        "asked.json": _resume,
        "captions": _read_captions,
        "tagged captions": _read_captions,
        "story set": _read_set,
        "measures": _read_measures,
    }


@functools.cache
def _model(folder: Path):
    from causalcine_jax.film.model_folder import load_model

    return load_model(folder)


def _read_prompt_embeddings(path: Path) -> None:
    """What a film reads of them; also that nothing but finite numbers comes out."""
    from benchmarks.fuzz_film_inputs import PROMPTS
    from causalcine_jax.film.embeddings import PromptEmbeddings

    model = dataclasses.replace(
        _model(path.parent / "model"), embeddings=PromptEmbeddings.load(path)
    )
    model.check_prompts([(prompt, prompt) for prompt in PROMPTS])
    for prompt in PROMPTS:
        _check_numbers(model.embed(prompt))


def _read_store_embeddings(path: Path) -> None:
    """What training reads of them, for every film."""
    from causalcine_jax.convert.load import load_tokenizer
    from causalcine_jax.data.latent_store import LatentStore
    from causalcine_jax.data.prompt_embeddings import KnownPrompts
    from causalcine_jax.film.embeddings import encoder_hash

    model, store = path.parent / "model", LatentStore.open(path)
    null = load_tokenizer(model)([""], store.spec.text_len)[0][0]
    known = KnownPrompts([path], encoder_hash(model), null, "float32", "causalcine embed")
    for film in range(len(store)):
        found = known(store[film], np.random.default_rng(0))
        _check_numbers(found["text"])
        _check_numbers(found["null_text"])


@functools.lru_cache(maxsize=1)
def _loaded(*asked):
    from causalcine_jax.film_folder.loaded_model import load_with_choices

    return load_with_choices(*asked)


def _resume(path: Path) -> None:
    """What `film --resume` does before the first chunk."""
    from causalcine_jax.film.director import Director
    from causalcine_jax.film_folder.agreement import agreed
    from causalcine_jax.film_folder.choices import decide
    from causalcine_jax.film_folder.start import opening
    from causalcine_jax.film_folder.unfinished import journal_folder, read_request

    asked = read_request(path)
    start, folder, mesh = agreed(asked)
    loaded = _loaded(folder, asked.choices, mesh, asked.recipe.record.dtype)
    setup = decide(asked.recipe, loaded.model, asked.choices)
    if start:
        opening(start, setup.story, setup.model)
    director = Director.resume(journal_folder(path), setup.model, from_beginning=True)
    for kept in director._rollout.kept_chunks():
        _check_numbers(kept.latents)
        layers = (kept.retrieved.shape[0], kept.retrieved.dtype.kind)
        assert layers == (2, "i"), f"retrieved of {layers}"
    director.close()


def _read_captions(path: Path) -> None:
    """What `prepare` reads beside a video, and where it looks a caption up."""
    from causalcine_jax.data.video.sidecars import read

    captions = read(path)
    if captions.cuts:
        assert isinstance(captions.at(0.5, 1.5, [(0, 0.0), (160, 10.0)]), str)


def _read_set(path: Path) -> None:
    """What `stories`, `film --stories` and `evaluate --films` do with a set."""
    from benchmarks.fuzz_text_inputs import SET
    from causalcine_jax.commands.stories import report
    from causalcine_jax.evaluation.films.stories import film_stories
    from causalcine_jax.story_sets.lint import estimated_tokens, set_lint
    from causalcine_jax.story_sets.story_set import check_hashes, read_set

    file = path / f"{SET}.yaml"
    stories = read_set(file)
    set_lint(stories, estimated_tokens)
    film_stories(file)
    check_hashes(stories)
    report(stories, estimated_tokens)


def _read_measures(path: Path) -> None:
    """What `evaluate --compare` reads, beside sound measures."""
    from causalcine_jax.evaluation.films.compare import (
        comparison,
        comparison_markdown,
        read_measures,
    )

    sound = read_measures(path.parent / "m.json")
    comparison_markdown(comparison(sound, read_measures(path)), ("a", "b"))


def _check_numbers(array) -> None:
    assert np.issubdtype(array.dtype, np.floating) or array.dtype == "bfloat16", array.dtype
    assert np.isfinite(np.asarray(array, np.float32)).all(), "not finite"


if __name__ == "__main__":
    main()
