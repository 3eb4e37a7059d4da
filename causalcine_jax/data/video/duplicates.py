"""Finds windows that another video has shown before, by the hashes and embeddings of their shots.

    hash of a shot (768 bits) -> 32 bands -> shots with an equal band -> those that differ little
    embedding of a shot, where there is one -> embedding_index.py, if the hash finds nothing

All windows are known before the first is judged, so the index is made once. Then it is only
marked which of its shots are in kept windows. Two hashes that differ in at most 31 bits have an
equal band. Bands are integers, sorted: with its hash a shot takes some 370 bytes.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

import numpy as np
from jaxtyping import UInt64

from causalcine_jax.data.pool import Reason
from causalcine_jax.data.video.captioning import Film
from causalcine_jax.data.video.embedding_index import Embedding, EmbeddingIndex
from causalcine_jax.data.video.embeddings import embedding_of
from causalcine_jax.data.video.manifest import Row
from causalcine_jax.data.video.windows import Piece, Window

WORDS = 12  # of 64 bits: a shot's three hashes
BAND = 3  # bytes of a hash that must be equal for two shots to be compared
LEAST_SET = 48  # bits; pictures with less structure are like each other without being the same
BLOCK = 1024  # shots whose bands are made at once

ROW_BITS, BAND_BITS = 32, 8 * BAND


def near_duplicates(
    films: Sequence[Film], most_bits: int, least_cosine: float | None = None
) -> Iterator[Reason | None]:
    """Yields why each window is dropped: half of it is in kept windows before; None if it is kept.

    Two shots of one video may look alike, as when a film returns to a place: those are not
    compared. Nor are pictures with little structure, by their embeddings as by their hashes.

    Args:
      films: without captions; those of a video follow each other.
      most_bits: two hashes that differ in as many or fewer are of the same shot; -1 compares none.
      least_cosine: of two embeddings of the same shot; None compares none.
    """
    if most_bits < 0 and least_cosine is None:
        yield from [None] * len(films)
        return
    films_of = [film for film in films for _ in film.window.pieces]
    index = _Index(
        [film.video.scan["shots"][piece.shot] for film in films for piece in film.window.pieces],
        most_bits,
        least_cosine,
    )
    start = 0
    for _, group in groupby(films, key=lambda film: film.video.sha256):
        of_video = list(group)
        stop = start + sum(len(film.window.pieces) for film in of_video)
        same = index.same(range(start, stop))
        good: list[int] = []
        for film in of_video:
            rows = range(start, start + len(film.window.pieces))
            start = rows.stop
            found = [
                (piece, films_of[same[row][0]].video.name, same[row][1])
                for row, piece in zip(rows, film.window.pieces)
                if row in same
            ]
            reason = _reason(film.window, found)
            if reason is None:
                good += rows
            yield reason
        index.kept[good] = True


def _reason(window: Window, found: Sequence[tuple[Piece, str, float | None]]) -> Reason | None:
    """Args: pieces that are in another video, its name, the cosine if embeddings say so."""
    seen = Counter[str]()
    for piece, name, _ in found:
        seen[name] += piece.stop - piece.first
    if 2 * sum(seen.values()) < window.frames:
        return None
    ((name, count),) = seen.most_common(1)
    cosines = [cosine for *_, cosine in found if cosine is not None]
    how = ["hash"] if len(cosines) < len(found) else []
    if cosines:
        how.append(f"embedding (cosine {min(cosines):.3f} or more)")
    of = f"{count} of {window.frames} frames are in {name}"
    return "near duplicate", f"{of}, by {' and '.join(how)}"


class _Index:
    """All shots, one a row.

    hashes  zero for pictures with little structure
    keys    of every band of every shot, sorted: place of the band, its bits, row of the shot
    kept    which rows are compared with
    """

    def __init__(self, shots: Sequence[Row], most_bits: int, least_cosine: float | None):
        self._shots, self._most = shots, most_bits
        self.kept = np.zeros(len(shots), bool)
        self.hashes = np.zeros((len(shots), WORDS), np.uint64)
        for row, shot in enumerate(shots):
            value = np.frombuffer(bytes.fromhex("".join(shot["hashes"])), np.uint64)
            if np.bitwise_count(value).sum() >= LEAST_SET:
                self.hashes[row] = value
        self.keys = _keys(self.hashes) if most_bits >= 0 else np.empty(0, np.uint64)
        self._embeddings = None
        if least_cosine is not None:
            self._embeddings = EmbeddingIndex(map(self._embedding, range(len(shots))), least_cosine)

    def same(self, rows: Iterable[int]) -> dict[int, tuple[int, float | None]]:
        """The first kept row that is the same shot as each of `rows`.

        The cosine is beside it where only embeddings say so. Rows like none are left out.
        """
        found: dict[int, tuple[int, float | None]] = {}
        asked: dict[int, Embedding] = {}
        for row in rows:
            other = self._first_like(self.hashes[row])
            if other is not None:
                found[row] = other, None
            elif self._embeddings and (embedding := self._embedding(row)) is not None:
                asked[row] = embedding
        return found | (self._embeddings.first_like(asked, self.kept) if self._embeddings else {})

    def _embedding(self, row: int) -> Embedding | None:
        return embedding_of(self._shots[row]) if self.hashes[row].any() else None

    def _first_like(self, value: UInt64[np.ndarray, " words"]) -> int | None:
        bands = _bands(value[None])
        low = np.searchsorted(self.keys, bands)
        high = np.searchsorted(self.keys, bands + np.uint64(1 << ROW_BITS))
        found = [self.keys[a:b] for a, b in zip(low, high) if a < b]
        if not found:
            return None
        rows = (np.concatenate(found) & np.uint64((1 << ROW_BITS) - 1)).astype(np.int64)
        rows = np.unique(rows[self.kept[rows]])
        differing = np.bitwise_count(self.hashes[rows] ^ value).sum(-1, dtype=np.int32)
        like = rows[differing <= self._most]
        return int(like[0]) if len(like) else None


def _keys(hashes: UInt64[np.ndarray, "n words"]) -> UInt64[np.ndarray, " k"]:
    """All bands of all shots, sorted. They are made in blocks, so nothing is twice in memory."""
    keys, count = np.empty(hashes.nbytes // BAND, np.uint64), 0
    for first in range(0, len(hashes), BLOCK):
        own = _bands(hashes[first : first + BLOCK], first)
        keys[count : count + len(own)] = own
        count += len(own)
    keys = keys[:count]
    keys.sort()
    return keys


def _bands(hashes: UInt64[np.ndarray, "n words"], first: int = 0) -> UInt64[np.ndarray, " k"]:
    """The keys of rows from `first` on. Bands of one bit repeated say nothing, and have none."""
    data = hashes.view(np.uint8).reshape(len(hashes), -1, BAND).astype(np.uint64)
    bits = sum(data[..., n] << np.uint64(8 * n) for n in range(BAND))
    place = np.arange(data.shape[1], dtype=np.uint64) << np.uint64(BAND_BITS + ROW_BITS)
    row = np.arange(first, first + len(hashes), dtype=np.uint64)[:, None]
    keys = place | bits << np.uint64(ROW_BITS) | row
    return keys[(bits != 0) & (bits != (1 << BAND_BITS) - 1)]
