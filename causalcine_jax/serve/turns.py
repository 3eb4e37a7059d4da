"""What a session's director does in its turns at the device, and how its failures are told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from causalcine_jax.errors import DataError, UsageError, is_out_of_memory
from causalcine_jax.serve.engine import FilmDirector
from causalcine_jax.serve.parts import QueuedShot
from causalcine_jax.story import ResolvedStory


@dataclass(frozen=True)
class Seen:
    """A director between two turns."""

    next_chunk: int
    resolved: ResolvedStory

    @classmethod
    def of(cls, director: FilmDirector) -> "Seen":
        return cls(director.next_chunk, director.resolved)


def next_chunk(director: FilmDirector, shot: QueuedShot | None) -> Any:
    """The next chunk: the first of `shot`, or one more of the last shot where that is None."""
    if shot is not None:
        director.add_shot(shot.caption, chunks=1, id=shot.shot_id, seed=shot.seed)
    elif director.next_chunk >= director.resolved.chunks:
        director.extend(chunks=1)
    return next(director)


def rewound(director: FilmDirector, shot_id: str, folder: Path) -> FilmDirector:
    """The film up to the beginning of that shot, kept in `folder`. Runs in a turn.

    Chunks whose history was evicted are still to be made again, each in a turn of its own.
    """
    other = director.branch(shot_id, stepwise=True)
    other.keep_in(folder)
    director.close()
    return other


def in_words(error: Exception) -> str:
    """What clients are told of a failure; the log has the rest."""
    if isinstance(error, UsageError | DataError):
        return str(error)
    if is_out_of_memory(error):
        return "out of memory: ask for smaller frames, or serve with fewer --pool-frames"
    return type(error).__name__
