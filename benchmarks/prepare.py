"""The memory of `causalcine prepare` over many videos, against that over 50; a JSON record.

    python -m benchmarks.prepare --videos 1000

The videos are short ones of StoryWorld's painter, with captions that say where they cut. They are
encoded with the embedded model.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from benchmarks.sources import run_context
from causalcine_jax.cli import ArgumentParser, run, whole_number
from causalcine_jax.errors import DataError
from causalcine_jax.film.chosen_model import EMBEDDED
from causalcine_jax.render.mp4 import FilmWriter
from causalcine_jax.storyworld import WORLDS, render, sample_story, scene_parameters

SEED = 40_000
FEW = 50


def main() -> None:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=whole_number, default=1000)
    flags = parser.parse_args()
    record = {"date": datetime.now(UTC).isoformat(timespec="seconds"), **run_context()}
    with tempfile.TemporaryDirectory(prefix="causalcine-") as folder:
        record |= memory(Path(folder), flags.videos)
    print(json.dumps(record, indent=2))


def memory(folder: Path, count: int) -> dict:
    """The peak memory of a run over `count` videos, and of one over FEW of them."""
    peaks = {}
    for number in (FEW, count):
        videos(folder / "videos", number, frames=12)
        begun = time.monotonic()
        process = _start(folder / "videos", folder / f"out{number}", 3)
        _, status, used = os.wait4(process.pid, 0)
        if status:
            raise DataError(f"the run over {number} videos failed")
        peaks[number] = {
            "seconds": round(time.monotonic() - begun, 1),
            "peak_mib": used.ru_maxrss // 1024,
        }
    return {"videos": peaks}


def videos(folder: Path, count: int, frames: int) -> None:
    """Writes the videos that are missing: the first frames of StoryWorld's films."""
    folder.mkdir(exist_ok=True)
    world = WORLDS["montage"]()
    for number in range(count):
        path = folder / f"{number:05d}.mp4"
        if path.exists():
            continue
        story = sample_story(SEED, number, world)
        scene = {"shapes": scene_parameters(story)["shapes"][:frames]}
        with FilmWriter(path, fps=16) as film:
            film.append(np.asarray(render(scene, world.height, world.width)))
        shots = [shot for shot in story.shots if shot.frames.start < frames]
        told = {
            "shot_captions": list(story.prompts())[: len(shots)],
            "shot_cut_frames": [shot.frames.start for shot in shots[1:]],
        }
        path.with_suffix(".json").write_text(json.dumps(told))


def _start(folder: Path, out: Path, latent_frames: int) -> subprocess.Popen:
    words = ["prepare", folder, "--out", out, "--model", EMBEDDED, "--shots", "captions"]
    words += ["--latent-frames", latent_frames, "--held-out", 0]
    line = [sys.executable, "-m", "causalcine_jax", *map(str, words)]
    return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    run(main)
