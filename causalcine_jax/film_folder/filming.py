"""Writes the director's chunks to film.mp4, and keeps what the pictures and the record need.

Frames are written at once; only those of the contact sheet stay in memory. A thread encodes a chunk
while the device makes the next.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from causalcine_jax.errors import kept_when_stopped, printable
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film.director import Director
from causalcine_jax.film_folder import record as provenance
from causalcine_jax.render.contact_sheet import thumbnail, wanted_frames
from causalcine_jax.render.memory_picture import MemoryPicture
from causalcine_jax.render.mp4 import FilmWriter
from causalcine_jax.story import ResolvedStory
from causalcine_jax.utils.progress import time_left

# What commands leave beside a film, in the order in which an earlier film is removed.
FILES = ("film.json", "film.mp4", "film.unfinished.mp4", "contact_sheet*.png", "memory.png")
RECENT = 4  # the newest chunks, from which speed and time left are estimated


@dataclass
class Footage:
    """What is kept of a film beside its file.

    sheet                the frames of the contact sheet, by frame number
    first_chunk_seconds  from the beginning to the first frames, including compilation
    frames_per_chunk     video frames of each chunk
    seconds              of each chunk, by stage
    retrieved            of each chunk: the frames that memory retrieved, by layer
    """

    sheet: dict[int, UInt8[np.ndarray, "h w 3"]] = field(default_factory=dict)
    memories: MemoryPicture = field(default_factory=MemoryPicture)
    digest: provenance.FramesHash = field(default_factory=provenance.FramesHash)
    first_chunk_seconds: float = 0.0
    frames_per_chunk: list[int] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)
    retrieved: list[list[list[int]]] = field(default_factory=list)

    def timings(self) -> dict[str, Any]:
        return {
            "first_chunk_seconds": round(self.first_chunk_seconds, 3),
            **provenance.timings(self.frames_per_chunk, self.seconds),
        }


def shoot(director: Director, path: Path, scale: int, progress: bool) -> Footage:
    """Makes the director's film at `path`, enlarged `scale` times.

    Raises as `film_writer` does.
    """
    footage = Footage()
    wanted = wanted_frames(director.resolved)
    line = _ProgressLine(director.resolved) if progress else None
    started_at = time.perf_counter()

    def keep(chunk: Chunk) -> None:
        first = film.frames
        film.append(chunk.frames)
        if chunk.index == 0:
            footage.first_chunk_seconds = time.perf_counter() - started_at
        footage.digest.add(chunk.frames)
        footage.memories.add(chunk.frames, chunk.retrieved)
        footage.sheet |= {
            first + i: thumbnail(image)
            for i, image in enumerate(chunk.frames)
            if first + i in wanted
        }
        footage.frames_per_chunk.append(len(chunk.frames))
        footage.seconds.append(chunk.seconds)
        footage.retrieved.append(chunk.retrieved.tolist())

    with (
        film_writer(director, path, scale) as film,
        ThreadPoolExecutor(1, "film") as writer,
    ):
        writing: Future | None = None
        for chunk in director:
            if writing:
                writing.result()  # at most one chunk behind; raises the writer's error
            writing = writer.submit(keep, chunk)
            if line:
                line.show(chunk)
        if writing:
            writing.result()
    return footage


@contextlib.contextmanager
def film_writer(director: Director, path: Path, scale: int) -> Iterator[FilmWriter]:
    """A writer for the director's film. Where filming ends early, it says what is kept.

    Raises:
      StoppedEarly: for a KeyboardInterrupt, if frames are kept.
      DataError: the file cannot be written.
    """
    film = FilmWriter(path, director.story.video.fps, scale)
    with kept_when_stopped(lambda: "stopped before the film's end" if film.playable_frames else ""):
        try:
            with film:
                yield film
        except BaseException:
            if film.playable_frames:
                frames = f"{film.playable_frames} of {director.resolved.frames} frames"
                say(f"kept: {film.part}, {frames}")
            raise


def say(line: str) -> None:
    """Prints a line to standard error, with a story's control characters escaped."""
    print(printable(line), file=sys.stderr, flush=True)


class _ProgressLine:
    """Chunk, shot, speed and time left: one line redrawn on a terminal, one line each in a log."""

    def __init__(self, story: ResolvedStory):
        self._story = story
        self._number = {shot.id: number for number, shot in enumerate(story.shots, start=1)}
        self._recent: list[tuple[int, float]] = []
        self._made: list[float] = []  # seconds of the chunks made from noise

    def show(self, chunk: Chunk) -> None:
        spent = sum(chunk.seconds.values())
        self._recent = [*self._recent[1 - RECENT :], (len(chunk.frames), spent)]
        frames, seconds = np.sum(self._recent, axis=0)
        if "denoise" in chunk.seconds:  # a start's chunks are not denoised and take less time
            self._made.append(spent)
        settled = self._made[1:][-RECENT:]  # the first compiles
        number, total = chunk.index + 1, self._story.chunks
        shot, shots = self._number[chunk.shot.id], len(self._story.shots)
        parts = [
            f"chunk {number:>{len(str(total))}}/{total}",
            f"shot {shot}/{shots} {printable(chunk.shot.id)}",
            f"{frames / max(seconds, 1e-9):.1f} fps",
        ]
        if settled and number < total:
            parts.append(time_left((total - number) * float(np.mean(settled))))
        line = "  ".join(parts)
        if sys.stderr.isatty():
            end = "\n" if number == total else ""
            print(f"\r\033[K{line}", end=end, file=sys.stderr, flush=True)
        else:
            say(line)
