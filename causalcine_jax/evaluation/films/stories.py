"""The stories that films of any system were made from, and the film files themselves.

    --stories  a story file, a folder of them, one file of many, or a story set's file of labels
    --films    NAME.mp4 for the story called NAME, or NAME/film.mp4 as `causalcine film` leaves it;
               several films of a story in folders of their seeds: 0/NAME.mp4, 1/NAME.mp4

A story is that of `causalcine film` (causalcine/story@1). Here it may also have an `id`, which is
the film's name, and every shot a list of `characters`. [character1] in a caption does as well.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError, raise_faults, shown
from causalcine_jax.story import Story
from causalcine_jax.story_schema import SHOT_KEYS, STORY_KEYS
from causalcine_jax.story_sets.labels import SCHEMA as STORY_SET
from causalcine_jax.story_sets.labels import set_faults
from causalcine_jax.utils.plain_data import parse_plain, read_plain

SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".m4v")
STORY_SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
GROUPS = ("category", "kind", "away", "described_again")  # labels that the report groups by
# What a benchmark's stories hold beside what a film is made from.
_STORY_EXTRAS = ("id", "title", "characters", "targets", "tags", "meta")
_SHOT_EXTRAS = ("characters", "tags", "transition")
_TAG = re.compile(r"\[(character\s*\d+)\]", re.IGNORECASE)


@dataclass(frozen=True)
class FilmStory:
    """What was asked of a film.

    captions  one per shot, without the global caption, as in HoloCine's shot-level alignment
    cuts      seconds at which the shots after the first shall begin
    cast      who is in each shot; all empty where the story names no characters
    labels    of a story set: what the report groups films by
    """

    name: str
    captions: tuple[str, ...]
    cuts: tuple[float, ...]
    cast: tuple[tuple[str, ...], ...]
    labels: tuple[tuple[str, str], ...] = ()

    @property
    def hash(self) -> str:
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()


def film_story(
    data: Any, name: str, what: str, labels: Mapping[str, Any] | None = None
) -> FilmStory:
    """The story in plain data, with its labels in a story set. `what` names it in errors.

    Raises:
      UsageError: it has faults; all are listed.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("shots"), list):
        raise UsageError(f"{what}: must be a story, a mapping with shots, not {shown(data)}")
    shots = [shot if isinstance(shot, Mapping) else {} for shot in data["shots"]]
    plain = {key: value for key, value in data.items() if _is_known(key, STORY_KEYS, _STORY_EXTRAS)}
    plain["shots"] = [
        {key: value for key, value in shot.items() if _is_known(key, SHOT_KEYS, _SHOT_EXTRAS)}
        if isinstance(shot, Mapping)
        else shot
        for shot in data["shots"]
    ]
    story = Story.from_dict(plain, what)
    raise_faults(
        what,
        [
            f"shot {number}: characters must be a list of names, not {shown(shot['characters'])}"
            for number, shot in enumerate(shots, start=1)
            if not _is_cast(shot.get("characters", []))
        ],
    )
    resolved = story.resolve()
    return FilmStory(
        name,
        tuple(shot.caption for shot in story.shots),
        tuple(cut / resolved.fps for cut in resolved.asked_cut_frames),
        tuple(
            _cast(given.get("characters"), shot.caption)
            for given, shot in zip(shots, story.shots, strict=True)
        )
        if labels is None
        else _labelled_cast(labels, len(shots)),
        tuple((key, str(labels[key]).lower()) for key in GROUPS if labels and key in labels),
    )


def _is_known(key: Any, known: tuple[str, ...], extras: tuple[str, ...]) -> bool:
    return key in known or key not in extras


def _is_cast(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _cast(given: list[str] | None, caption: str) -> tuple[str, ...]:
    tagged = (re.sub(r"\s+", "", tag).lower() for tag in _TAG.findall(caption))
    return tuple(dict.fromkeys(tagged if given is None else given))


def _labelled_cast(labels: Mapping[str, Any], shots: int) -> tuple[tuple[str, ...], ...]:
    """Who is in each shot: `subjects` with their shots, or one `subject` and where it is present.

    Shots count from 1.
    """
    seen = labels.get("subjects", {labels.get("subject"): labels.get("present")})
    return tuple(
        tuple(who for who, where in seen.items() if number in where)
        for number in range(1, shots + 1)
    )


def read_stories(path: Path) -> dict[str, FilmStory]:
    """The stories at `path` by name.

    Raises:
      UsageError: there are none, they have faults, or two have the same name.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in STORY_SUFFIXES)
    else:
        files = [path]
    stories: dict[str, FilmStory] = {}
    for file in files:
        for data, name, what, labels in _stories_in(file):
            if name in stories:
                raise UsageError(f"{what}: two stories are called {shown(name)}: rename one")
            stories[name] = film_story(data, name, what, labels)
    if not stories:
        raise UsageError(f"{path} holds no story: name a file or folder of {_suffixes()}")
    return stories


def _suffixes() -> str:
    return ", ".join(STORY_SUFFIXES)


def _stories_in(file: Path) -> Iterator[tuple[Any, str, str, Mapping[str, Any] | None]]:
    """(plain data, name, what errors call it, labels) of every story in a file."""
    if file.suffix.lower() == ".jsonl":
        try:
            lines = file.read_text("utf-8").splitlines()
        except FileNotFoundError:
            raise UsageError(f"{file}: there is no such file") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                what = f"{file}, line {number}"
                yield _named(parse_plain(line, what, as_json=True), what)
        return
    data = read_plain(file)
    if isinstance(data, Mapping) and data.get("schema") == STORY_SET:
        yield from _of_set(file, data)
        return
    if isinstance(data, Mapping) and "shots" not in data:
        data = data.get("stories", data)
        if isinstance(data, Mapping):
            for name, story in data.items():
                yield story, str(name), f"{file}, {name}", None
            return
    if isinstance(data, list):
        for number, story in enumerate(data, start=1):
            what = f"{file}, story {number}"
            yield _named(story, what)
        return
    name = data.get("id") if isinstance(data, Mapping) else None
    yield data, name if isinstance(name, str) and name else file.stem, str(file), None


def _of_set(
    file: Path, data: Mapping[str, Any]
) -> Iterator[tuple[Any, str, str, Mapping[str, Any] | None]]:
    """The stories of a set: its file labels what lies in the folder beside it."""
    raise_faults(str(file), set_faults(data))
    for name, labels in data["stories"].items():
        story = file.with_suffix("") / f"{name}.yaml"
        yield read_plain(story), name, str(story), labels


def _named(data: Any, what: str) -> tuple[Any, str, str, None]:
    name = data.get("id") if isinstance(data, Mapping) else None
    if not isinstance(name, str) or not name:
        raise UsageError(f"{what}: has no id, which is the name of its film")
    return data, name, f"{what} ({shown(name)})", None


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
        if file.suffix.lower() not in SUFFIXES or not file.is_file():
            continue
        name = file.stem if file.parent == folder else file.parent.name
        if name in found:
            raise UsageError(f"{found[name]} and {file} are both the film {name}: rename one")
        found[name] = file
    return found
