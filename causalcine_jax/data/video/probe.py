"""What is in the folder: its videos, known by their content, and the files beside them.

    folder -> files -> a row per video (its hash, size, rate, length) or the reason why it is none

A file's name decides nothing but which captions belong to it. Files of the suffixes in CAPTIONS are
taken for captions; every other file must be a video, or is counted as a reject.
"""

import os
from pathlib import Path
from typing import Any

from causalcine_jax.data.video.manifest import Row, content_id, path_text
from causalcine_jax.errors import DataError, UsageError, disk_faults
from causalcine_jax.render.video_file import (
    check,
    pixel_aspect,
    readable,
    sideways,
    video_stream,
)
from causalcine_jax.utils.atomic_file import file_hash

CAPTIONS = (".txt", ".json", ".jsonl", ".csv", ".yaml", ".yml", ".md")
VERSION = 1  # of the rows; raise it when their meaning changes


def files_of(folder: Path, out: Path) -> tuple[list[Path], list[Path]]:
    """The possible videos and the files of captions in `folder`, sorted, hidden ones left out.

    Raises:
      UsageError: there is no such folder, or no file in it that could be a video.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name the folder with the videos")
    out = out.resolve()
    videos: list[Path] = []
    captions: list[Path] = []
    seen = {folder.resolve(), out}  # links to folders are followed, each folder once
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders.copy():
            if (real := (Path(place) / name).resolve()) in seen:
                folders.remove(name)
            seen.add(real)
        for name in sorted(names):
            if not name.startswith("."):
                kind = captions if Path(name).suffix.lower() in CAPTIONS else videos
                kind.append(Path(place) / name)
    if not videos:
        raise UsageError(f"{folder} holds no videos: name the folder with the videos")
    return videos, captions


def state(file: Path) -> dict[str, Any]:
    """What tells an unchanged file without reading it."""
    with disk_faults(f"{file} cannot be read"):
        about = file.stat()
    return {
        "file": path_text(file.absolute()),
        "bytes": about.st_size,
        "changed": about.st_mtime_ns,
    }


def probe_id(file: Path) -> str:
    return content_id("probe", VERSION, state(file))


def probe(file: Path, sha256: str | None = None) -> Row:
    """A video's row: "sha256", "bytes", "width", "height" (as shown), "rate", "seconds", "codec".

    `sha256` is the file's hash, if it is known.

    Raises:
      DataError, UsageError: the file is no video that can be read.
    """
    size = state(file)["bytes"]
    if size == 0:
        raise DataError(f"{file} is empty")
    with readable(file) as container:
        stream = video_stream(file, container)
        check(file, stream)
        frame = next(iter(container.decode(stream)), None)
        if frame is None:
            raise DataError(f"{file} has no frames")
        wide = frame.width * pixel_aspect(stream), frame.height
        width, height = reversed(wide) if sideways(frame) else wide
        seconds = (
            stream.duration * stream.time_base
            if stream.duration and stream.time_base
            else (container.duration or 0) / 1e6
        )
        codec, rate = stream.codec_context.name, float(stream.average_rate or 0)
    return {
        "sha256": sha256 or file_hash(file),
        "bytes": size,
        "width": round(width),
        "height": round(height),
        "rate": rate,
        "seconds": float(seconds),
        "codec": codec,
    }
