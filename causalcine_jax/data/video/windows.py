"""Windows: runs of consecutive shots, cut to whole chunks, each as long as the films of a store.

    frames of a video   |----- shot 1 -----|---- shot 2 ----|--- shot 3 ---|
    chunks of a window  |c0|--c1--|--c2--|  |--c3--|--c4--|  |--c5--| ...

A window's first chunk has 9 frames, later ones 12. The frames of a shot that fill no whole chunk
are left out at its end, and the pieces joined. The joined frames go through the causal VAE in one
pass, so a chunk holds frames of one shot only, and the decoder's past is the window's own.
A shot that is longer than what a window has left goes on in the next window.

    a run of shots      |------ window ------|------ window ------|-- rest --|
                                                   |----- the last window ----|

What is left at a run's end is cut into windows of the next shorter length, where one is asked for.
After the shortest, what is left gets a window of that length which ends there, if it is at least
half of one and follows any window.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.data.video.manifest import content_id


@dataclass(frozen=True)
class Piece:
    """Frames [first, stop) of a video's shot number `shot`, on the model's clock: whole chunks."""

    shot: int
    first: int
    stop: int
    chunks: int


@dataclass(frozen=True)
class Window:
    """One film of the store: pieces of following shots of one video.

    overlaps  whether its beginning is also the end of the window before it
    """

    sha256: str
    pieces: tuple[Piece, ...]
    overlaps: bool = False

    @property
    def id(self) -> str:
        return content_id("window", self.sha256, [(p.first, p.stop) for p in self.pieces])

    @property
    def chunks(self) -> int:
        return sum(piece.chunks for piece in self.pieces)

    @property
    def ranges(self) -> list[tuple[int, int]]:
        return [(piece.first, piece.stop) for piece in self.pieces]

    @property
    def frames(self) -> int:
        return sum(stop - first for first, stop in self.ranges)

    def shot_of_chunk(self) -> list[int]:
        return [number for number, piece in enumerate(self.pieces) for _ in range(piece.chunks)]


@dataclass(frozen=True)
class Cut:
    """A video's shots, cut into windows.

    whole  the windows, in order, each of one of the lengths
    short  what is left of runs and is in no window
    runs   chunks of every run of shots that may be joined
    """

    whole: tuple[Window, ...]
    short: tuple[Window, ...]
    runs: tuple[int, ...]


def windows_of(
    sha256: str,
    shots: Sequence[tuple[int, int]],
    kept: Iterable[bool],
    lengths: Sequence[int],
    chunk_frames: int,
) -> Cut:
    """Cuts a video's shots into windows.

    Args:
      sha256: of the video.
      shots: their frames [first, stop) on the model's clock, in order.
      kept: whether each may be used; a shot that may not ends the run.
      lengths: chunks of a window, from the longest to the shortest.
      chunk_frames: latent frames of a chunk.
    """
    chunks, *shorter = lengths
    whole: list[Window] = []
    short: list[Window] = []
    runs: list[int] = []
    for run in _runs(shots, kept, chunks, chunk_frames):
        pieces = [Window(sha256, tuple(window)) for window in run]
        runs.append(sum(window.chunks for window in pieces))
        rest = pieces.pop() if runs[-1] % chunks else None
        whole += pieces
        if rest and shorter:
            left = windows_of(sha256, *_from(rest, shots), shorter, chunk_frames)
            whole += left.whole
            rest = next(iter(left.short), None)  # one run leaves one rest at most
        if rest is None:
            continue
        last = None
        if pieces and 2 * rest.chunks >= lengths[-1]:
            last = _ending_with(run, shots, lengths[-1], chunk_frames)
        if last is None:
            short.append(rest)
        else:
            whole.append(Window(sha256, last, overlaps=True))
    return Cut(tuple(whole), tuple(short), tuple(runs))


def _runs(
    shots: Sequence[tuple[int, int]], kept: Iterable[bool], chunks: int, chunk_frames: int
) -> Iterator[list[list[Piece]]]:
    """Yields every run of shots that may be joined, as the pieces of windows; the last is short."""
    windows: list[list[Piece]] = []
    have = chunks  # of the last window
    for number, ((first, stop), good) in enumerate(zip(shots, kept, strict=True)):
        began = first
        while good:
            if have == chunks:
                windows.append([])
                have = 0
            taken = min(chunks - have, _chunks_in(stop - first, have, chunk_frames))
            if taken == 0:
                break
            length = _frames_of(taken, have, chunk_frames)
            windows[-1].append(Piece(number, first, first + length, taken))
            first, have = first + length, have + taken
        if first == began:  # not kept, or shorter than a chunk: the next does not follow the last
            if whole := list(filter(None, windows)):
                yield whole
            windows, have = [], chunks
    if whole := list(filter(None, windows)):
        yield whole


def _from(
    rest: Window, shots: Sequence[tuple[int, int]]
) -> tuple[list[tuple[int, int]], list[bool]]:
    """The shots of a run's rest, from where it begins, and which of them they are."""
    first, last = rest.pieces[0], rest.pieces[-1]
    own = [first.shot <= number <= last.shot for number in range(len(shots))]
    begun = [*shots]
    begun[first.shot] = first.first, shots[first.shot][1]
    return begun, own


def _ending_with(
    run: Sequence[Sequence[Piece]],
    shots: Sequence[tuple[int, int]],
    chunks: int,
    chunk_frames: int,
) -> tuple[Piece, ...] | None:
    """The pieces of a window that ends with the run; None where its shots are too short."""
    pieces: list[Piece] = []
    missing = chunks
    for number in range(run[-1][-1].shot, run[0][0].shot - 1, -1):
        first, stop = shots[number]
        if _chunks_in(stop - first, 0, chunk_frames) >= missing:
            length = _frames_of(missing, 0, chunk_frames)
            return Piece(number, stop - length, stop, missing), *reversed(pieces)
        taken = _chunks_in(stop - first, 1, chunk_frames)
        if taken == 0:
            return None
        missing -= taken
        length = _frames_of(taken, 1, chunk_frames)
        pieces.append(Piece(number, first, first + length, taken))
    return None


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


def chunks_kept(runs: Mapping[int, int], lengths: Sequence[int]) -> int:
    """Chunks of runs that windows of these lengths hold. `runs`: how often each length occurs."""
    chunks, *shorter = lengths
    kept = 0
    for length, count in runs.items():
        lost = length % chunks
        if shorter:
            lost -= chunks_kept({lost: 1}, shorter)
        if length >= chunks and 2 * lost >= lengths[-1]:  # held by a window that overlaps
            lost = 0
        kept += count * (length - lost)
    return kept


def longest_that_keeps(runs: Mapping[int, int], share: float) -> int:
    """The most chunks of a window with which windows hold this share of all runs."""
    of_all = share * sum(length * count for length, count in runs.items())
    lengths = range(max(runs), 1, -1)
    return next((chunks for chunks in lengths if chunks_kept(runs, [chunks]) >= of_all), 1)
