"""Black bars are cut off; what is only dark stays."""

import json

import numpy as np
import pytest
from tiny_models import tiny_folder
from video_files import rotate, write_video

from causalcine_jax.commands.prepare import summary
from causalcine_jax.data.video.bars import WHOLE, area, picture_of
from causalcine_jax.data.video.captions import Cuts
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.filters import Filters, video_reason
from causalcine_jax.data.video.frames import Clock, read
from causalcine_jax.data.video.prepare import prepare
from causalcine_jax.data.video.scan import scan

HEIGHT, WIDTH, FRAMES = 180, 320, 57
TOP, SIDE = 22, 40  # 2.35:1, and 4:3, in 16:9


def moving(height: int, width: int, count: int = FRAMES) -> np.ndarray:
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(30, 250, (-(-height // 8), -(-width // 8), 3)), np.ones((8, 8, 1)))
    image = image[:height, :width].astype(np.uint8)
    return np.stack([np.roll(image, 4 * n, 1) for n in range(count)])


def barred(top: int, side: int) -> np.ndarray:
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    inner = moving(HEIGHT - 2 * top, WIDTH - 2 * side)
    frames[:, top : HEIGHT - top, side : WIDTH - side] = inner
    return frames


@pytest.mark.parametrize("top, side", [(TOP, 0), (0, SIDE), (TOP, SIDE)])
def test_bars_are_cut_off_and_the_picture_fills_the_film(tmp_path, top, side):
    file = write_video(tmp_path / "a.mp4", barred(top, side))
    row = scan(file, None, Cuts((0,)))
    clock = Clock.from_row(row["clock"])
    found = np.array(clock.picture) * (WIDTH, HEIGHT, WIDTH, HEIGHT)
    np.testing.assert_allclose(found, (side, top, WIDTH - side, HEIGHT - top), atol=2)
    (shown,) = read(file, clock, [(20, 21)], HEIGHT - 2 * top, WIDTH - 2 * side)
    wanted = moving(HEIGHT - 2 * top, WIDTH - 2 * side)[20]
    assert np.abs(shown.astype(int) - wanted)[4:-4, 4:-4].mean() < 20
    bare = scan(write_video(tmp_path / "b.mp4", moving(HEIGHT, WIDTH)), None, Cuts((0,)))
    assert Clock.from_row(bare["clock"]).picture == WHOLE and "picture" not in bare["clock"]
    assert row["shots"][0]["luma"] == pytest.approx(bare["shots"][0]["luma"], rel=0.1)


def test_turned_videos_have_their_bars_where_they_are_seen(tmp_path):
    file = rotate(write_video(tmp_path / "a.mp4", barred(TOP, 0)))
    left, top, right, bottom = Clock.from_row(scan(file, None, Cuts((0,)))["clock"]).picture
    assert (top, bottom) == (0, 1)
    assert (left, right) == pytest.approx((TOP / HEIGHT, 1 - TOP / HEIGHT), abs=2 / HEIGHT)


def dark_edges() -> np.ndarray:
    """A vignette, in which only the middle is ever bright."""
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    return (moving(HEIGHT, WIDTH) * np.clip(1.2 - 1.5 * np.hypot(x, y), 0, 1)[..., None]).astype(
        np.uint8
    )


def speaker() -> np.ndarray:
    """A bright figure in front of black."""
    frames = np.zeros((FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    frames[:, 70:, 120:200] = 200
    frames[:, 30:70, 145:175] = 220
    return frames


def one_bright_moment() -> np.ndarray:
    frames = barred(TOP, 0)
    frames[24:40] = 180  # the picture fills the frame for a second
    return frames


@pytest.mark.parametrize(
    "frames",
    [dark_edges, speaker, one_bright_moment, lambda: 0 * barred(0, 0), lambda: barred(0, 0) // 16],
)
def test_films_that_are_dark_at_their_edges_are_not_cut(tmp_path, frames):
    row = scan(write_video(tmp_path / "a.mp4", frames()), None, Cuts((0,)))
    assert Clock.from_row(row["clock"]).picture == WHOLE


def test_a_thin_bar_counts_if_the_other_side_has_it_too():
    brightest = np.full((200, 300), 200, np.uint8)
    brightest[:2] = 0
    assert picture_of(brightest) == WHOLE
    brightest[-3:] = 5
    assert picture_of(brightest) == (0, 0.01, 1, 0.985)
    brightest[-3:], brightest[:8] = 200, 0
    assert picture_of(brightest) == (0, 0.04, 1, 1) and area((0, 0.04, 1, 1)) == 0.96


def test_filters_judge_the_picture_inside():
    video = {"width": 1920, "height": 1080}
    assert video_reason(video, WHOLE, 480, 832, Filters()) is None
    upright = 0.342, 0.0, 0.658, 1.0
    kind, words = video_reason(video, upright, 480, 832, Filters())
    assert kind == "shape" and words.startswith("607x1080: the model's shape shows 32%")


def test_a_store_of_a_letterboxed_film_says_so(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "a.mp4", barred(TOP, 0))
    told = {"shot_captions": ["Mia waves.", "Mia sleeps."], "shot_cut_frames": [24]}
    (folder / "a.json").write_text(json.dumps(told))
    model = tiny_folder(tmp_path / "tiny")
    config = PrepareConfig(
        folder, tmp_path / "out", model, latent_frames=12, detector="captions", held_out=0
    )
    made = prepare(config, progress=False)
    (line,) = (made.stores["train"].path / "films.jsonl").read_text().splitlines()
    _, top, _, bottom = json.loads(line)["picture"]
    assert top == pytest.approx(TOP / HEIGHT, abs=0.01) and bottom == pytest.approx(
        1 - top, abs=0.02
    )
    assert "1 videos have black bars, which are cut off" in summary(made.numbers)
