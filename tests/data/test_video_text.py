"""Burnt-in text: shots that show more of it than asked for are dropped."""

import json
import types
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tiny_models import tiny_folder
from video_files import write_video

from causalcine_jax.data.video import prepare, reading, text
from causalcine_jax.data.video.config import PrepareConfig
from causalcine_jax.data.video.filters import Filters
from causalcine_jax.data.video.frames import Clock
from causalcine_jax.data.video.shots import DetectedShot
from causalcine_jax.errors import UsageError

FILTERS = Filters(dark=0, static=0, duplicate_bits=-1, least_size=0, most_text=0.1)
SHOT = 57  # frames: more than a film of 12 latent frames needs


def moving(seed: int, subtitle: bool = False) -> np.ndarray:
    """A shot of moving noise, with a white band over a quarter of it where text would be."""
    rng = np.random.default_rng(seed)
    noise = np.kron(rng.integers(20, 200, (6, 12, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    frames = np.stack([np.roll(noise, 2 * n, 1) for n in range(SHOT)])
    if subtitle:
        frames[:, 36:] = 255
    return frames


@pytest.fixture
def videos(tmp_path, monkeypatch):
    """A video of three shots; the second has a subtitle."""
    two = lambda pictures: tuple(
        DetectedShot(SHOT * n, SHOT * (n + 1)) for n in range(sum(1 for _ in pictures) // SHOT)
    )
    monkeypatch.setattr(reading, "shot_detector", lambda name, weights: two)
    monkeypatch.setattr(text, "check_installed", lambda: None)
    seen = []

    def white(picture):
        seen.append(picture.shape)
        return float((picture.min(-1) > 240).mean())

    monkeypatch.setattr(text, "text_detector", lambda: white)
    reading.detector_of.cache_clear()
    folder = tmp_path / "videos"
    folder.mkdir()
    shots = [moving(0), moving(1, subtitle=True), moving(2)]
    write_video(folder / "a.mp4", np.concatenate(shots))
    (folder / "a.txt").write_text("Mia waves.")
    yield folder, seen
    reading.detector_of.cache_clear()


def run(folder, out, **options):
    options = {"latent_frames": 12, "detector": "transnet", "filters": FILTERS, **options}
    model = tiny_folder(out.parent / "model") if not (out.parent / "model").exists() else None
    asked = PrepareConfig(
        folder, out, model or out.parent / "model", held_out=0, overwrite=True, **options
    )
    return prepare.prepare(asked, progress=False)


def test_shots_with_text_are_dropped_and_no_picture_is_read_twice(videos, tmp_path):
    folder, seen = videos
    run(folder, tmp_path / "out")
    lines = (tmp_path / "out/rejects.jsonl").read_text().splitlines()
    rejects = [json.loads(line) for line in lines]
    dropped = [row for row in rejects if row["kind"] == "text"]
    assert [(row["first"], row["stop"]) for row in dropped] == [(SHOT, 2 * SHOT)]
    assert "text covers 24.0%" in dropped[0]["reason"] and "at most 10.0%" in dropped[0]["reason"]
    assert len(seen) == 6 and min(shape[0] for shape in seen) >= text.ROWS
    run(folder, tmp_path / "out")
    assert len(seen) == 6, "the second run knows them"
    run(folder, tmp_path / "out", filters=Filters(dark=0, static=0, least_size=0, most_text=0.5))
    assert len(seen) == 6 and "text" not in (tmp_path / "out/rejects.jsonl").read_text()


def test_without_the_package_the_filter_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(
        text,
        "importlib",
        types.SimpleNamespace(util=types.SimpleNamespace(find_spec=lambda name: None)),
    )
    with pytest.raises(UsageError, match=r"needs rapidocr: pip install 'causalcine_jax\[ocr\]'"):
        text.check_installed()


def test_boxes_that_overlap_count_once():
    box = np.array([[0, 0], [9, 0], [9, 4], [0, 4]])
    assert text.covered([box, box], 10, 20) == pytest.approx(0.25)
    assert text.covered([], 10, 20) == 0


def test_rapidocr_finds_a_subtitle():
    pytest.importorskip("rapidocr", reason="needs the extra ocr")
    picture = Image.new("RGB", (832, 480), (90, 120, 90))
    draw = ImageDraw.Draw(picture)
    draw.text((200, 420), "Subtitles burnt into the film", font_size=30, fill=(255, 255, 255))
    detector = text.text_detector()
    assert 0.02 < detector(np.asarray(picture)) < 0.06
    assert detector(np.full((480, 832, 3), 90, np.uint8)) == 0


def test_a_shot_too_short_for_a_frame_has_no_text(videos):
    folder, _ = videos
    scan = {"shots": [{"first": 0, "stop": SHOT}, {"first": 3 * SHOT, "stop": 3 * SHOT}]}
    video = SimpleNamespace(scan=scan)
    clock = Clock.from_row({"start": "0", "searched": False})
    shares = text._shares(folder / "a.mp4", clock, text._Find("x", video, 48, 96))
    assert shares == [0.0, 0.0]
