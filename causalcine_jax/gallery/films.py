"""Films on disk, as a gallery shows them: their shots, what was retrieved, how they were made."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from causalcine_jax.errors import DataError
from causalcine_jax.film.chunk import most_retrieved
from causalcine_jax.film_folder.record import (
    FILM,
    filmed_story,
    record_beside,
    recorded_chunk_frames,
)
from causalcine_jax.story import ResolvedStory, Story
from causalcine_jax.utils.plain_data import read_plain

STORIES = (".yaml", ".yml", ".json")
RETRIEVED = 5  # frames of a chunk that are shown


@dataclass(frozen=True)
class ChunkRetrieval:
    """Latent frames that most layers retrieved for a chunk, and the share of layers that did."""

    chunk: int
    frames: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class GalleryFilm:
    """A film that a gallery shows.

    title     its path below the folder that was named, after that folder's name if several were
    system    the name of that folder, which differs from those of the others
    path      the mp4
    record    its film.json; None where there is none
    story     None where nothing tells it
    resolved  the story on the grid of chunks of `chunk_frames` latent frames
    retrieved  by chunk, in order; empty where nothing is known of it
    facts     what it was made with: (name, value)
    """

    title: str
    system: str
    path: Path
    record: Path | None
    story: Story | None
    resolved: ResolvedStory | None
    chunk_frames: int
    retrieved: tuple[ChunkRetrieval, ...]
    facts: tuple[tuple[str, str], ...]

    @property
    def latent_frames(self) -> tuple[int, ...]:
        """All that were retrieved, in order."""
        return tuple(sorted({frame for each in self.retrieved for frame in each.frames}))


def films_in(folder: Path) -> Iterator[Path]:
    """All mp4 files below `folder`, less hidden ones and the headers of the desk's sessions."""
    for path in sorted(folder.rglob("*.mp4")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        header = path.with_name("session.json").is_file()
        if path.is_file() and not hidden and not header:
            yield path


def folder_names(folders: Sequence[Path]) -> dict[Path, str]:
    """A name for each folder: the end of its path, as short as it can be and differ from others."""
    parts = {folder: folder.resolve().parts for folder in folders}

    def name(own: tuple[str, ...]) -> str:
        ends = (own[-length:] for length in range(1, len(own) + 1))
        alone = lambda end: sum(each[-len(end) :] == end for each in parts.values()) == 1
        return Path(*next(filter(alone, ends), own)).as_posix()

    return {folder: name(own) for folder, own in parts.items()}


def read_film_card(path: Path, folder: Path, system: str | None = None) -> GalleryFilm:
    """A film below `folder`: film.mp4 beside film.json, or an mp4 beside a story of its name.

    `system` is the folder's name, which opens the title; None leaves it out.

    Raises:
      DataError, UsageError: its record or story cannot be read.
    """
    record = record_beside(path)
    told = record or next(
        (path.with_suffix(suffix) for suffix in STORIES if path.with_suffix(suffix).is_file()), None
    )
    found = read_plain(told) if told else {}
    if not isinstance(found, dict):
        raise DataError(f"{told} is neither a film.json nor a story")
    data = found if record else {}
    story = Story.from_dict(data.get("story") if record else found, str(told)) if told else None
    story = story and filmed_story(story, data)
    chunk_frames = recorded_chunk_frames(data)
    return GalleryFilm(
        title=_title(path, folder, system),
        system=system or folder.resolve().name,
        path=path,
        record=record,
        story=story,
        resolved=story.resolve(chunk_frames) if story else None,
        chunk_frames=chunk_frames,
        retrieved=_retrieved(data.get("retrieved")),
        facts=tuple(_facts(data)),
    )


def _title(path: Path, folder: Path, system: str | None) -> str:
    below = path.relative_to(folder)
    below = below.parent if path.name == FILM else below.with_suffix("")
    if system:
        return (Path(system) / below).as_posix()
    return below.as_posix() if below.parts else folder.resolve().name


def _retrieved(retrieved: Any) -> tuple[ChunkRetrieval, ...]:
    """From film.json's [chunk][layer][place] of latent frames, -1 for none."""
    if not retrieved:
        return ()
    try:
        chunks = [np.asarray(chunk, np.int64).reshape(len(chunk), -1) for chunk in retrieved]
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"retrieved is no table of latent frames: {error}") from error
    found = []
    for index, layers in enumerate(chunks):
        if retrieved := most_retrieved(layers, RETRIEVED):
            frames, shares = zip(*retrieved, strict=True)
            found.append(ChunkRetrieval(index, frames, shares))
    return tuple(found)


def _facts(data: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What a reader asks first of how a film was made. Fields of other types are left out."""
    part = lambda name: data[name] if isinstance(data.get(name), dict) else {}
    sampler, memory, story, timings = map(part, ("sampler", "memory", "story", "timings"))
    video, device, software = part("resolved"), part("device"), part("software")
    told = {
        "model": data.get("model"),
        "sampler": _joined(sampler.get("solver"), sampler.get("steps"), "steps"),
        "memory": _joined(memory.get("policy"), memory.get("memory_frames"), "frames"),
        "seed": story.get("seed"),
        "length": _joined(None, video.get("seconds"), "s"),
        "made at": _joined(None, timings.get("fps"), "frames a second"),
        "device": device.get("kind"),
        "commit": str(software.get("commit") or "")[:10],
    }
    for name, value in told.items():
        if value not in (None, ""):
            yield name, f"{value:g}" if isinstance(value, float) else str(value)


def _joined(word: Any, number: Any, unit: str) -> str | None:
    if number is None:
        return word
    shown = f"{number:.1f}".removesuffix(".0") if isinstance(number, int | float) else str(number)
    return f"{word}, {shown} {unit}" if word else f"{shown} {unit}"
