"""The records of a story: its cast, its shots, and returns after a long absence."""

import dataclasses
from dataclasses import dataclass

import numpy as np

from causalcine_jax.clock import CHUNK_FRAMES, first_frame_of_chunk
from causalcine_jax.storyworld.places import PlaceLayout
from causalcine_jax.storyworld.world import WorldConfig


@dataclass(frozen=True)
class Character:
    name: str
    species: str
    colour: str
    accessory: str


@dataclass(frozen=True)
class WorldShot:
    """A run of chunks under one caption.

    `cast` holds indices into WorldStory.cast; `actions` runs in parallel to it.
    """

    start_chunk: int
    chunks: int
    cast: tuple[int, ...]
    actions: tuple[str, ...]
    place: str
    time: str
    size: str
    camera: str
    facing: float
    offset: float
    caption: str = ""

    @property
    def end_chunk(self) -> int:
        return self.start_chunk + self.chunks

    @property
    def frames(self) -> range:
        """Video frames of the shot."""
        return range(first_frame_of_chunk(self.start_chunk), first_frame_of_chunk(self.end_chunk))


@dataclass(frozen=True)
class WorldStory:
    """A whole film, as scene_parameters renders it and prompts() describes it.

    `told`: captions name colours and accessories where their owners first appear.
    """

    seed: int
    index: int
    world: WorldConfig
    cast: tuple[Character, ...]
    told: bool
    shots: tuple[WorldShot, ...]
    layouts: dict[str, PlaceLayout]
    global_caption: str

    @property
    def captions(self) -> tuple[str, ...]:
        return tuple(shot.caption for shot in self.shots)

    def prompts(self) -> tuple[str, ...]:
        """Returns the prompt of each shot: the global caption and the caption."""
        return tuple(f"{self.global_caption} {caption}".strip() for caption in self.captions)

    def shot_of_chunk(self) -> np.ndarray:
        """Returns the shot's index for each chunk, int32 [chunks]."""
        return np.repeat(
            np.arange(len(self.shots), dtype=np.int32), [shot.chunks for shot in self.shots]
        )


def part_of(story: WorldStory, first: int, chunks: int) -> WorldStory:
    """The story with only the shots of `chunks` chunks from `first` on, counted from there."""
    end = first + chunks
    shots = [
        dataclasses.replace(
            shot,
            start_chunk=max(shot.start_chunk, first) - first,
            chunks=min(shot.end_chunk, end) - max(shot.start_chunk, first),
        )
        for shot in story.shots
        if shot.start_chunk < end and shot.end_chunk > first
    ]
    return dataclasses.replace(story, shots=tuple(shots))


@dataclass(frozen=True)
class Return:
    """A character's appearance at `chunk`, after an absence longer than the window.

    `first_seen_frame` is a latent frame.
    """

    character: int
    chunk: int
    last_seen_chunk: int
    first_seen_frame: int
    shot: int


def returns(story: WorldStory, window: int = 0) -> list[Return]:
    """Returns every return: a character last seen before chunk r - window appears at r.

    The window is the model's `window`, in chunks, and at least the world's.
    """
    plan = [(s.start_chunk, s.chunks, s.cast) for s in story.shots]
    return returns_of_plan(plan, max(window, story.world.window_chunks))


def returns_of_plan(plan: list[tuple[int, int, tuple[int, ...]]], window: int) -> list[Return]:
    """As returns(), from bare (start chunk, chunks, cast) of each shot."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    found = []
    for number, (start, length, who) in enumerate(plan):
        for character in who:
            if character in last and last[character] < start - window:
                found.append(
                    Return(
                        character, start, last[character], first[character] * CHUNK_FRAMES, number
                    )
                )
            first.setdefault(character, start)
            last[character] = start + length - 1
    return found
