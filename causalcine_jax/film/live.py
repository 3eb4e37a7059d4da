"""Directs a film while it is made: each line of text is its next shot.

lines --(a thread)--> director.add_shot      director --> chunks, as long as shots are queued
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film.director import Director
from causalcine_jax.film.story_edits import shot_of_line
from causalcine_jax.story import Story


def directed(
    director: Director,
    lines: Iterable[str],
    chunks: int,
    tell: Callable[[str], None],
    keep: Callable[[Story], None] = lambda story: None,
) -> Iterator[Chunk]:
    """The chunks of the film whose shots are given by `lines`.

    A line such as "Mia waves." is a shot of `chunks` chunks, "6: Mia waves." one of six. It begins
    after all queued shots. If none is queued, the film waits for the next line. A line that is no
    valid shot is reported through `tell` and skipped. `keep` is given the story after each shot.
    `DataError` after the shots that came, where the lines cannot be read to their end.
    """
    # True for each shot, then the error that ended the lines, or None at their end.
    came: queue.Queue[bool | Exception | None] = queue.Queue()

    def read() -> None:
        end: Exception | None = None
        try:
            for line in lines:
                if line.strip():
                    try:
                        _add(director, line.strip(), chunks)
                        came.put(True)
                        keep(director.story)
                    except (UsageError, DataError) as error:
                        tell(f"error: {error}")
        except OSError as error:
            end = DataError(f"the input broke off: {error}")
        except Exception as error:
            end = error
        finally:
            came.put(end)

    threading.Thread(target=read, daemon=True).start()
    while (told := came.get()) is True:
        yield from director
    if isinstance(told, Exception):
        raise told


def _add(director: Director, line: str, chunks: int) -> None:
    if line.startswith("/"):
        raise UsageError(f"{line.split()[0]} needs a desk: start with --takes or --server")
    caption, length = shot_of_line(line, chunks)
    director.add_shot(caption, chunks=length)
