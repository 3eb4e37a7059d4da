"""Sound files of every kind that a user gives, and mutations of them.

kinds(folder) -> {kind: Kind} -> Kind.write(target, rng) -> a mutated file, or a folder with one
"""

import dataclasses
import json
import sys
from pathlib import Path
from random import Random

import av
import numpy as np
from PIL import Image

from benchmarks import REPOSITORY
from benchmarks.fuzz_film_inputs import film_kinds
from benchmarks.fuzz_text_inputs import text_kinds
from benchmarks.mutate import mutated_bytes, mutated_yaml
from benchmarks.mutate_files import (
    Kind,
    change_bytes,
    change_document,
    change_inside,
    change_safetensors,
)

# The tests' tiny networks, and torch's files without torch.
SUPPORT = REPOSITORY / "tests" / "support"
PICTURES = ("png", "jpg", "gif", "webp", "bmp", "tiff", "ico", "tga", "jp2")
CLIPS = ("mp4", "mkv", "avi", "webp", "gif")
CONFIG = """from causalcine_jax.config import MemoryConfig
from causalcine_jax.training.config import DataConfig, OptimConfig, TrainConfig
def get_config():
    return TrainConfig(steps=12, batch=4, log_every=2, chunk_frames=3, caption_dropout=0.1,
        memory=MemoryConfig("camr", 3, 5), optim=OptimConfig(lr=3e-3, warmup=3, ema_decay=0.9),
        data=DataConfig(clip_frames=2))
"""
LITERALS = ("None", "-1", "0", "1e999", "float('nan')", "'x'", "[]", "{}", "10**5000", "True")


def kinds(folder: Path) -> dict[str, Kind]:
    """The kinds of input. Their sound files are written below `folder`."""
    if str(SUPPORT) not in sys.path:
        sys.path.insert(0, str(SUPPORT))
    from tiny_checkpoints import save_torch, tensors
    from tiny_models import tiny_folder
    from tiny_training import tiny_store

    story = REPOSITORY / "examples" / "demo.yaml"
    model, store = tiny_folder(folder / "model"), folder / "store"
    tiny_store(store, films=2)
    torch = save_torch(folder / "a.pt", generator=tensors("transformer"))
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = weights if weights.exists() else next(model.glob("transformer/*.safetensors"))
    pictures = [_picture(folder / f"picture.{kind}") for kind in PICTURES]
    clips = [_clip(folder / f"clip.{kind}") for kind in CLIPS]
    small = ("config.json", "metadata.json", "tokenizer.json", "captions", "manifest", "zarr.json")
    record, config = folder / "film.json", folder / "config.py"
    record.write_text(json.dumps(_record()))
    config.write_text(CONFIG)
    return {
        "story": Kind([story], lambda to, rng: _story(to, rng, story)),
        "record": Kind([record], lambda to, rng: change_document(to, rng, record)),
        "training config": Kind([config], _config, ".py"),
        "model folder": Kind([model], lambda to, rng: change_inside(to, rng, model, small)),
        "safetensors": Kind([weights], lambda to, rng: change_safetensors(to, rng, weights)),
        "torch file": Kind([torch], lambda to, rng: _torch(to, rng, torch)),
        "picture": Kind(pictures, lambda to, rng: change_bytes(to, rng, rng.choice(pictures))),
        "clip": Kind(clips, lambda to, rng: change_bytes(to, rng, rng.choice(clips))),
        "store": Kind([store], lambda to, rng: change_inside(to, rng, store, ("",))),
        **film_kinds(folder, model, store),
        **text_kinds(folder),
    }


def _story(to: Path, rng: Random, source: Path) -> str:
    if rng.random() < 0.3:
        return change_bytes(to, rng, source)
    to.write_bytes(mutated_yaml(source.read_text("utf-8"), rng))
    return "lines"


def _config(to: Path, rng: Random) -> str:
    """Values only: a config file is a program, and flipped bytes could make it any other."""
    parts = CONFIG.split("=")
    at = rng.randrange(1, len(parts))
    old = parts[at].split(",")[0].split(")")[0]
    parts[at] = parts[at].replace(old, rng.choice(LITERALS), 1)
    to.write_text("=".join(parts))
    return "values"


def _torch(to: Path, rng: Random, source: Path) -> str:
    """The archive's bytes, or its pickle's in a sound archive."""
    import zipfile

    if rng.random() < 0.3:
        return change_bytes(to, rng, source)
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(to, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, mutated_bytes(content, rng) if name.endswith(".pkl") else content)
    return "pickle"


def _record() -> dict:
    """A film.json."""
    from causalcine_jax.config import MemoryConfig
    from causalcine_jax.diffusion.solvers import SamplerConfig
    from causalcine_jax.film_folder.record import SCHEMA
    from causalcine_jax.story import Shot, Story

    story = Story((Shot("Mia waves.", chunks=2), Shot("Otto sleeps.", chunks=1)), "A story.")
    return {
        "schema": SCHEMA,
        "story": story.to_dict(),
        "sampler": dataclasses.asdict(SamplerConfig()),
        "memory": dataclasses.asdict(MemoryConfig()),
        "whole_film": False,
        "chunk_frames": 3,
        "pool_frames": 18,
        "pool_asked": False,
        "kv_dtype": "same",
        "pool_on": "device",
        "dtype": "float32",
        "scale": 1,
        "model": "storyworld",
        "weights_sha256": "0" * 64,
        "frames_sha256": "0" * 64,
        "loras": [{"file": "a.safetensors", "strength": 1.0, "sha256": "0" * 64}],
        "start": {"file": "a.png", "sha256": "0" * 64, "caption": "Mia.", "chunks": 1},
    }


def _pixels(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def _picture(file: Path) -> Path:
    Image.fromarray(_pixels(1)[0]).save(file)
    return file


def _clip(file: Path) -> Path:
    images = _pixels(12)
    if file.suffix in (".webp", ".gif"):
        first, *more = map(Image.fromarray, images)
        first.save(file, save_all=True, append_images=more, duration=60)
        return file
    with av.open(str(file), "w") as out:
        stream = out.add_stream("mpeg4", rate=16)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for image in images:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    return file
