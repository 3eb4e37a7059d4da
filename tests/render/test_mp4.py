"""The film on disk: exact length, right colours, readable while it grows, never half written."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from repository import ROOT

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.render.mp4 import FilmWriter, film_bytes, read_film, viewing_scale
from causalcine_jax.serve.media import encoded, joined

FRAMES = (9, 12, 12)


def chunks(height=48, width=80, seed=0):
    """Yields smooth coloured frames whose level encodes their number."""
    rng = np.random.default_rng(seed)
    base = rng.integers(40, 200, (3,))
    ramp = np.linspace(0, 30, width)[None, None, :, None]
    start = 0
    for count in FRAMES:
        level = np.arange(start, start + count)[:, None, None, None]
        yield np.broadcast_to(base + level + ramp, (count, height, width, 3)).astype(np.uint8)
        start += count


def test_every_frame_comes_back_in_its_colours(tmp_path):
    with FilmWriter(tmp_path / "film.mp4", fps=16) as film:
        for frames in chunks():
            film.append(frames)
    read, made = read_film(tmp_path / "film.mp4"), np.concatenate(list(chunks()))
    assert read.shape == made.shape and read.dtype == np.uint8
    assert np.abs(read.astype(int) - made).mean() < 2.0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["film.mp4"]


def test_a_relative_folder_with_a_colon_is_no_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film, copy = Path("run:1/film.mp4"), Path("run:1/copy.mp4")
    with FilmWriter(film, fps=16) as writer:
        writer.append(next(chunks()))
    header, media = encoded(read_film(film), 0, 16)
    (film.parent / "header").write_bytes(header)
    (film.parent / "media").write_bytes(media)
    joined(film.parent / "header", [film.parent / "media"], copy)
    assert len(read_film(copy)) == FRAMES[0]


def test_one_film_has_one_writer(tmp_path):
    with FilmWriter(tmp_path / "film.mp4", fps=16) as film:
        film.append(next(chunks()))
        with pytest.raises(UsageError, match=r"film\.mp4 is being written by process"):
            FilmWriter(tmp_path / "film.mp4", fps=16)
        with FilmWriter(tmp_path / "other.mp4", fps=16) as other:
            other.append(next(chunks()))
    assert len(read_film(tmp_path / "film.mp4")) == FRAMES[0]
    with FilmWriter(tmp_path / "film.mp4", fps=16) as film:
        film.append(next(chunks()))


@pytest.mark.parametrize("colour", [(214, 44, 44), (44, 104, 226), (250, 208, 40), (60, 168, 72)])
def test_saturated_colours_survive(tmp_path, colour):
    with FilmWriter(tmp_path / "film.mp4", fps=16) as film:
        film.append(np.broadcast_to(np.array(colour, np.uint8), (2, 32, 32, 3)))
    assert np.abs(read_film(tmp_path / "film.mp4").astype(int) - colour).max() <= 4


def test_the_film_is_an_ordinary_mp4_with_a_keyframe_per_chunk(tmp_path):
    with FilmWriter(tmp_path / "film.mp4", fps=16, scale=2) as film:
        for frames in chunks():
            film.append(frames)
    with av.open(str(tmp_path / "film.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, stream.average_rate, stream.frames) == (
            160,
            96,
            16,
            sum(FRAMES),
        )
        assert stream.duration * stream.time_base == sum(FRAMES) / 16
        keys = [
            i
            for i, packet in enumerate(p for p in container.demux(stream) if p.dts is not None)
            if packet.is_keyframe
        ]
    assert keys == [0, 9, 21]
    content = (tmp_path / "film.mp4").read_bytes()
    assert content.index(b"mdat") < content.rindex(b"moov")  # an index of the whole, and one mdat
    assert int.from_bytes(content[36:40]) == content.rindex(b"moov") - 4 - 36


def test_the_growing_film_is_readable_after_every_chunk(tmp_path):
    done = 0
    with FilmWriter(tmp_path / "film.mp4", fps=16) as film:
        for frames in chunks():
            film.append(frames)
            done += len(frames)
            # The muxer delays the newest frame until it knows the frame's duration.
            assert len(read_film(film.part)) >= done - 1
            assert not film.path.exists()


def test_an_error_leaves_the_film_so_far_and_spares_an_older_one(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"older")
    with (
        pytest.raises(RuntimeError, match="model broke"),
        FilmWriter(tmp_path / "film.mp4", fps=16) as film,
    ):
        film.append(next(chunks()))
        raise RuntimeError("model broke")
    assert (tmp_path / "film.mp4").read_bytes() == b"older"
    assert film.playable_frames == len(read_film(tmp_path / "film.unfinished.mp4")) == FRAMES[0]


def test_an_error_before_the_first_frame_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), FilmWriter(tmp_path / "film.mp4", fps=16) as film:
        raise RuntimeError("model broke")
    assert film.playable_frames == 0 and not list(tmp_path.iterdir())


def test_a_killed_process_leaves_the_film_so_far(tmp_path):
    script = (
        "import os, numpy as np\n"
        "from causalcine_jax.render.mp4 import FilmWriter\n"
        "with FilmWriter('film.mp4', fps=16) as film:\n"
        "    for level in (50, 100, 150):\n"
        "        film.append(np.full((12, 32, 32, 3), level, np.uint8))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment)
    there = sorted(p.name for p in tmp_path.iterdir())
    assert done.returncode == -9 and there == [".film.mp4.lock", "film.unfinished.mp4"]
    assert len(read_film(tmp_path / "film.unfinished.mp4")) >= 35  # the muxer delays the newest
    with FilmWriter(tmp_path / "film.mp4", fps=16) as film:  # the lock died with its holder
        film.append(next(chunks()))
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize("limit", [40_000, 83_000, 121_000])
def test_a_full_disk_is_one_clear_error_and_leaves_what_was_written(tmp_path, limit):
    noise = np.random.default_rng(0).integers(0, 256, (24, 96, 160, 3), dtype=np.uint8)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with (
            pytest.raises(DataError, match=r"cannot write .*film\.mp4"),
            FilmWriter(tmp_path / "film.mp4", fps=16) as film,
        ):
            film.append(noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["film.unfinished.mp4"]
    assert film.playable_frames == len(read_film(film.part)) > 0


def test_a_film_takes_no_more_room_than_estimated(tmp_path):
    rng = np.random.default_rng(0)
    ramp = np.linspace(40, 200, 416)[None, None, :, None]
    grain = np.clip(ramp + rng.normal(0, 8, (12, 240, 416, 3)), 0, 255).astype(np.uint8)
    with FilmWriter(tmp_path / "film.mp4", fps=16) as film:
        film.append(grain)
    size = film.path.stat().st_size
    assert 0.3 < size / film_bytes(12, 240, 416) < 1
    assert film_bytes(12, 120, 208, 2) == film_bytes(12, 240, 416)


def test_what_cannot_be_a_film(tmp_path):
    with (
        pytest.raises(UsageError, match="at least one frame"),
        FilmWriter(tmp_path / "film.mp4", fps=16),
    ):
        pass
    with (
        pytest.raises(UsageError, match="80x48 cannot go on with frames of 80x32"),
        FilmWriter(tmp_path / "film.mp4", fps=16) as film,
    ):
        film.append(np.zeros((1, 48, 80, 3), np.uint8))
        film.append(np.zeros((1, 32, 80, 3), np.uint8))
    (tmp_path / "broken.mp4").write_bytes(b"no film at all")
    with pytest.raises(DataError, match=r"broken\.mp4 cannot be read as a film"):
        read_film(tmp_path / "broken.mp4")
    with pytest.raises(DataError, match="cannot be read"):
        read_film(tmp_path / "missing.mp4")


def test_viewing_scale():
    assert [viewing_scale(h) for h in (48, 96, 384, 480)] == [8, 4, 1, 1]
