"""Windows: runs of consecutive shots, cut to whole chunks, each as long as a film of the store.

    frames of a video   |----- shot 1 -----|---- shot 2 ----|--- shot 3 ---|
    chunks of a window  |c0|--c1--|--c2--|  |--c3--|--c4--|  |--c5--| ...

A window's first chunk has 9 frames, later ones 12. The frames of a shot that fill no whole chunk
are left out at its end, and the pieces joined. The joined frames go through the causal VAE in one
pass, so a chunk holds frames of one shot only, and the decoder's past is the window's own.
A shot that is longer than what a window has left goes on in the next window.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.data.video.manifest import Row, content_id


@dataclass(frozen=True)
class Piece:
    """Frames [first, stop) of a video's shot number `shot`, on the model's clock: whole chunks."""

    shot: int
    first: int
    stop: int
    chunks: int


@dataclass(frozen=True)
class Window:
    """One film of the store: pieces of following shots of one video."""

    sha256: str
    pieces: tuple[Piece, ...]

    @property
    def id(self) -> str:
        return content_id("window", self.sha256, [(p.first, p.stop) for p in self.pieces])

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return [(piece.first, piece.stop) for piece in self.pieces]

    @property
    def frames(self) -> int:
        return sum(stop - first for first, stop in self.ranges)

    def shot_of_chunk(self) -> list[int]:
        return [number for number, piece in enumerate(self.pieces) for _ in range(piece.chunks)]

    def to_row(self) -> Row:
        pieces: list[dict[str, Any]] = [vars(piece) for piece in self.pieces]
        return {"id": self.id, "sha256": self.sha256, "pieces": pieces}


def windows_of(
    sha256: str,
    shots: list[tuple[int, int]],
    kept: Iterable[bool],
    chunks: int,
    chunk_frames: int,
) -> tuple[list[Window], list[Window]]:
    """Cuts a video's shots into windows.

    Args:
      sha256: of the video.
      shots: their frames [first, stop) on the model's clock, in order.
      kept: whether each may be used; a shot that may not ends the run.
      chunks: of a window.
      chunk_frames: latent frames of a chunk.

    Returns:
      The whole windows, and those that a run's end left too short.
    """
    whole: list[Window] = []
    short: list[Window] = []
    pieces: list[Piece] = []
    have = 0

    def close(into: list[Window]) -> None:
        nonlocal pieces, have
        if pieces:
            into.append(Window(sha256, tuple(pieces)))
        pieces, have = [], 0

    for number, ((first, stop), good) in enumerate(zip(shots, kept, strict=True)):
        if not good:
            close(short)
            continue
        began = first
        while True:
            taken = min(chunks - have, _chunks_in(stop - first, have, chunk_frames))
            if taken == 0:
                break
            length = _frames_of(taken, have, chunk_frames)
            pieces.append(Piece(number, first, first + length, taken))
            first, have = first + length, have + taken
            if have == chunks:
                close(whole)
        if first == began:  # shorter than a chunk: what follows it does not follow what was before
            close(short)
    close(short)
    return whole, short


def _frames_of(taken: int, have: int, chunk_frames: int) -> int:
    """Video frames of `taken` chunks after `have` others."""
    return first_frame_of_chunk(have + taken, chunk_frames) - first_frame_of_chunk(
        have, chunk_frames
    )


def _chunks_in(frames: int, have: int, chunk_frames: int) -> int:
    """Whole chunks in a number of frames, after `have` chunks."""
    taken = 0
    while _frames_of(taken + 1, have, chunk_frames) <= frames:
        taken += 1
    return taken
