"""The stories of `--stories`, in every form that `causalcine film` and `evaluate` take.

    a story file        the story is called as its `id` says, else as the file
    a folder            of such files
    one file of many    a list, a mapping of names, {stories: ...}, or .jsonl with a story a line
    a story set         its file of labels (story_set.py)

A story is causalcine/story@1. Here it may also hold what benchmarks add, such as its `id` and the
`characters` of every shot. `film` also takes a film.json in place of a story.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.errors import UsageError, printable, raise_faults, shown
from causalcine_jax.story_schema import SCHEMA, SHOT_KEYS, STORY_KEYS
from causalcine_jax.story_sets.labels import SCHEMA as STORY_SET
from causalcine_jax.story_sets.labels import shots_of_subjects
from causalcine_jax.story_sets.story_set import labelled_files
from causalcine_jax.utils.plain_data import parse_plain, read_plain, read_text

SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
# What a benchmark's stories hold beside what a film is made from.
STORY_EXTRAS = {"id", "title", "characters", "targets", "tags", "meta"}.difference(STORY_KEYS)
SHOT_EXTRAS = {"characters", "tags", "transition"}.difference(SHOT_KEYS)
LONGEST_NAME = 200  # bytes; files' names have at most 255, some of them for the suffix


@dataclass(frozen=True)
class ToldStory:
    """A story that is read and not checked yet.

    name    its film's
    where   names it in errors
    told    plain data, with what benchmarks add
    labels  of a story set
    """

    name: str
    where: str
    told: Any
    labels: Mapping[str, Any] | None = None

    @property
    def plain(self) -> Any:
        """Its plain data without what benchmarks add."""
        if not isinstance(self.told, Mapping) or not isinstance(self.told.get("shots"), list):
            return self.told
        shots = [_without(SHOT_EXTRAS, shot) for shot in self.told["shots"]]
        return _without(STORY_EXTRAS, self.told) | {"shots": shots}

    @property
    def shots(self) -> list[Any]:
        """Its shots; none where they are no list."""
        shots = self.told.get("shots") if isinstance(self.told, Mapping) else None
        return shots if isinstance(shots, list) else []

    def extra_faults(self) -> list[str]:
        """What is wrong with the characters and labels that films are measured by."""
        faults = [
            f"shot {number}: characters must be a list of names, not {shown(shot['characters'])}"
            for number, shot in enumerate(self.shots, start=1)
            if isinstance(shot, Mapping) and not _is_cast(shot.get("characters", []))
        ]
        if self.labels is None or not self.shots:
            return faults
        last = len(self.shots)
        return faults + [
            f"its labels have {who} in shot {max(where)}, and its last shot is {last}"
            for who, where in shots_of_subjects(self.labels).items()
            if max(where) > last
        ]


def _is_cast(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) and name for name in value)


def _without(extras: set[str], data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    return {key: value for key, value in data.items() if key not in extras}


def read_stories(path: Path) -> list[ToldStory]:
    """The stories of a file or folder, in its order.

    Of their content, only what `Story` does not hold is checked: characters and labels.

    Raises:
      UsageError: there are none, a name is no file's name, or two are the same; or characters or
        labels have faults.
      DataError: a file cannot be read.
    """
    files = [path]
    if path.is_dir():
        files = sorted(
            file
            for file in path.iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        )
    stories: dict[str, ToldStory] = {}
    for story in (story for file in files for story in _stories_in(file)):
        if not _is_file_name(story.name):
            raise UsageError(
                f"{story.where}: {shown(story.name)} cannot name a film's file: rename the story, "
                f"without / and \\, not beginning with a dot, in at most {LONGEST_NAME} bytes"
            )
        if story.name in stories:
            raise UsageError(
                f"{story.where}: two stories are called {shown(story.name)}: rename one"
            )
        raise_faults(story.where, story.extra_faults())
        stories[story.name] = story
    if not stories:
        raise UsageError(
            f"--stories {path} holds no story: name a file or folder of {', '.join(SUFFIXES)}"
        )
    return list(stories.values())


def _is_file_name(name: str) -> bool:
    try:
        size = len(os.fsencode(name))
    except UnicodeEncodeError:  # half of a character, by JSON's \\ud800
        return False
    return 0 < size <= LONGEST_NAME and not re.search(r"^\.|[/\\\0]", name)


def _stories_in(file: Path) -> Iterator[ToldStory]:
    if file.suffix.lower() == ".jsonl":
        # Not splitlines, which also cuts at U+2028 and U+0085 inside of JSON's strings.
        for number, line in enumerate(read_text(file).split("\n"), start=1):
            if line.strip():
                where = f"{file}, line {number}"
                yield _named(parse_plain(line, where, as_json=True), where)
        return
    data = read_plain(file)
    many = isinstance(data, Mapping) and "stories" in data and "shots" not in data
    schema = data.get("schema") if isinstance(data, Mapping) else None
    if schema == STORY_SET or (many and schema not in (None, SCHEMA)):
        for name, (story, labels) in labelled_files(file, data).items():
            yield ToldStory(name, str(story), read_plain(story), labels)
        return
    if many:
        data = data["stories"]
    if isinstance(data, Mapping) and (many or _are_named(data)):
        for name, story in data.items():
            yield ToldStory(str(name), f"{file}, {printable(str(name))}", story)
        return
    if isinstance(data, list):
        for number, story in enumerate(data, start=1):
            yield _named(story, f"{file}, story {number}")
        return
    yield ToldStory(_id(data) or file.stem, str(file), data)


def _are_named(data: Mapping[Any, Any]) -> bool:
    """Whether these are stories by name, and not a story, which may have a mistyped key."""
    if "shots" in data or "schema" in data:
        return False
    return all(isinstance(story, Mapping) for story in data.values())


def _named(data: Any, where: str) -> ToldStory:
    name = _id(data)
    if not name:
        raise UsageError(f"{where}: has no id, which is the name of its film")
    return ToldStory(name, f"{where} ({shown(name)})", data)


def _id(data: Any) -> str:
    name = data.get("id") if isinstance(data, Mapping) else None
    return name if isinstance(name, str) else ""
