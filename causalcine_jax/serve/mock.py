"""An engine without a model: deterministic pictures with the shot's id and the frame's number.

It has a director's public methods, so pages, clients and tests that need no model run without JAX.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw

from causalcine_jax.clock import CHUNK_FRAMES, TEMPORAL_STRIDE, first_frame_of_chunk
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film.story_edits import extended, with_shot
from causalcine_jax.render.typography import fit_text, font
from causalcine_jax.serve.parts import ModelInfo
from causalcine_jax.story import ResolvedShot, Shot, Story, Video
from causalcine_jax.story_schema import SCHEMA
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.plain_data import read_plain

VIDEO = Video(16, 320, 192)
LAYERS, RETRIEVED, WINDOW = 4, 5, 9  # WINDOW in latent frames
FILE = "mock.json"
POOL_BYTES = 2**20
EXAMPLE = {
    "schema": SCHEMA,
    "global": "A tale about Mia and Otto.",
    "shots": [
        {"caption": "Wide shot. Mia walks on the beach.", "chunks": 4},
        {"caption": "Close-up. Otto waves in the forest.", "chunks": 4},
        {"caption": "Mia and Otto meet in the meadow.", "chunks": 4},
    ],
}


class MockDirector:
    """A director (film.director.Director) that draws each chunk in `chunk_seconds`."""

    def __init__(self, story: Story, chunk_seconds: float = 0.0):
        if story.video.height is None:
            story = replace(story, video=replace(VIDEO, fps=story.video.fps))
        self.story, self.resolved = story, story.resolve()
        self.next_chunk = 0
        self._seconds = chunk_seconds
        self._folder: Path | None = None

    @classmethod
    def resume(cls, folder: Path, chunk_seconds: float = 0.0) -> "MockDirector":
        if not (Path(folder) / FILE).is_file():
            raise DataError(f"no film was begun in {folder}: it has no {FILE}")
        told = read_plain(Path(folder) / FILE)
        director = cls(Story.from_dict(told["story"], fewest_shots=0), chunk_seconds)
        director._folder = Path(folder)
        return director

    def keep_in(self, folder: Path) -> None:
        self._folder = Path(folder)
        self._keep()

    def close(self) -> None:
        self._folder = None

    def add_shot(
        self,
        caption: str,
        *,
        chunks: int | None = None,
        id: str | None = None,
        seed: int | None = None,
    ) -> ResolvedShot:
        self._replace_story(with_shot(self.story, Shot(caption, None, chunks, id, seed)))
        return self.resolved.shots[-1]

    def extend(self, *, chunks: int) -> ResolvedShot:
        self._replace_story(extended(self.story, chunks, CHUNK_FRAMES))
        return self.resolved.shots[-1]

    def branch(self, shot: str, stepwise: bool = False) -> "MockDirector":
        number = self.resolved.number_of(shot)
        other = MockDirector(replace(self.story, shots=self.story.shots[:number]), self._seconds)
        other.next_chunk = min(self.resolved.shots[number].first_chunk, self.next_chunk)
        return other

    def __iter__(self) -> Iterator[Chunk]:
        return self

    def __next__(self) -> Chunk:
        resolved, index = self.resolved, self.next_chunk
        if index >= resolved.chunks:
            raise StopIteration
        begun = time.perf_counter()
        number = resolved.shot_of_chunk[index]
        shot, seed = resolved.shots[number], self.story.shots[number].seed
        film_seed = self.story.seed if seed is None else seed
        video = self.story.video
        numbers = range(first_frame_of_chunk(index), first_frame_of_chunk(index + 1))
        frames = [_picture(video, shot, number, film_seed) for number in numbers]
        time.sleep(max(0.0, self._seconds - (time.perf_counter() - begun)))
        self.next_chunk += 1
        self._keep()
        spent = time.perf_counter() - begun
        return Chunk(np.stack(frames), index, shot, _retrieved(index), {"denoise": spent})

    def _replace_story(self, story: Story) -> None:
        self.story, self.resolved = story, story.resolve()
        self._keep()

    def _keep(self) -> None:
        if self._folder is not None:
            told = {"story": self.story.to_dict()}
            write_text(self._folder / FILE, json.dumps(told))


class MockEngine:
    """See engine.Engine. A caption with the word `refuseme` is refused, as unknown words are."""

    def __init__(self, chunk_seconds: float = 0.0, room_bytes: int = 64 * POOL_BYTES):
        self._seconds, self.room_bytes = chunk_seconds, room_bytes
        height, width = VIDEO.size
        self.info = ModelInfo(
            name="mock",
            width=width,
            height=height,
            fps=VIDEO.fps,
            chunk_frames=TEMPORAL_STRIDE * CHUNK_FRAMES,
            first_chunk_frames=first_frame_of_chunk(1),
            words={"characters": ["Mia", "Otto"], "places": ["beach", "forest", "meadow"]},
            example=EXAMPLE,
        )

    def device_context(self) -> AbstractContextManager[None]:
        return contextlib.nullcontext()

    def warm_up(self) -> None:
        pass

    def pool_bytes(self, story: Story, folder: Path | None = None) -> int:
        return POOL_BYTES

    def begin(self, story: Story) -> MockDirector:
        return MockDirector(story, self._seconds)

    def resume(self, folder: Path) -> MockDirector:
        return MockDirector.resume(folder, self._seconds)

    def check(self, prompts: list[tuple[str, str]], story: Story) -> None:
        for where, prompt in prompts:
            if "refuseme" in prompt:
                raise UsageError(f"the model does not know 'refuseme' in {where}")

    def record(self, director: MockDirector) -> dict[str, Any]:
        return {"model": "mock"}


def _retrieved(index: int) -> Int[np.ndarray, "l k"]:
    """Made-up latent frames before the window, other ones in each layer; -1 for none."""
    older = max(0, 3 * index - WINDOW)
    return np.array(
        [
            [(5 * index + 7 * k + k * layer) % older if older else -1 for k in range(RETRIEVED)]
            for layer in range(LAYERS)
        ]
    )


def _picture(video: Video, shot: ResolvedShot, frame: int, seed: int) -> UInt8[np.ndarray, "h w 3"]:
    digest = hashlib.sha256(f"{shot.id} {shot.caption} {seed}".encode()).digest()
    ground = tuple(40 + value // 2 for value in digest[:3])
    height, width = video.size
    picture = Image.new("RGB", (width, height), ground)
    draw = ImageDraw.Draw(picture)
    x = (frame * 4) % width
    y = height * 5 // 8
    draw.ellipse((x - 16, y - 16, x + 16, y + 16), tuple(255 - value // 2 for value in digest[3:6]))
    unit = height / 192
    draw.text((12 * unit, 8 * unit), shot.id, "white", font(round(40 * unit)))
    draw.text((12 * unit, 56 * unit), f"frame {frame}", "white", font(round(24 * unit)))
    small = font(max(8, round(14 * unit)))
    caption = fit_text(shot.caption, small, width - 24 * unit)
    draw.text((12 * unit, height - 24 * unit), caption, "white", small)
    return np.asarray(picture)
