"""The stories that films of any system were made from, and the film files themselves.

    --stories  as story_sets/reading.py reads them
    --films    NAME.mp4 for the story called NAME, or NAME/film.mp4 as `causalcine film` leaves it;
               several films of a story in folders of their seeds: 0/NAME.mp4, 1/NAME.mp4

Who is in a shot says its list of `characters`, else [character1] in its caption.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from causalcine_jax.clock import CHUNK_FRAMES
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film_folder.record import (
    filmed_story,
    record_beside,
    recorded_chunk_frames,
)
from causalcine_jax.story import Story
from causalcine_jax.story_sets.labels import shots_of_subjects
from causalcine_jax.story_sets.reading import ToldStory, read_stories
from causalcine_jax.utils.plain_data import read_plain

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".m4v")
GROUPS = ("category", "kind", "away", "described_again")  # labels that the report groups by
_TAG = re.compile(r"\[(character\s*\d+)\]", re.IGNORECASE)


@dataclass(frozen=True)
class FilmStory:
    """What was asked of a film.

    captions  one per shot, without the global caption, as in HoloCine's shot-level alignment
    cuts      seconds at which the shots after the first shall begin: those of a story in chunks
              are on the usual grid, and `asked_of` finds a film's own
    story     as it was told
    cast      who is in each shot; all empty where the story names no characters
    labels    of a story set: what the report groups films by
    """

    name: str
    story: Story
    captions: tuple[str, ...]
    cuts: tuple[float, ...]
    cast: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def hash(self) -> str:
        asked = {name: value for name, value in vars(self).items() if name != "story"}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def film_stories(path: Path) -> dict[str, FilmStory]:
    """What the stories that `read_stories` finds ask for, by name. Raises as both do."""
    return {told.name: film_story(told) for told in read_stories(path)}


def film_story(told: ToldStory) -> FilmStory:
    """What a story asks of its film.

    Raises:
      UsageError: it has faults; all are listed.
    """
    story = Story.from_dict(told.plain, told.where)
    shots, labels = told.shots, told.labels or {}
    return FilmStory(
        told.name,
        story,
        tuple(shot.caption for shot in story.shots),
        _asked_cuts(story),
        _labelled_cast(labels, len(shots))
        if labels
        else tuple(_cast(shot.get("characters"), shot["caption"]) for shot in shots),
        tuple((key, str(labels[key]).lower()) for key in GROUPS if key in labels),
    )


def asked_of(film: Path, story: FilmStory) -> FilmStory:
    """What the story asks of this film, whose film.json may name its chunks' length and its start.

    Raises:
      UsageError, DataError: there is a film.json that cannot be read.
    """
    record = record_beside(film)
    if record is None:
        return story
    data = read_plain(record)
    if not isinstance(data, dict):
        raise DataError(f"{record} is no film.json: film it again, or remove the file")
    filmed = filmed_story(story.story, data)
    return replace(
        story,
        captions=tuple(shot.caption for shot in filmed.shots),
        cuts=_asked_cuts(filmed, recorded_chunk_frames(data)),
        cast=((),) * (len(filmed.shots) - len(story.cast)) + story.cast,
    )


def _asked_cuts(story: Story, chunk_frames: int = CHUNK_FRAMES) -> tuple[float, ...]:
    return tuple(cut / story.video.fps for cut in story.resolve(chunk_frames).asked_cut_frames)


def _cast(given: list[str] | None, caption: str) -> tuple[str, ...]:
    tagged = (re.sub(r"\s+", "", tag).lower() for tag in _TAG.findall(caption))
    return tuple(dict.fromkeys(tagged if given is None else given))


def _labelled_cast(labels: Mapping[str, Any], shots: int) -> tuple[tuple[str, ...], ...]:
    """Who is in each shot."""
    seen = shots_of_subjects(labels)
    return tuple(
        tuple(who for who, where in seen.items() if number in where)
        for number in range(1, shots + 1)
    )


def story_of(film: str) -> str:
    """The story's name in a film's: "ferry" of both "ferry" and, with its seed, "0/ferry"."""
    return film.rpartition("/")[2]


def find_films(folder: Path) -> dict[str, Path]:
    """The films of a folder by name, "SEED/NAME" in folders of seeds, in the order of their names.

    Raises:
      UsageError: there is no such folder, no film in it, or two of one name.
    """
    if not folder.is_dir():
        raise UsageError(f"--films {folder}: there is no such folder")
    found = _films_in(folder)
    for seed in folder.iterdir():
        if seed.is_dir() and seed.name.isdecimal():
            found |= {f"{seed.name}/{name}": file for name, file in _films_in(seed).items()}
    if not found:
        raise UsageError(
            f"{folder} holds no film: expected NAME{', NAME'.join(SUFFIXES)} or NAME/film.mp4"
        )
    return dict(sorted(found.items()))


def _films_in(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted([*folder.iterdir(), *folder.glob("*/film.mp4")]):
        # Such as macOS's ._NAME on other disks.
        hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
        if file.suffix.lower() not in SUFFIXES or hidden or not file.is_file():
            continue
        name = file.stem if file.parent == folder else file.parent.name
        if name in found:
            raise UsageError(f"{found[name]} and {file} are both the film {name}: rename one")
        found[name] = file
    return found
