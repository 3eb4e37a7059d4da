"""film.json: the record of everything that went into a film, from which it can be made again.

    causalcine film --story film.json --out again

This reads story, seed, sampler, memory and pool from the record. With the same weights, software
and device the frames are the same, bit by bit; `frames_sha256` proves it. A GPU's kernels are part
of that: the compile cache keeps the autotuner's choices, which may differ without it.

Chunks and frames in the record are indices from 0: first_chunk, first_frame, cut_frames, retrieved.
Progress, pictures and messages count chunks and shots from 1.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from causalcine_jax.clock import CHUNK_FRAMES
from causalcine_jax.errors import UsageError
from causalcine_jax.film.record_schema import NEEDED, SCHEMA, FilmRecord
from causalcine_jax.story import ResolvedStory, Shot, Story
from causalcine_jax.story_schema import SCHEMA as STORY_SCHEMA
from causalcine_jax.utils.plain_data import read_plain

if TYPE_CHECKING:  # they import jax
    from causalcine_jax.film.director import Director

FILM, RECORD = "film.mp4", "film.json"
START_ID = "start"  # of the shot that a picture or clip begins
COMPILING = 2  # chunks that compile: all moves in the first, the longer decoder in the second


@dataclass(frozen=True)
class Recipe:
    """The content of a story file. `recorded` is the film.json if it was one."""

    story: Story
    recorded: FilmRecord | None = None

    @property
    def record(self) -> FilmRecord:
        """What was recorded; an empty record where the file was no film.json."""
        return self.recorded or FilmRecord()


def record_beside(film: Path) -> Path | None:
    """The film.json of a film.mp4 that has one."""
    record = film.with_name(RECORD)
    return record if film.name == FILM and record.is_file() else None


def recorded_chunk_frames(data: Mapping[str, Any]) -> int:
    """Latent frames of the chunks of a film.json's film; CHUNK_FRAMES where it does not say."""
    frames = data.get("chunk_frames")
    return frames if isinstance(frames, int) and frames >= 1 else CHUNK_FRAMES


def with_start(story: Story, start: Mapping[str, Any]) -> Story:
    """A film.json's story with the shot of its `start` in front, the film's first chunks."""
    shot = Shot(start["caption"], chunks=start.get("chunks", 1), id=START_ID)
    return dataclasses.replace(story, shots=(shot, *story.shots))


def filmed_story(story: Story, data: Mapping[str, Any]) -> Story:
    """A film.json's story as it was filmed: `with_start`, where the record names a start."""
    start = data.get("start")
    if isinstance(start, dict) and isinstance(start.get("caption"), str):
        return with_start(story, start)
    return story


def read_recipe(path: str | Path) -> Recipe:
    """Reads a story file (YAML, JSON) or an earlier film's film.json. `UsageError` for faults."""
    data = read_plain(path)
    if isinstance(data, dict) and "stories" in data and "shots" not in data:
        raise UsageError(
            f"{path} is a set of stories: film --stories films it, causalcine stories checks it"
        )
    return recipe_of(data, str(path))


def recipe_of(data: Any, what: str) -> Recipe:
    """The recipe in plain data. `what` names it in errors."""
    if isinstance(data, dict) and data.get("schema") == SCHEMA:
        record = FilmRecord.from_dict(data, what=what, needed=NEEDED)
        return Recipe(Story.from_dict(data["story"], what=what), record)
    return Recipe(Story.from_dict(data, what=what))


def prompt_recipe(prompt: str) -> Recipe:
    """A story of one shot under `prompt`, as long as Wan2.1's films (81 frames at 16 fps)."""
    return Recipe(
        Story.from_dict(
            {"schema": STORY_SCHEMA, "shots": [{"caption": prompt, "seconds": 81 / 16}]},
            what="prompt",
        )
    )


class FramesHash:
    """SHA-256 of the film's frames as they come, before any encoding."""

    def __init__(self):
        self._digest = hashlib.sha256()

    def add(self, frames: np.ndarray) -> None:
        self._digest.update(np.ascontiguousarray(frames).tobytes())

    def copy(self) -> "FramesHash":
        """The same, to go on with other frames."""
        other = FramesHash()
        other._digest = self._digest.copy()
        return other

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def resolved_dict(resolved: ResolvedStory) -> dict[str, Any]:
    """The story on the chunk grid, with what was asked for beside what became of it."""
    return {
        "chunks": resolved.chunks,
        "frames": resolved.frames,
        "seconds": resolved.frames / resolved.fps,
        "cut_frames": list(resolved.cut_frames),
        "asked_cut_frames": list(resolved.asked_cut_frames),
        "shots": [dataclasses.asdict(shot) for shot in resolved.shots],
    }


def recorded_settings(director: "Director") -> dict[str, Any]:
    """The fields of film.json that say how the frames are made, so that they are made again."""
    settings, model = director.settings, director.model
    return {
        "sampler": dataclasses.asdict(settings.sampler),
        "memory": dataclasses.asdict(settings.memory),
        "whole_film": settings.pool.frames is None,
        "chunk_frames": model.chunk_frames,
        "pool_frames": settings.pool.frames or model.chunk_frames,
        "pool_asked": director.pool_watch.asked,
        "kv_dtype": settings.pool.kv_dtype,
        "pool_on": settings.pool.on,
        "dtype": model.dtype,
    }


def timings(frames_per_chunk: list[int], seconds: list[dict[str, float]]) -> dict[str, Any]:
    """Seconds of every chunk by stage, and frames per second after compilation.

    Frames per second are None where no chunk was denoised after those that compile: in films of at
    most two chunks, and where --resume had only kept chunks to commit and decode.
    """
    # Chunks of a start, and those kept for --resume, are not denoised.
    denoised = next((i for i, lap in enumerate(seconds) if "denoise" in lap), len(seconds))
    settled = range(max(COMPILING, denoised + 1), len(seconds))

    def fps(*stages: str) -> float | None:
        spent = sum(seconds[i].get(stage, 0.0) for i in settled for stage in stages)
        return round(sum(frames_per_chunk[i] for i in settled) / spent, 3) if spent else None

    return {
        "fps": fps("denoise", "commit", "decode"),
        "fps_without_decode": fps("denoise", "commit"),
        "chunks": [{stage: round(value, 4) for stage, value in lap.items()} for lap in seconds],
    }


def pretty(data: Any, indent: str = "") -> str:
    """JSON in which a list of numbers, or of lists of numbers, stays on one line."""
    if isinstance(data, dict) and data:
        inner = ",\n".join(
            f"{indent}  {json.dumps(str(key))}: {pretty(value, indent + '  ')}"
            for key, value in data.items()
        )
        return f"{{\n{inner}\n{indent}}}"
    if isinstance(data, list) and any(
        isinstance(item, dict | str) or (isinstance(item, list) and _deep(item)) for item in data
    ):
        inner = ",\n".join(f"{indent}  {pretty(item, indent + '  ')}" for item in data)
        return f"[\n{inner}\n{indent}]"
    return json.dumps(data, ensure_ascii=False)


def _deep(items: list) -> bool:
    return any(isinstance(item, list | dict) for item in items)
