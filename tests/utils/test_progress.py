"""What long work shows: how much is done and how long the rest takes."""

import numpy as np

from causalcine_jax.film.chunk import Chunk
from causalcine_jax.film_folder.filming import _ProgressLine
from causalcine_jax.story import Shot, Story
from causalcine_jax.utils.progress import progress_bar, time_left


def test_a_bar_counts_what_was_there_and_says_the_time_left(capsys):
    with progress_bar(8, "film", "encode", done=2) as bar:
        bar.update(6)
    first, last = capsys.readouterr().err.strip().split("\r")
    assert first.startswith("encode:  25%|") and " 2/8 [00:00, ETA ?" in first
    assert last.startswith("encode: 100%|") and " 8/8 [00:00, ETA 00:00, " in last


def test_a_bar_may_run_over_an_iterable_and_may_be_silent(capsys):
    assert list(progress_bar(3, "step", over=range(3))) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err
    assert list(progress_bar(3, "step", over=range(3), shown=False)) == [0, 1, 2]
    assert capsys.readouterr().err == ""


def test_the_time_left():
    assert time_left(65) == "ETA 01:05" and time_left(3661) == "ETA 1:01:01"


def test_a_films_line_counts_from_one_and_leaves_out_what_compiles(capsys):
    story = Story((Shot("A.", chunks=2, id="a"), Shot("B.", chunks=4, id="b"))).resolve()
    line = _ProgressLine(story)
    laps = [{"commit": 1.0}, {"denoise": 50.0}, {"denoise": 3.0}, {"denoise": 5.0}] + [
        {"denoise": 3.0, "decode": 1.0}
    ] * 2
    for index, seconds in enumerate(laps):
        shot = story.shots[index >= 2]
        frames, retrieved = np.zeros((12, 1, 1, 3), np.uint8), np.zeros((1, 0), np.int32)
        line.show(Chunk(frames, index, shot, retrieved, seconds))
    assert capsys.readouterr().err.splitlines() == [
        "chunk 1/6  shot 1/2 a  12.0 fps",
        "chunk 2/6  shot 1/2 a  0.5 fps",
        "chunk 3/6  shot 2/2 b  0.7 fps  ETA 00:09",
        "chunk 4/6  shot 2/2 b  0.8 fps  ETA 00:08",
        "chunk 5/6  shot 2/2 b  0.8 fps  ETA 00:04",
        "chunk 6/6  shot 2/2 b  3.0 fps",
    ]
