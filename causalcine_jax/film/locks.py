"""The locks of a director, in the order in which they are taken."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Locks:
    """turn: someone waits for the end of a chunk. rolling: a chunk is being made.

    story: held for moments, so that shots are added while a chunk is made.
    """

    def __init__(self):
        self.turn, self.rolling, self.story = (threading.Lock() for _ in range(3))

    @contextmanager
    def between_chunks(self) -> Iterator[None]:
        """Waits until no chunk is being made, and holds the film as it is."""
        with self.turn, self.rolling, self.story:
            yield
