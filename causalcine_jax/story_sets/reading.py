"""The stories of `--stories`, in every form that `causalcine film` and `evaluate` take.

    a story file        the story is called as its `id` says, else as the file
    a folder            of such files
    one file of many    a list, a mapping of names, {stories: ...}, or .jsonl with a story a line
    a story set         its file of labels (story_set.py)

A story is causalcine/story@1. Here it may also hold what benchmarks add, such as its `id` and the
`characters` of every shot. `film` also takes a film.json in place of a story.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError, shown
from causalcine_jax.story_schema import SHOT_KEYS, STORY_KEYS
from causalcine_jax.story_sets.labels import SCHEMA as STORY_SET
from causalcine_jax.story_sets.story_set import labelled_files
from causalcine_jax.utils.plain_data import parse_plain, read_plain

SUFFIXES = (".yaml", ".yml", ".json", ".jsonl")
# What a benchmark's stories hold beside what a film is made from.
STORY_EXTRAS = {"id", "title", "characters", "targets", "tags", "meta"}.difference(STORY_KEYS)
SHOT_EXTRAS = {"characters", "tags", "transition"}.difference(SHOT_KEYS)


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


def _without(extras: set[str], data: Any) -> Any:
    if not isinstance(data, Mapping):
        return data
    return {key: value for key, value in data.items() if key not in extras}


def read_stories(path: Path) -> list[ToldStory]:
    """The stories of a file or folder, in its order. Their content is not checked here.

    Raises:
      UsageError: there are none, a name is no file's name, or two are the same.
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
        if re.search(r"[/\\\0]", story.name) or story.name in ("", ".", ".."):
            raise UsageError(
                f"{story.where}: {shown(story.name)} cannot name a film's file: rename the story"
            )
        if story.name in stories:
            raise UsageError(f"{story.where}: two stories are called {story.name}: rename one")
        stories[story.name] = story
    if not stories:
        raise UsageError(
            f"--stories {path} holds no story: name a file or folder of {', '.join(SUFFIXES)}"
        )
    return list(stories.values())


def _stories_in(file: Path) -> Iterator[ToldStory]:
    if file.suffix.lower() == ".jsonl":
        try:
            lines = file.read_text("utf-8").splitlines()
        except FileNotFoundError:
            raise UsageError(f"{file}: there is no such file") from None
        except (OSError, ValueError) as error:
            raise DataError(f"{file}: cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            if line.strip():
                where = f"{file}, line {number}"
                yield _named(parse_plain(line, where, as_json=True), where)
        return
    data = read_plain(file)
    if isinstance(data, Mapping) and data.get("schema") == STORY_SET:
        for name, (story, labels) in labelled_files(file, data).items():
            yield ToldStory(name, str(story), read_plain(story), labels)
        return
    if isinstance(data, Mapping) and "shots" not in data and "schema" not in data:
        data = data.get("stories", data)
        if isinstance(data, Mapping):
            for name, story in data.items():
                yield ToldStory(str(name), f"{file}, {name}", story)
            return
    if isinstance(data, list):
        for number, story in enumerate(data, start=1):
            yield _named(story, f"{file}, story {number}")
        return
    yield ToldStory(_id(data) or file.stem, str(file), data)


def _named(data: Any, where: str) -> ToldStory:
    name = _id(data)
    if not name:
        raise UsageError(f"{where}: has no id, which is the name of its film")
    return ToldStory(name, f"{where} ({shown(name)})", data)


def _id(data: Any) -> str:
    name = data.get("id") if isinstance(data, Mapping) else None
    return name if isinstance(name, str) else ""
