"""The commands that kills and full disks disturb, on tiny networks, and the results of each."""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import REPOSITORY
from benchmarks.disturbed import Command, Result
from benchmarks.fuzz_inputs import SUPPORT

STORY = """schema: causalcine/story@1
shots: [{caption: "Mia waves.", chunks: 4}, {caption: "Otto sleeps.", chunks: 4}]
"""
BENCHMARK = REPOSITORY / "stories" / "memory-100.yaml"
EARLIER = "float32"  # of the embeddings that `embed` replaces
UNTOLD = ("software", "timings", "device")  # of film.json: they differ between two equal films


def commands(folder: Path) -> dict[str, Command]:
    """The commands by name. What they read is written below `folder`."""
    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    from tiny_models import tiny_folder
    from tiny_training import tiny_store

    from benchmarks.prepare import videos
    from causalcine_jax.data.embed_command import embed_stores

    model, store, story = folder / "model", folder / "store", folder / "story.yaml"
    embedded, films = folder / "embedded", folder / "films"
    tiny_folder(model)
    tiny_store(store)
    tiny_store(embedded, films=100)
    embed_stores(model, [embedded], EARLIER, progress=False)
    videos(folder / "videos", 4, frames=60)
    story.write_text(STORY)
    films.mkdir()
    for name in ("00000", "00001"):
        shutil.copy(folder / "videos" / f"{name}.mp4", films)
        (films / f"{name}.yaml").write_text(STORY)
    kept = f"--compile-cache={folder / 'compiled'}"
    train = ["train", f"--config={SUPPORT / 'tiny_training.py'}", f"--config.data.store={store}"]
    encode = ["encode", f"--model={model}", "--films=6", "--films-per-shard=2", kept]
    convert = ["convert", f"--from={model}", "--to=diffusers", "--shard-gb=0.00002"]
    film = ["film", f"--model={model}", f"--story={story}", kept]
    prepare = ["prepare", f"{folder / 'videos'}", f"--model={model}", "--shots=captions", kept]
    prepare += ["--latent-frames=6", "--held-out=0", "--text-len=64"]
    film_set = ["film", f"--model={model}", f"--stories={films}", kept]
    measure = ["evaluate", f"--films={films}", f"--stories={films}", kept]
    stories = ["stories", str(BENCHMARK), "--to=longlive2"]
    return {
        "train": _same(lambda out: [*train, f"--config.out={out}", kept], _trained),
        "film": Command(
            lambda out: [*film, f"--out={out}"],
            lambda out: (
                ["film", f"--resume={out}", kept]
                if (out / "unfinished" / "asked.json").exists()
                else [*film, f"--out={out}"]
            ),
            _filmed,
        ),
        "encode": _same(lambda out: [*encode, f"--out={out}"], _encoded),
        "encode-by-two": _same(lambda out: [*encode, "--processes=2", f"--out={out}"], _encoded),
        "convert": _same(lambda out: [*convert, f"--out={out}"], _files),
        "prepare": _same(lambda out: [*prepare, f"--out={out}"], _prepared),
        "embed": Command(
            lambda out: ["embed", f"--model={model}", f"--store={out}", kept],
            lambda out: ["embed", f"--model={model}", f"--store={out}", kept],
            _embeddings,
            embedded,
        ),
        "film-set": _same(lambda out: [*film_set, f"--out={out}"], _film_set),
        "evaluate": _same(lambda out: [*measure, f"--out={out}"], _finished_files),
        "gallery": _same(lambda out: ["gallery", f"{films}", f"--out={out}"], _gallery),
        "stories": _same(lambda out: [*stories, f"--out={out}"], _finished_files),
    }


def _same(words: Callable[[Path], list[str]], result: Callable[[Path], Result]) -> Command:
    return Command(words, words, result)


def _trained(out: Path) -> Result:
    """The model, and each step's losses."""
    from causalcine_jax.training.metrics import read_records

    for file in out.glob("*.json"):
        json.loads(file.read_text("utf-8"))
    _check_pictures(out)
    losses = {
        f"step {record['step']}": str([v for name, v in record.items() if "loss" in name])
        for record in read_records(out / "metrics.jsonl")
    }
    return losses | {f"model/{name}": digest for name, digest in _files(out / "model").items()}


def _filmed(out: Path) -> Result:
    from causalcine_jax.render.mp4 import read_film

    found, film, grown = {}, out / "film.mp4", out / "film.unfinished.mp4"
    if film.exists():
        found["film.mp4"] = _digest(read_film(film).tobytes())
    elif grown.exists() and any((out / "unfinished" / "latents").glob("*.npz")):
        read_film(grown)
    for kept in out.glob("unfinished/latents/*.npz"):
        np.load(kept, allow_pickle=False)["latents"]
    _check_pictures(out)
    if (out / "memory.png").exists():
        found["memory.png"] = _digest((out / "memory.png").read_bytes())
    if (out / "film.json").exists():
        told = json.loads((out / "film.json").read_text("utf-8"))
        found["film.json"] = json.dumps({n: v for n, v in told.items() if n not in UNTOLD})
    return found


def _prepared(out: Path) -> Result:
    return _encoded(out / "train")


def _encoded(out: Path) -> Result:
    from causalcine_jax.data.latent_store import LatentStore

    if not out.exists():
        return {}
    store, digest = LatentStore.open(out), hashlib.sha256()
    for number in range(len(store)):
        for value in store[number].values():
            digest.update(np.asarray(value).tobytes())
        digest.update(json.dumps(store.prompts(number)).encode())
    return {"store": digest.hexdigest()}


def _embeddings(store: Path) -> Result:
    """Of the new embeddings alone. Those that were there before must be whole while they are."""
    from causalcine_jax.data.prompt_embeddings import FOLDER, missing_shards, open_rows, read_spec

    folder = store / FOLDER
    if (spec := read_spec(folder)) is None:
        return {}
    if missing := missing_shards(folder, spec):
        raise ValueError(f"{folder} lacks the files of the rows {missing}")
    rows = np.asarray(open_rows(folder, spec).read().result())
    return {} if spec.dtype == EARLIER else {FOLDER: _digest(rows.tobytes())}


def _film_set(out: Path) -> Result:
    return {
        f"{folder.relative_to(out)}/{name}": digest
        for folder in sorted(out.glob("*/*/"))
        for name, digest in _filmed(folder).items()
    }


def _gallery(out: Path) -> Result:
    """Nothing as long as the page is not there: it is written last."""
    return _finished_files(out) if (out / "index.html").exists() else {}


def _finished_files(out: Path) -> Result:
    """Of the files with final names."""
    found = _files(out)
    return {name: found[name] for name in found if not name.endswith((".tmp", ".lock"))}


def _files(folder: Path) -> Result:
    """Of all files of a folder that appears only when it is complete."""
    return {
        file.relative_to(folder).as_posix(): _digest(file.read_bytes())
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "metadata.json"  # which names the run's out
    }


def _check_pictures(out: Path) -> None:
    for file in out.glob("*.png"):
        with Image.open(file) as picture:
            picture.load()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
