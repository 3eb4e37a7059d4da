"""What makes films for the desk: the model with its directors, or the mock.

Sessions know directors only by these methods. Everything that touches the device runs in a turn of
the worker; `check` is quick and needs no device.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from causalcine_jax.serve.parts import ModelInfo
from causalcine_jax.story import ResolvedShot, ResolvedStory, Story


@runtime_checkable
class FilmDirector(Protocol):
    """film.director.Director, as far as a session uses it."""

    story: Story
    resolved: ResolvedStory

    @property
    def next_chunk(self) -> int: ...

    def add_shot(
        self,
        caption: str,
        *,
        chunks: int | None = None,
        id: str | None = None,
        seed: int | None = None,
    ) -> ResolvedShot: ...

    def extend(self, *, chunks: int) -> ResolvedShot: ...

    def branch(self, shot: str, stepwise: bool = False) -> "FilmDirector": ...

    def keep_in(self, folder: Path) -> None: ...

    def close(self) -> None: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __next__(self) -> Any: ...


SomeDirector = TypeVar("SomeDirector", bound=FilmDirector)


@runtime_checkable
class Engine(Protocol[SomeDirector]):
    """Makes directors of one kind.

    room_bytes  of history that all sessions may reserve together
    """

    info: ModelInfo
    room_bytes: int

    def device_context(self) -> AbstractContextManager[None]:
        """What the thread that uses the device runs in."""

    def warm_up(self) -> None:
        """Prepares for the first film, so that it does not wait for it."""

    def pool_bytes(self, story: Story, folder: Path | None = None) -> int:
        """Bytes of history that a director of this story reserves, of the film kept in `folder`.

        `UsageError` as `begin`, `DataError` as `resume`.
        """

    def begin(self, story: Story) -> SomeDirector:
        """A director of a film without shots yet. `UsageError` if it cannot make that size."""

    def resume(self, folder: Path) -> SomeDirector:
        """The director of the film kept in `folder`, before its first chunk.

        It makes the film's chunks again. `DataError` if there is none, or it is in use.
        """

    def check(self, prompts: list[tuple[str, str]], story: Story) -> None:
        """`UsageError` if the model cannot read a prompt, or not all of them in one film.

        prompts  (where it occurs, its text)
        story    with all shots of the film, begun or not
        """

    def record(self, director: SomeDirector) -> dict[str, Any]:
        """The fields of film.json that say how the director's frames are made."""
