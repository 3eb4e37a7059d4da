"""Times of videos of a variable rate: those of their frames, their captions and their shots."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from video_files import colour_detector, shot_pictures, write_video

from causalcine_jax.data.video import probe, reading
from causalcine_jax.data.video import scan as scanning
from causalcine_jax.data.video.captioning import Film, SourceVideo, captioned
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.manifest import Manifest
from causalcine_jax.data.video.pace import NEAR, pace_of, times_of
from causalcine_jax.data.video.parts import of_part
from causalcine_jax.data.video.reading import probed, scanned
from causalcine_jax.data.video.windows import Piece, Window
from causalcine_jax.data.video.work import Work

# 20 frames at 16 a second, then 20 at 4 a second: by the mean rate frame 20 would be at 3.1 s.
SLOWER = [*(n / 16 for n in range(20)), *(1.25 + n / 4 for n in range(20))]


def test_a_pace_needs_a_knot_where_the_rate_changes():
    steady = [n / 24 for n in range(1001)]
    assert pace_of(steady) == [(0, 0.0), (1000, 41.667)]
    shaking = np.array(steady) + np.random.default_rng(0).uniform(-0.01, 0.01, 1001)
    assert len(pace_of(shaking.tolist())) == 2
    assert pace_of([*SLOWER, 6.25]) == [(0, 0.0), (20, 1.25), (40, 6.25)]
    assert times_of([0, 10, 20, 30, 40, 50], pace_of([*SLOWER, 6.25])) == pytest.approx(
        [0, 0.625, 1.25, 3.75, 6.25, 6.25]
    )


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_every_frame_is_near_its_time(lengths):
    seconds = [0.0, *np.cumsum(lengths).tolist()]
    pace = pace_of(seconds)
    assert pace[0] == (0, 0.0) and pace[-1][0] == len(lengths)
    found = times_of(range(len(seconds)), pace)
    np.testing.assert_allclose(found, seconds, atol=NEAR + 1e-3)


def test_captions_find_the_shots_of_a_detector_by_the_times_of_frames(tmp_path, monkeypatch):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", shot_pictures([20, 10, 10])[0], seconds=SLOWER)
    told = {"shot_captions": ["a", "b", "c"], "shot_cut_frames": [20, 30]}
    (folder / "a.json").write_text(json.dumps(told))
    monkeypatch.setattr(reading, "shot_detector", lambda name, weights: colour_detector)
    reading.detector_of.cache_clear()
    config = PrepareConfig(folder, tmp_path / "out", Path("model"), detector="transnet")
    work = Work(config, progress=False)
    files, captions = probe.files_of(folder, tmp_path / "out")
    (video,) = scanned(work, probed(work, of_part(work, files), captions))
    reading.detector_of.cache_clear()
    shots = [(shot["first"], shot["stop"]) for shot in video.scan["shots"]]
    assert shots[:2] == [(0, 20), (20, 60)]
    pieces = tuple(Piece(n, first, first + 9, 1) for n, (first, _) in enumerate(shots))
    film = Film(video, Window("0", pieces))
    ((found, reason),) = captioned([film], None, "", Manifest(tmp_path / "c"), (16, 32))
    assert reason is None and found.captions.shots == ("a", "b", "c")


def with_sound(path: Path, frames: np.ndarray, seconds: list[float]) -> Path:
    """Writes a video whose sound begins at 0."""
    with av.open(str(path), "w") as out:
        video, sound = out.add_stream("mpeg4", rate=16), out.add_stream("pcm_s16le", rate=8000)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        ticks = Fraction(1, 16)
        video.codec_context.time_base = video.time_base = ticks
        noise = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        noise.sample_rate, noise.pts = 8000, 0
        out.mux(sound.encode(noise))
        for image, time in zip(frames, seconds, strict=True):
            frame = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = round(time / ticks), ticks
            out.mux(video.encode(frame))
        out.mux(video.encode())
        out.mux(sound.encode())
    return path


@pytest.mark.parametrize("sound", [False, True])
def test_a_captioner_is_told_the_times_of_the_file(tmp_path, sound):
    """Frames that begin half a second after the sound are shown half a second later."""
    frames, times = shot_pictures([20, 10, 10])[0], [time + 0.5 for time in SLOWER]
    file = tmp_path / "a.mkv"
    file = with_sound(file, frames, times) if sound else write_video(file, frames, seconds=times)
    row = scanning.scan(file, colour_detector)
    pieces = tuple(Piece(n, s["first"], s["first"] + 9, 1) for n, s in enumerate(row["shots"]))
    film = Film(SourceVideo(file, "a.mkv", {"sha256": "0"}, None, row), Window("0", pieces))
    asked = []
    captioner = lambda requests: iter([asked.extend(requests)][1:])
    list(captioned([film], captioner, "", Manifest(tmp_path / "c"), (16, 32)))
    begun = 0.5 if sound else 0  # players count from whichever comes first
    starts = [begun + SLOWER[n] for n in (0, 20, 30)]
    wanted = [(start, start + 9 / 16) for start in starts]
    np.testing.assert_allclose(asked[0].shots, wanted, atol=2e-3)
