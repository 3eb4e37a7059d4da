"""A set of stories with labels: SET.yaml says what is in the folder SET beside it.

    stories/memory-100.yaml        the labels, in the set's order
    stories/memory-100/NAME.yaml   the stories, as `causalcine film --story` takes them
    stories/memory-100.sha256      the hash of every one of these files, as `sha256sum -c` reads it

The set's own hash is the SHA-256 of the third.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.errors import UsageError, raise_faults
from causalcine_jax.story import Story, read_story
from causalcine_jax.story_sets.labels import set_faults, shots_of_subjects
from causalcine_jax.utils.atomic_file import file_hash, write_text
from causalcine_jax.utils.plain_data import read_plain


@dataclass(frozen=True)
class LabelledStory:
    """A story of a set. `labels` has the keys that labels.py names; shots count from 1."""

    name: str
    story: Story
    labels: Mapping[str, Any]

    @property
    def subjects(self) -> dict[str, tuple[int, ...]]:
        """Who is seen in which shots."""
        return {who: tuple(shots) for who, shots in shots_of_subjects(self.labels).items()}

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(shot.caption for shot in self.story.shots)


@dataclass(frozen=True)
class StorySet:
    """Stories in the set's order.

    balance   label -> value -> how many stories have it
    at_least  tag -> how many stories have it, at least
    """

    path: Path
    name: str
    licence: str
    balance: Mapping[str, Mapping[Any, int]]
    at_least: Mapping[str, int]
    stories: tuple[LabelledStory, ...]

    @property
    def hashes(self) -> Path:
        """The file with the hash of every file of the set."""
        return self.path.with_suffix(".sha256")


def read_set(path: str | Path) -> StorySet:
    """The set in the labels' file `path`, with all its stories.

    Raises:
      UsageError: the labels or a story have faults, or a story has no file or no labels.
      DataError: a file cannot be read.
    """
    path = Path(path)
    data = read_plain(path)
    files = labelled_files(path, data)
    return StorySet(
        path,
        data["name"],
        data["licence"],
        data.get("balance", {}),
        data.get("at_least", {}),
        tuple(
            LabelledStory(name, read_story(file), labels) for name, (file, labels) in files.items()
        ),
    )


def labelled_files(path: Path, data: Any) -> dict[str, tuple[Path, Mapping[str, Any]]]:
    """The file and labels of each story by name, of the labels' file `path` that holds `data`.

    Raises:
      UsageError: the labels have faults, or a story has no file or no labels.
    """
    raise_faults(str(path), set_faults(data))
    folder = path.with_suffix("")
    names = list(data["stories"])
    there = {file.stem for file in folder.glob("*.yaml") if not file.name.startswith(".")}
    raise_faults(
        str(path),
        [
            *(f"{name} has labels and no file in {folder}" for name in names if name not in there),
            *(f"{folder / name}.yaml has no labels" for name in sorted(there.difference(names))),
        ],
    )
    return {name: (folder / f"{name}.yaml", labels) for name, labels in data["stories"].items()}


def hash_lines(stories: StorySet) -> str:
    """What the file of hashes must hold: a line for the labels and for each story."""
    folder = stories.path.with_suffix("")
    files = [stories.path, *(folder / f"{each.name}.yaml" for each in stories.stories)]
    return "".join(
        f"{file_hash(file)}  {file.relative_to(stories.path.parent).as_posix()}\n" for file in files
    )


def check_hashes(stories: StorySet) -> None:
    """`UsageError` where the file of hashes is missing or does not fit the files."""
    there = stories.hashes.read_bytes() if stories.hashes.is_file() else b""
    if there != hash_lines(stories).encode():
        raise UsageError(
            f"{stories.hashes} does not fit the files of {stories.name}: they were changed. "
            "Restore them, or write the hashes of a set of your own with --write-hashes"
        )


def write_hashes(stories: StorySet) -> None:
    """Writes the file of hashes anew."""
    write_text(stories.hashes, hash_lines(stories))
