"""Finds windows that another video has shown before, by the hashes and embeddings of their shots.

    hash of a shot (768 bits) -> 32 bands -> shots with an equal band -> those that differ little
    embedding of a shot, where there is one -> embedding_index.py, if the hash finds nothing

Two hashes that differ in at most 31 bits have an equal band. Bands are integers, and what is kept
is sorted: 356 bytes a shot. New shots make a segment of their own, and segments of like length are
merged. So there are few, and each shot is sorted again a few times only.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int32, UInt64

from causalcine_jax.data.video.embedding_index import Embedding, EmbeddingIndex
from causalcine_jax.data.video.embeddings import embedding_of
from causalcine_jax.data.video.filters import Reason
from causalcine_jax.data.video.manifest import Row
from causalcine_jax.data.video.windows import Window

BAND = 3  # bytes of a hash that must be equal for two shots to be compared
LEAST_SET = 48  # bits; pictures with less structure are like each other without being the same
LONGEST = 2**20  # shots of a segment that is still merged: merging needs its memory a second time

ROW_BITS, BAND_BITS = 32, 8 * BAND


@dataclass(frozen=True)
class _Segment:
    """Shots that were added one after another.

    hashes  of every shot
    videos  their numbers
    keys    of every band of every shot, sorted: place of the band, its bits, row of the shot
    """

    hashes: UInt64[np.ndarray, "n words"]
    videos: Int32[np.ndarray, " n"]
    keys: UInt64[np.ndarray, " k"]

    def followed_by(self, other: "_Segment") -> "_Segment":
        moved = other.keys + np.uint64(len(self.videos))
        keys = np.concatenate([self.keys, moved])
        keys.sort(kind="stable")  # merges what is sorted already
        return _Segment(
            np.concatenate([self.hashes, other.hashes]),
            np.concatenate([self.videos, other.videos]),
            keys,
        )

    def first_like(self, value: UInt64[np.ndarray, " words"], video: int, most: int) -> int | None:
        """The video of the first shot of another one that differs in at most `most` bits."""
        bands = _bands(value[None])
        low = np.searchsorted(self.keys, bands)
        high = np.searchsorted(self.keys, bands + np.uint64(1 << ROW_BITS))
        found = [self.keys[a:b] for a, b in zip(low, high) if a < b]
        if not found:
            return None
        rows = np.unique(np.concatenate(found) & np.uint64((1 << ROW_BITS) - 1)).astype(np.int64)
        rows = rows[self.videos[rows] != video]
        differing = np.bitwise_count(self.hashes[rows] ^ value).sum(-1, dtype=np.int32)
        like = rows[differing <= most]
        return int(self.videos[like[0]]) if len(like) else None


class Duplicates:
    """Finds shots that another video has shown before.

    Two shots of one video may look alike, as when a film returns to a place: those are not
    compared. Nor are pictures with little structure, by their embeddings as by their hashes.

    Args:
      most_bits: two hashes that differ in as many or fewer are of the same shot; -1 compares none.
      least_cosine: of two embeddings of the same shot; None compares none.
    """

    def __init__(self, most_bits: int, least_cosine: float | None = None):
        self._most = most_bits
        self._segments: list[_Segment] = []
        self._embeddings = None if least_cosine is None else EmbeddingIndex(least_cosine)
        self._embedded = _Embedded(-1, {}, {})
        self._numbers: dict[str, int] = {}
        self._videos: list[str] = []

    def reason(
        self, window: Window, shots: Sequence[Row], names: Mapping[str, str]
    ) -> Reason | None:
        """Why a window is dropped: half of it was in another video. Else its shots are kept.

        Args:
          window: to be judged.
          shots: of its video, as scan.py has them.
          names: of videos by sha256.
        """
        if self._most < 0 and self._embeddings is None:
            return None
        number = self._number(window.sha256)
        hashes = {piece.shot: _hash_of(shots[piece.shot]) for piece in window.pieces}
        embedded = self._of_video(number, shots)
        seen, by_hash, cosines = Counter[int](), False, []
        for piece in window.pieces:
            value, frames = hashes[piece.shot], piece.stop - piece.first
            other = None if value is None else self._seen_in(value, number)
            if other is not None:
                by_hash = True
            elif piece.shot in embedded.found:
                other, cosine = embedded.found[piece.shot]
                cosines.append(cosine)
            if other is not None:
                seen[other] += frames
        if 2 * sum(seen.values()) >= window.frames:
            ((video, count),) = seen.most_common(1)
            how = ["hash"] if by_hash else []
            if cosines:
                how.append(f"embedding (cosine {min(cosines):.3f} or more)")
            of = f"{count} of {window.frames} frames are in {names[self._videos[video]]}"
            return "near duplicate", f"{of}, by {' and '.join(how)}"
        self._add([value for value in hashes.values() if value is not None], number)
        if self._embeddings is not None:
            for shot in sorted(hashes.keys() & embedded.shots.keys()):
                self._embeddings.add(embedded.shots[shot], number)
        return None

    def _of_video(self, video: int, shots: Sequence[Row]) -> "_Embedded":
        """The embeddings of a video's shots, compared once for all of its windows."""
        if self._embeddings is not None and self._embedded.video != video:
            told = {
                number: embedding
                for number, shot in enumerate(shots)
                if _hash_of(shot) is not None and (embedding := embedding_of(shot)) is not None
            }
            self._embedded = _Embedded(video, told, self._embeddings.first_like(told, video))
        return self._embedded

    def _number(self, video: str) -> int:
        if video not in self._numbers:
            self._numbers[video] = len(self._videos)
            self._videos.append(video)
        return self._numbers[video]

    def _seen_in(self, value: np.ndarray, video: int) -> int | None:
        for segment in self._segments:
            found = segment.first_like(value, video, self._most)
            if found is not None:
                return found
        return None

    def _add(self, values: list[np.ndarray], video: int) -> None:
        if not values or self._most < 0:
            return
        hashes = np.stack(values)
        keys = np.sort(_bands(hashes))
        new = _Segment(hashes, np.full(len(values), video, np.int32), keys)
        while self._segments and _merged(len(self._segments[-1].videos), len(new.videos)):
            new = self._segments.pop().followed_by(new)
        self._segments.append(new)


@dataclass(frozen=True)
class _Embedded:
    """A video's shots by their numbers: embeddings, and the other video that has one like it."""

    video: int
    shots: Mapping[int, Embedding]
    found: Mapping[int, tuple[int, float]]


def _merged(before: int, new: int) -> bool:
    return before < 2 * new and before + new <= LONGEST


def _hash_of(shot: Row) -> UInt64[np.ndarray, " words"] | None:
    value = np.frombuffer(bytes.fromhex("".join(shot["hashes"])), np.uint64)
    return value if np.bitwise_count(value).sum() >= LEAST_SET else None


def _bands(hashes: UInt64[np.ndarray, "n words"]) -> UInt64[np.ndarray, " k"]:
    """The keys of n hashes. Bands of one bit repeated say nothing, and have none."""
    data = np.ascontiguousarray(hashes).view(np.uint8).reshape(len(hashes), -1, BAND)
    data = data.astype(np.uint64)
    bits = sum(data[..., n] << np.uint64(8 * n) for n in range(BAND))
    place = np.arange(data.shape[1], dtype=np.uint64) << np.uint64(BAND_BITS + ROW_BITS)
    row = np.arange(len(hashes), dtype=np.uint64)[:, None]
    keys = place | bits << np.uint64(ROW_BITS) | row
    return keys[(bits != 0) & (bits != (1 << BAND_BITS) - 1)]
