"""A story, which is a global caption and a list of shots: checked, and snapped to whole chunks.

    file -> plain data -> all faults together -> Story -> resolve() -> the chunks of every shot

The model works in chunks of latent frames: 3, unless its folder names another number. A chunk of 3
makes 12 video frames (0.75 s at 16 fps). The first chunk makes 9, because the first latent frame is
one video frame.

A shot asks for seconds or chunks. Every cut moves to the nearest chunk boundary. Cuts are snapped
one by one along the film, not shot lengths, so rounding errors do not add up.
"""

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.clock import CHUNK_FRAMES, FPS, chunk_at, first_frame_of_chunk
from causalcine_jax.errors import UsageError, nearest, raise_faults
from causalcine_jax.story_schema import SCHEMA, SHOT_KEYS, VIDEO_KEYS, story_faults
from causalcine_jax.utils.atomic_file import write_text
from causalcine_jax.utils.plain_data import read_plain


@dataclass(frozen=True)
class Video:
    """Frames per second, and size in pixels. A size of None is the model's own."""

    fps: int = FPS
    width: int | None = None
    height: int | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width, of a story that has them: a model's `completed` sets them."""
        assert self.height is not None and self.width is not None
        return self.height, self.width


@dataclass(frozen=True)
class Shot:
    """One caption and its duration: exactly one of `seconds` and `chunks`.

    An `id` of None becomes s1, s2, ... by position. A `seed` of None is the story's.
    """

    caption: str
    seconds: float | None = None
    chunks: int | None = None
    id: str | None = None
    seed: int | None = None

    def __post_init__(self):
        _strip(self, "caption")


@dataclass(frozen=True)
class Story:
    """A film to make.

    shots           a story file has at least one; a director may start with none
    global_caption  applies to all shots; opens every prompt
    seed            of the noise; 0 <= seed < 2^32
    negative        the text that guidance steers away from

    Raises:
      UsageError: the values are not a valid story; every fault is listed.
    """

    shots: tuple[Shot, ...]
    global_caption: str = ""
    seed: int = 0
    negative: str = ""
    video: Video = Video()

    def __post_init__(self):
        _strip(self, "global_caption", "negative")
        raise_faults("story", story_faults(self.to_dict(), fewest_shots=0))

    @classmethod
    def from_dict(cls, data: Any, what: str = "story", fewest_shots: int = 1) -> "Story":
        """The story in plain data as read from YAML or JSON. `what` names it in errors."""
        raise_faults(what, story_faults(data, fewest_shots))
        return cls(
            tuple(Shot(**{key: shot.get(key) for key in SHOT_KEYS}) for shot in data["shots"]),
            global_caption=data.get("global", ""),
            seed=data.get("seed", 0),
            negative=data.get("negative", ""),
            video=Video(**data.get("video", {})),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` restores an equal story from it."""
        set_fields = lambda item, keys: {
            k: getattr(item, k) for k in keys if getattr(item, k) is not None
        }
        return {
            "schema": SCHEMA,
            "global": self.global_caption,
            "seed": self.seed,
            "negative": self.negative,
            "video": set_fields(self.video, VIDEO_KEYS),
            "shots": [set_fields(shot, SHOT_KEYS) for shot in self.shots],
        }

    @property
    def in_chunks(self) -> bool:
        """Whether a shot's duration is given in chunks, so that cuts are asked for by the grid."""
        return any(shot.chunks is not None for shot in self.shots)

    def prompt(self, shot: Shot) -> str:
        """The text encoder's input for a shot."""
        return prompt_of(self.global_caption, shot.caption)

    def resolve(self, chunk_frames: int = CHUNK_FRAMES) -> "ResolvedStory":
        """Every shot on the grid of chunks of `chunk_frames` latent frames; see `resolve`."""
        return resolve(self, chunk_frames)


@dataclass(frozen=True)
class ResolvedShot:
    """A shot on the chunk grid.

    It covers chunks [first_chunk, first_chunk + chunks) and video frames
    [first_frame, first_frame + frames): indices from 0. Text for people counts from 1.
    """

    id: str
    caption: str
    prompt: str
    first_chunk: int
    chunks: int
    first_frame: int
    frames: int
    seconds: float
    asked_seconds: float

    @property
    def end_chunk(self) -> int:
        return self.first_chunk + self.chunks


@dataclass(frozen=True)
class ResolvedStory:
    """A story on the chunk grid.

    cut_frames        video frames where the cuts fall on the grid of `chunk_frames`
    asked_cut_frames  video frames where the story asked for them
    """

    shots: tuple[ResolvedShot, ...]
    fps: int
    cut_frames: tuple[int, ...]
    asked_cut_frames: tuple[int, ...]
    chunk_frames: int = CHUNK_FRAMES

    @property
    def chunks(self) -> int:
        return sum(shot.chunks for shot in self.shots)

    @property
    def frames(self) -> int:
        return sum(shot.frames for shot in self.shots)

    @property
    def shot_of_chunk(self) -> tuple[int, ...]:
        return tuple(i for i, shot in enumerate(self.shots) for _ in range(shot.chunks))

    def number_of(self, shot: str) -> int:
        """The place of the shot of that id, from 0. `UsageError` if there is none."""
        ids = [each.id for each in self.shots]
        if shot not in ids:
            raise UsageError(f"this film has no shot {shot!r}, {nearest(str(shot), ids)}")
        return ids.index(shot)

    def snapped(self) -> list[str]:
        """One line for every shot whose duration differs from the one asked for."""
        return [
            f"shot '{s.id}': {s.asked_seconds:g} s asked, {s.seconds:.4g} s on the chunk grid "
            f"({s.chunks} chunk{'s' * (s.chunks > 1)})"
            for s in self.shots
            if abs(s.seconds - s.asked_seconds) > 1e-6
        ]


def _strip(item: Shot | Story, *fields: str) -> None:
    """Removes space around these texts, so that a story equals itself read from a file."""
    for name in fields:
        if isinstance(text := getattr(item, name), str):
            object.__setattr__(item, name, text.strip())


def prompt_of(global_caption: str, caption: str) -> str:
    """The prompt template, the same as in training."""
    return f"{global_caption} {caption}".strip()


def resolve(story: Story, chunk_frames: int = CHUNK_FRAMES) -> ResolvedStory:
    """Snaps every shot of `story` to whole chunks, at least one each.

    A shot given in chunks is exact, and later cuts are counted from its end.
    """
    fps, shots, asked_ends = story.video.fps, [], []
    first_frame = functools.partial(first_frame_of_chunk, chunk_frames=chunk_frames)
    chunk, asked_end = 0, 0.0
    for number, shot in enumerate(story.shots, start=1):
        if shot.chunks is not None:
            end = chunk + shot.chunks
            asked_end = float(first_frame(end))
            asked_seconds = (asked_end - first_frame(chunk)) / fps
        else:
            assert shot.seconds is not None  # a shot has one or the other
            asked_end += shot.seconds * fps
            end = max(chunk + 1, chunk_at(asked_end, chunk_frames))
            asked_seconds = float(shot.seconds)
        first, frames = first_frame(chunk), first_frame(end) - first_frame(chunk)
        shots.append(
            ResolvedShot(
                id=shot.id or f"s{number}",
                caption=shot.caption,
                prompt=story.prompt(shot),
                first_chunk=chunk,
                chunks=end - chunk,
                first_frame=first,
                frames=frames,
                seconds=frames / fps,
                asked_seconds=asked_seconds,
            )
        )
        asked_ends.append(round(asked_end))
        chunk = end
    return ResolvedStory(
        tuple(shots),
        fps,
        tuple(s.first_frame for s in shots[1:]),
        tuple(asked_ends[:-1]),
        chunk_frames,
    )


def read_story(path: str | Path) -> Story:
    """The story in a .yaml, .yml or .json file.

    Raises:
      UsageError: the file has faults; all are listed.
      DataError: the file cannot be read.
    """
    return Story.from_dict(read_plain(path), what=str(path))


def write_story(story: Story, path: str | Path) -> None:
    """Writes a story as JSON for .json, else as YAML."""
    import yaml

    data = story.to_dict()
    as_json = Path(path).suffix == ".json"
    text = (
        json.dumps(data, indent=2, ensure_ascii=False)
        if as_json
        else yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)
    )
    write_text(path, text)
