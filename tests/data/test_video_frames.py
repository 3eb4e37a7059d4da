"""Videos as they come: rates, rotation, odd sizes, ten bits; shots stay pure wherever one reads."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import (
    COLOURS,
    colour_detector,
    colour_of,
    rotate,
    shot_pictures,
    write_video,
)

from causalcine_jax.clock import first_frame_of_chunk
from causalcine_jax.data.video.captions import Cuts
from causalcine_jax.data.video.frames import Clock, read
from causalcine_jax.data.video.scan import scan
from causalcine_jax.data.video.windows import chunks_kept, longest_that_keeps, windows_of
from causalcine_jax.errors import DataError, UsageError

SIZE = 16, 32
LENGTHS = (50, 37, 9, 80, 61, 24)


def variable(count: int, seed: int = 0) -> np.ndarray:
    """Times of frames between 8 and 60 per second."""
    gaps = np.random.default_rng(seed).uniform(1 / 60, 1 / 8, count)
    return np.concatenate([[0], np.cumsum(gaps)[:-1]])


VIDEOS = {
    "24 per second": {"fps": 24},
    "29.97 per second": {"fps": Fraction(30000, 1001)},
    "60 per second": {"fps": 60},
    "5 per second": {"fps": 5},
    "b-frames, open groups": {
        "fps": 25,
        "options": {"crf": "12", "x264-params": "open-gop=1:keyint=20:bframes=3"},
    },
    "vp9": {"fps": 30, "codec": "libvpx-vp9", "options": {"crf": "20", "cpu-used": "8"}},
    "mpeg4": {"fps": 25, "codec": "mpeg4", "options": {"b": "900k"}},
    "10 bits": {
        "fps": 24,
        "codec": "libx265",
        "pix_fmt": "yuv420p10le",
        "options": {"x265-params": "log-level=none:crf=12"},
    },
    "4:4:4": {"fps": 24, "pix_fmt": "yuv444p"},
    "variable": {"seconds": variable(sum(LENGTHS))},
}  # fmt: skip


def chunks_with_their_shots(file, lengths, seed, of_windows) -> list[bool]:
    """Writes a video of shots of `lengths` frames. Returns whether each chunk shows its shot alone.

    `of_windows` are chunks of a window; at last all of its shots must be found.
    """
    path, options = file
    frames, colours = shot_pictures(lengths, seed=seed)
    video = write_video(path, frames, **options)
    row = scan(video, colour_detector)
    assert len(row["shots"]) == len(lengths)
    shots = [(shot["first"], shot["stop"]) for shot in row["shots"]]
    clock = Clock.from_row(row["clock"])
    assert clock.searched
    numbers = [int((colour == COLOURS).all(-1).argmax()) for colour in colours]
    pure = []
    for window in windows_of("film", shots, [True] * len(shots), of_windows, 3).whole:
        seen = colour_of(np.stack(list(read(video, clock, window.ranges, *SIZE))))
        assert len(seen) == first_frame_of_chunk(window.chunks)
        for chunk, piece in enumerate(window.shot_of_chunk()):
            held = seen[first_frame_of_chunk(chunk) : first_frame_of_chunk(chunk + 1)]
            pure.append(set(held) == {numbers[window.pieces[piece].shot]})
    return pure


@pytest.mark.parametrize("name", VIDEOS)
def test_no_chunk_holds_a_frame_of_another_shot(tmp_path, name):
    """Chunk purity on pixels is 1: every chunk's frames are of the shot that it belongs to."""
    pure = chunks_with_their_shots((tmp_path / "a.mkv", VIDEOS[name]), LENGTHS, 0, [2])
    assert pure and all(pure)


@pytest.mark.slow
def test_the_chunks_of_two_hundred_films_are_pure(tmp_path):
    """The cuts are known: each shot has another colour. Rates and codecs take turns."""
    rng, pure = np.random.default_rng(0), []
    for number in range(200):
        options = [*VIDEOS.values()][number % len(VIDEOS)]
        lengths = rng.integers(9, 60, rng.integers(2, 6)).tolist()
        if "seconds" in options:
            options = {"seconds": variable(sum(lengths), number)}
        file = tmp_path / f"{number}.mkv", options
        pure += chunks_with_their_shots(file, lengths, number, [5, 2, 1])
    print(f"{sum(pure)} of {len(pure)} chunks of 200 films are pure")
    assert all(pure) and len(pure) > 1000


@pytest.mark.parametrize("name", ["b-frames, open groups", "vp9", "mpeg4", "variable"])
def test_reading_from_the_middle_is_reading_from_the_beginning(tmp_path, name, monkeypatch):
    monkeypatch.setattr("causalcine_jax.data.video.frames.LONGEST_FRAME", 2)
    frames, _ = shot_pictures(LENGTHS)
    file = write_video(tmp_path / "a.mkv", frames, **VIDEOS[name])
    row = scan(file, colour_detector)
    searched = Clock.from_row(row["clock"])
    whole = list(read(file, Clock(searched.start, False), [(0, row["frames"])], *SIZE))
    for first in range(0, row["frames"] - 3, 7):
        part = list(read(file, searched, [(first, first + 2)], *SIZE))
        np.testing.assert_array_equal(part, whole[first : first + 2])


def numbered(path, **options) -> tuple[np.ndarray, int]:
    """Writes 40 frames, each as bright as its number; returns which are read, and the scan's count.

    They are read from the beginning, and each one again by itself.
    """
    grey = np.broadcast_to(6 * np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 16, 32, 3))
    file = write_video(path, grey, **options)
    row = scan(file, None, Cuts((0,)))
    clock, count = Clock.from_row(row["clock"]), row["frames"]
    pictures = list(read(file, clock, [(0, count)], *SIZE))
    for number in range(0, count, 3):
        (alone,) = read(file, clock, [(number, number + 1)], *SIZE)
        np.testing.assert_array_equal(alone, pictures[number])
    numbers = np.stack(pictures).mean((1, 2, 3)) / 6
    np.testing.assert_allclose(numbers, np.round(numbers), atol=0.4)
    return np.round(numbers).astype(int), count


@pytest.mark.parametrize("times", [variable(40, seed=1), np.arange(40) * 1001 / 24000])
def test_a_frame_is_what_is_on_screen_at_its_time(tmp_path, times):
    """But for half a millisecond, by which the file may round."""
    shown, count = numbered(tmp_path / "a.mkv", seconds=times)
    half_milliseconds = 2 * np.round(1000 * times).astype(int) - 1
    on_screen = np.searchsorted(half_milliseconds, np.arange(count) * 125, side="right") - 1
    assert shown.tolist() == on_screen.tolist()


@pytest.mark.parametrize("fps", [16, 24, 30])
def test_a_rate_loses_no_frame_where_the_file_rounds_its_times(tmp_path, fps):
    rounded, count = numbered(tmp_path / "a.mkv", fps=fps)
    exact, counted = numbered(tmp_path / "a.mp4", fps=fps)
    assert rounded.tolist() == exact.tolist() and count == counted
    assert exact.tolist() == [int(number * fps / 16) for number in range(count)]


def test_turned_and_stretched_videos_are_shown_as_players_do(tmp_path):
    image = np.full((12, 48, 64, 3), 40, np.uint8)
    image[:, :, 32:] = 220  # the right half of the file
    turned = rotate(write_video(tmp_path / "turned.mp4", image))
    clock = Clock.from_row(scan(turned, None, Cuts((0,)))["clock"])
    (shown,) = read(turned, clock, [(5, 6)], 32, 24)
    assert shown[4].mean() < 60 and shown[-4].mean() > 200  # the file's right is below
    wide = write_video(tmp_path / "wide.mp4", image, aspect=2)
    (shown,) = read(wide, clock, [(5, 6)], 24, 64)  # shown 8:3, as it is cut: nothing is lost
    assert shown[:, 4].mean() < 60 and shown[:, -4].mean() > 200


def test_high_dynamic_range_is_refused_by_name(tmp_path):
    frames, _ = shot_pictures([12])
    file = write_video(tmp_path / "a.mp4", frames, transfer=16)
    with pytest.raises(UsageError, match=r"HDR \(PQ"):
        scan(file, colour_detector)


def test_an_odd_size_and_a_gap_of_a_million_seconds(tmp_path):
    frames, _ = shot_pictures([20, 30], height=35, width=63)
    row = scan(write_video(tmp_path / "a.mp4", frames, pix_fmt="yuv444p"), colour_detector)
    assert [(s["first"], s["stop"]) for s in row["shots"]] == [(0, 20), (20, 50)]
    times = [*np.arange(49) / 16, 1e6]
    with pytest.raises(DataError, match="a frame would last 99999"):
        scan(
            write_video(tmp_path / "b.mkv", frames, pix_fmt="yuv444p", seconds=times),
            colour_detector,
        )


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 15), st.booleans()), max_size=12),
    st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
    st.integers(1, 4),
)
def test_windows_are_whole_chunks_of_following_shots(told, lengths, chunk_frames):
    lengths.sort(reverse=True)
    at, shots = 0, []
    for length, gap, _ in told:
        shots.append((at, at + length))
        at += length + gap
    kept = [good for *_, good in told]
    cut = windows_of("film", shots, kept, lengths, chunk_frames)
    whole, short = cut.whole, cut.short
    for window in whole + short:
        owners = window.shot_of_chunk()
        assert len(owners) in lengths or (window in short and len(owners) < lengths[-1])
        assert window.frames == first_frame_of_chunk(len(owners), chunk_frames)
        done = 0
        for piece, after in zip(window.pieces, [*window.pieces[1:], None]):
            first, stop = shots[piece.shot]
            assert kept[piece.shot] and first <= piece.first < piece.stop <= stop
            frames = first_frame_of_chunk(done + piece.chunks, chunk_frames)
            assert piece.stop - piece.first == frames - first_frame_of_chunk(done, chunk_frames)
            done += piece.chunks
            if after is not None:  # what is left out is less than a chunk
                assert after.shot == piece.shot + 1 and after.first == shots[after.shot][0]
                assert stop - piece.stop < 4 * chunk_frames
    apart = [window for window in whole + short if not window.overlaps]
    pieces = [piece for window in apart for piece in window.pieces]
    taken = sorted((piece.first, piece.stop) for piece in pieces)
    assert all(a[1] <= b[0] for a, b in zip(taken, taken[1:]))
    for window in set(whole) - set(apart):  # ends a run, half of it or more in no other window
        before = whole[whole.index(window) - 1]
        assert before.sha256 == window.sha256 and not before.overlaps
        last = window.pieces[-1]
        assert shots[last.shot][1] - last.stop < 4 * chunk_frames
        seen = {frame for first, stop in before.ranges for frame in range(first, stop)}
        new = [f for first, stop in window.ranges for f in range(first, stop) if f not in seen]
        assert 2 * len(new) >= window.frames - 8 * chunk_frames


@pytest.mark.parametrize(
    "lengths, ends",
    [
        ([9 + 12 * 4], [(0, 45, False)]),  # one chunk is left of five: less than half
        ([9 + 12 * 5 + 5], [(0, 45, False), (29, 74, True)]),  # two of four, to the very end
        ([45, 12, 12], [(0, 45, False), (24, 69, True)]),
        ([45, 10, 45], [(0, 45, False), (45, 91, False)]),
        ([33, 30], [(0, 45, False)]),
    ],
)
def test_a_run_ends_in_a_window_of_its_last_frames(lengths, ends):
    edges = [0, *np.cumsum(lengths).tolist()]
    shots = list(zip(edges[:-1], edges[1:]))
    cut = windows_of("film", shots, [True] * len(shots), [4], 3)
    found = [(w.pieces[0].first, w.pieces[-1].stop, w.overlaps) for w in cut.whole]
    assert found == ends


@pytest.mark.parametrize(
    "lengths, ends",
    [
        ([9 + 12 * 6], [(0, 45, 4), (45, 78, 3)]),  # seven chunks: four and three
        ([9 + 12 * 4], [(0, 45, 4)]),  # one is left: too short for any
        ([33, 30], [(0, 45, 4)]),
        ([33], [(0, 33, 3)]),
        ([21, 200, 9], [(0, 45, 4), (45, 90, 4), (90, 135, 4), (135, 180, 4), (180, 213, 3)]),
    ],
)
def test_what_is_left_of_a_run_becomes_shorter_windows(lengths, ends):
    edges = [0, *np.cumsum(lengths).tolist()]
    shots = list(zip(edges[:-1], edges[1:]))
    cut = windows_of("film", shots, [True] * len(shots), [4, 3], 3)
    assert [(w.pieces[0].first, w.pieces[-1].stop, w.chunks) for w in cut.whole] == ends
    assert sum(window.chunks for window in cut.whole + cut.short) == sum(cut.runs)


def test_a_rest_too_short_for_any_length_is_in_a_window_that_overlaps_a_longer_one():
    frames = 9 + 12 * 26
    cut = windows_of("film", [(0, frames)], [True], [20, 10], 3)
    found = [(w.pieces[0].first, w.pieces[-1].stop, w.overlaps) for w in cut.whole]
    assert found == [(0, 237, False), (frames - 117, frames, True)] and not cut.short
    assert chunks_kept({27: 1}, [20, 10]) == 27 == chunks_kept({27: 1}, [10])
    assert [chunks_kept({run: 1}, [20, 10]) for run in (24, 7, 36)] == [20, 0, 36]


def test_the_length_that_most_runs_fill():
    runs = {3: 10, 8: 5, 20: 1}  # 30, 40 and 20 chunks
    assert [chunks_kept(runs, [chunks]) for chunks in (20, 8, 5, 3, 1)] == [20, 60, 60, 90, 90]
    assert longest_that_keeps(runs, 0.75) == 3 and longest_that_keeps(runs, 0.6) == 8
    assert chunks_kept(runs, [20, 3]) == 30 + 5 * 8 + 20  # of 8 chunks, two threes and an overlap
