"""Shots that another video has shown before: found as by comparing all, in little memory."""

import base64
from pathlib import Path

import numpy as np
import pytest

from causalcine_jax.data.video import duplicates
from causalcine_jax.data.video.captioning import Film, SourceVideo
from causalcine_jax.data.video.duplicates import near_duplicates
from causalcine_jax.data.video.windows import Piece, Window

MOST, SHOTS, BYTES, LEAST = 24, 5, 96, 0.9


def row(value: np.ndarray, embedding: np.ndarray | None = None) -> dict:
    own = {"hashes": [value[n : n + 32].tobytes().hex() for n in (0, 32, 64)]}
    if embedding is not None:
        own["embedding"] = base64.b64encode(embedding.tobytes()).decode()
    return own


def film(window: Window, rows: list[dict]) -> Film:
    """A window whose video is called as its sha256 is, and has these shots."""
    video = SourceVideo(Path(window.sha256), window.sha256, {"sha256": window.sha256}, None, {})
    video.scan["shots"] = rows
    return Film(video, window)


def windows(count: int, seed: int) -> list[tuple[Window, list[np.ndarray]]]:
    """Windows, two of each video. Half of their shots are earlier ones with some bits changed."""
    rng = np.random.default_rng(seed)
    made, known = [], []
    for number in range(count):
        values = []
        for _ in range(SHOTS):
            if known and rng.random() < 0.5:
                bits = np.unpackbits(known[rng.integers(len(known))])
                bits[rng.choice(bits.size, rng.integers(40), replace=False)] ^= 1
                values.append(np.packbits(bits))
            else:
                bits = rng.random(8 * BYTES) < rng.choice([0.03, 0.1, 0.5])
                bits[: 8 * rng.integers(40)] = rng.random() < 0.5  # bands that say nothing
                values.append(np.packbits(bits))
        known += values
        lengths = rng.integers(9, 60, SHOTS)
        pieces = tuple(Piece(n, 100 * n, 100 * n + int(k), 1) for n, k in enumerate(lengths))
        made.append((Window(f"video {number // 2}", pieces), values))
    return made


def embeddings(told: list[tuple[Window, list[np.ndarray]]]) -> list[list[np.ndarray | None]]:
    """Of every shot, like some other ones; some shots have none."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((60, 16))

    def one() -> np.ndarray | None:
        vector = centres[rng.integers(60)] + 0.3 * rng.standard_normal(16)
        return (vector / np.linalg.norm(vector)).astype("<f2") if rng.random() < 0.8 else None

    return [[one() for _ in values] for _, values in told]


def structured(value: np.ndarray) -> bool:
    return np.bitwise_count(value).sum() >= duplicates.LEAST_SET


def alike(value: np.ndarray, other: np.ndarray) -> bool:
    if np.bitwise_count(value ^ other).sum() > MOST:
        return False
    bands = zip(value.reshape(-1, 3), other.reshape(-1, 3))
    return any((a == b).all() and (a.any() and (a < 255).any()) for a, b in bands)


def compared_with_all(
    told: list[tuple[Window, list[np.ndarray]]], vectors: list[list[np.ndarray | None]]
) -> list[tuple[str, set[str]] | None]:
    """The video that every window is dropped for and what says so, by comparing all shots."""
    added: list[tuple[str, np.ndarray, np.ndarray | None]] = []
    found: list[tuple[str, set[str]] | None] = []

    def same(video: str, value: np.ndarray, vector: np.ndarray | None) -> tuple[str, str] | None:
        others = [(v, old, own) for v, old, own in added if v != video]
        for other, old, _ in others:
            if alike(value, old):
                return other, "hash"
        for other, _, own in others if vector is not None else []:
            if own is not None and vector.astype(float) @ own.astype(float) >= LEAST:
                return other, "embedding"
        return None

    for (window, values), own in zip(told, vectors):
        seen: dict[str, int] = {}
        how = set()
        for piece, value, vector in zip(window.pieces, values, own):
            if structured(value) and (other := same(window.sha256, value, vector)):
                seen[other[0]] = seen.get(other[0], 0) + piece.stop - piece.first
                how.add(other[1])
        if 2 * sum(seen.values()) >= window.frames:
            found.append((max(seen.items(), key=lambda item: item[1])[0], how))
            continue
        found.append(None)
        kept = zip(values, own)
        added += [(window.sha256, value, vector) for value, vector in kept if structured(value)]
    return found


@pytest.mark.parametrize("embedded", [False, True])
def test_the_same_windows_are_dropped_as_by_comparing_all_shots(monkeypatch, embedded):
    monkeypatch.setattr(duplicates, "BLOCK", 16)
    told = windows(120, seed=0)
    vectors = embeddings(told) if embedded else [[None] * SHOTS for _ in told]
    expected = compared_with_all(told, vectors)
    films = [
        film(window, list(map(row, values, own))) for (window, values), own in zip(told, vectors)
    ]
    reasons = list(near_duplicates(films, MOST, LEAST if embedded else None))
    found = [
        reason
        and (
            reason[1].split(" are in ")[1].split(",")[0],
            {how for how in ("hash", "embedding") if how in reason[1].split(", by ")[1]},
        )
        for reason in reasons
    ]
    assert found == expected
    assert 10 < sum(reason is not None for reason in found) < 100
    by = [how for reason in found if reason for how in reason[1]]
    assert by.count("hash") > 10 and (by.count("embedding") > 3) == embedded


def test_the_index_takes_some_hundred_bytes_a_shot():
    rng = np.random.default_rng(1)
    shots = [row(rng.integers(0, 256, BYTES, np.uint8)) for _ in range(5000)]
    index = duplicates._Index(shots, MOST, None)
    taken = index.hashes.nbytes + index.keys.base.nbytes + index.kept.nbytes
    assert 4900 * 352 <= taken <= 353 * 5000


def test_no_comparison_is_made_where_none_is_asked_for():
    value = np.full(BYTES, 85, np.uint8)
    films = [film(Window(video, (Piece(0, 0, 9, 1),)), [row(value)]) for video in "ab"]
    assert list(near_duplicates(films, -1)) == [None, None]
    assert list(near_duplicates(films, 0))[1] is not None
    assert list(near_duplicates([], MOST, LEAST)) == []
