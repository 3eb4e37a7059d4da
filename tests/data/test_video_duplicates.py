"""Shots that another video has shown before: found as by comparing all, in little memory."""

import numpy as np
import pytest

from causalcine_jax.data.video import duplicates
from causalcine_jax.data.video.duplicates import Duplicates
from causalcine_jax.data.video.windows import Piece, Window

MOST, SHOTS, BYTES = 24, 5, 96


def row(value: np.ndarray) -> dict:
    return {"hashes": [value[n : n + 32].tobytes().hex() for n in (0, 32, 64)]}


def windows(count: int, seed: int) -> list[tuple[Window, list[np.ndarray]]]:
    """Windows of several videos. Half of their shots are earlier ones with some bits changed."""
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


def compared_with_all(told: list[tuple[Window, list[np.ndarray]]]) -> list[str | None]:
    """The video that every window is dropped for, by comparing each shot with all before it."""
    added: list[tuple[str, np.ndarray]] = []
    found: list[str | None] = []

    def alike(value, other):
        if np.bitwise_count(value ^ other).sum() > MOST:
            return False
        bands = zip(value.reshape(-1, 3), other.reshape(-1, 3))
        return any((a == b).all() and (a.any() and (a < 255).any()) for a, b in bands)

    for window, values in told:
        seen: dict[str, int] = {}
        for piece, value in zip(window.pieces, values):
            if np.bitwise_count(value).sum() < duplicates.LEAST_SET:
                continue
            others = (v for v, old in added if v != window.sha256 and alike(value, old))
            if (video := next(others, None)) is not None:
                seen[video] = seen.get(video, 0) + piece.stop - piece.first
        dropped = 2 * sum(seen.values()) >= window.frames
        found.append(max(seen.items(), key=lambda item: item[1])[0] if dropped else None)
        if not dropped:
            added += [
                (window.sha256, value)
                for value in values
                if np.bitwise_count(value).sum() >= duplicates.LEAST_SET
            ]
    return found


@pytest.mark.parametrize("longest", [2**20, 16])
def test_the_same_windows_are_dropped_as_by_comparing_all_shots(monkeypatch, longest):
    monkeypatch.setattr(duplicates, "LONGEST", longest)
    told = windows(120, seed=0)
    expected = compared_with_all(told)
    index = Duplicates(MOST)
    names = {window.sha256: window.sha256 for window, _ in told}
    found = [index.reason(window, [row(v) for v in values], names) for window, values in told]
    assert [reason and reason[1].split(" are in ")[1].split(",")[0] for reason in found] == expected
    assert 10 < sum(reason is not None for reason in found) < 100


def test_the_index_takes_some_hundred_bytes_a_shot():
    rng = np.random.default_rng(1)
    index, pieces = Duplicates(MOST), tuple(Piece(n, n, n + 1, 1) for n in range(50))
    for number in range(100):
        shots = [row(rng.integers(0, 256, BYTES, np.uint8)) for _ in pieces]
        assert index.reason(Window(str(number), pieces), shots, {}) is None
    segments = index._segments
    taken = sum(part.nbytes for segment in segments for part in vars(segment).values())
    assert sum(len(segment.videos) for segment in segments) == 5000 and len(segments) < 12
    assert taken <= 356 * 5000


def test_no_comparison_is_made_where_none_is_asked_for():
    value = np.full(BYTES, 85, np.uint8)
    index = Duplicates(-1)
    for video in "ab":
        assert index.reason(Window(video, (Piece(0, 0, 9, 1),)), [row(value)], {}) is None
