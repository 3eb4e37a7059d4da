"""Reads the inputs that `fuzz.py` names, in a process with bounded memory; answers in JSON lines.

    {"kind": "story", "path": "..."} -> {"outcome": "read", "seconds": 0.01}

Outcomes: read; refused, by a UsageError or DataError; traceback, any other exception; memory, more
than MOST_BYTES beyond what the process had when it began; long, a refusal too long for a terminal.
"""

import importlib
import json
import os
import re
import resource
import sys
import time
import traceback
from pathlib import Path

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
    }


if __name__ == "__main__":
    main()
