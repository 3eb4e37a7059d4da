"""A film that starts from a picture or a clip: what is read, how it is filmed, and refusals."""

import numpy as np
import pytest
from PIL import Image
from tiny_models import SIZE, tiny_folder, tiny_model

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film.director import Director
from causalcine_jax.film_folder.choices import Choices
from causalcine_jax.film_folder.generate import generate
from causalcine_jax.film_folder.record import Recipe, read_recipe
from causalcine_jax.film_folder.start import (
    Start,
    chosen_start,
    encode,
    opening,
    read_frames,
    without_start,
)
from causalcine_jax.render.clip import LONGEST
from causalcine_jax.render.mp4 import FilmWriter
from causalcine_jax.story import Shot, Story

LENGTHS = 9, 12
STORY = Story((Shot("Otto sleeps.", chunks=2),), "A story.")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Two seconds at 12 fps, 64x32 pixels: frame n is grey 10 n, its outer quarters are black."""
    file = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = np.zeros((24, 32, 64, 3), np.uint8)
    frames[:, :, 16:48] = 10 * np.arange(24, dtype=np.uint8)[:, None, None, None]
    with FilmWriter(file, fps=12) as film:
        film.append(frames)
    return file


def picture(path, width=48, height=24):
    """Red above, blue below."""
    image = np.zeros((height, width, 3), np.uint8)
    image[: height // 2, :, 0], image[height // 2 :, :, 2] = 255, 255
    Image.fromarray(image).save(path)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "A.JPEG"])
def test_a_picture_is_held_for_one_chunk(tmp_path, name):
    frames = read_frames(picture(tmp_path / name), 16, 32, 16, LENGTHS)
    assert frames.shape == (9, 16, 32, 3) and (frames == frames[0]).all()
    assert frames[0, 2, 16, 0] > 200 and frames[0, 13, 16, 2] > 200


def test_a_picture_is_cut_around_its_centre_and_turned_upright(tmp_path):
    wide = np.zeros((16, 96, 3), np.uint8)
    wide[:, 32:64] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert read_frames(tmp_path / "wide.png", 16, 32, 16, LENGTHS).min() == 255
    lying = Image.fromarray(np.rot90(wide[:, 32:64]).copy())
    exif = lying.getexif()
    exif[0x0112] = 6  # to be turned a quarter to be seen
    lying.save(tmp_path / "lying.jpg", exif=exif)
    assert read_frames(tmp_path / "lying.jpg", 16, 32, 16, LENGTHS).min() > 240


def test_a_clip_is_resampled_to_the_films_rate_and_cut_to_whole_chunks(clip):
    frames = read_frames(clip, 16, 16, 16, LENGTHS)
    assert frames.shape == (21, 16, 16, 3)  # of 32 that two seconds have, 9 + 12
    shown = frames[:, 8, 8, 0].astype(int)
    expected = 10 * (np.arange(11, 32) * 12 // 16)  # the frame on screen at i/16 s, up to the last
    assert np.abs(shown - expected).max() <= 3
    assert (
        read_frames(clip, 16, 16, 24, LENGTHS).shape[0] == 45
        and read_frames(clip, 16, 16, 6, LENGTHS).shape[0] == 9
    )


def test_the_latents_are_those_of_the_clip_encoded_whole(model):
    frames = np.random.default_rng(0).integers(0, 256, (33, 16, 32, 3), np.uint8)
    whole = model.vae.encode(frames[None].astype(np.float32) / 127.5 - 1)
    np.testing.assert_allclose(
        encode(model.vae, frames, LENGTHS), whole, atol=1e-4 * float(np.abs(whole).max())
    )


def test_the_start_is_the_storys_first_shot(model, clip):
    opened = opening(Start(clip, "Mia waves."), STORY, model)
    assert opened.story.shots == (Shot("Mia waves.", chunks=2, id="start"), *STORY.shots)
    assert without_start(opened.story) == STORY
    assert opened.latents.shape == (1, 6, SIZE.height // 4, SIZE.width // 4, 16)
    assert (
        opened.record["chunks"] == 2
        and len(opened.record["sha256"]) == 64
        and opened.record["file"] == str(clip)
    )


def test_the_film_opens_with_the_start_and_goes_on_from_it(model, clip):
    opened = opening(Start(clip, "Mia waves."), STORY, model)
    film = list(Director(model, opened.story, start=opened.latents))
    assert [(len(chunk.frames), chunk.shot.id) for chunk in film] == [
        (9, "start"),
        (12, "start"),
        (12, "s2"),
        (12, "s2"),
    ]
    shown = np.concatenate([chunk.frames for chunk in film[:2]]).astype(int)
    decoded = (np.asarray(model.vae.decode(opened.latents))[0] + 1) * 127.5
    assert np.abs(shown - decoded).max() <= 1
    assert film[0].seconds.keys() == {"commit", "decode"} and (film[1].retrieved == -1).all()
    other = list(Director(model, opened.story, start=opened.latents[:, ::-1]))
    assert not np.array_equal(film[2].frames, other[2].frames)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    return tiny_folder(tmp_path_factory.mktemp("models") / "tiny", model)


def test_film_json_makes_the_same_film_from_the_same_file(folder, clip, tmp_path):
    moved = tmp_path / "moved.mp4"
    moved.write_bytes(clip.read_bytes())
    choices = Choices(start=moved, start_caption="Mia waves.", scale=1)
    record = generate(Recipe(STORY), tmp_path / "a", model=folder, choices=choices, progress=False)
    assert (
        record["start"]["caption"] == "Mia waves."
        and record["resolved"]["shots"][0]["id"] == "start"
    )
    assert [shot["caption"] for shot in record["story"]["shots"]] == ["Otto sleeps."]
    recipe = read_recipe(tmp_path / "a" / "film.json")
    again = generate(recipe, tmp_path / "b", model=folder, progress=False)
    assert (again["frames_sha256"], again["start"]) == (record["frames_sha256"], record["start"])
    moved.unlink()
    with pytest.raises(DataError, match=r"moved\.mp4 cannot be read"):
        generate(recipe, tmp_path / "c", model=folder, progress=False)
    other = generate(
        recipe, tmp_path / "c", model=folder, choices=Choices(start=clip), progress=False
    )
    assert other["frames_sha256"] == record["frames_sha256"]


def test_a_recorded_start_is_found_again_and_must_be_the_same_file(model, clip, tmp_path):
    record = opening(Start(clip, "Mia waves."), STORY, model).record
    assert chosen_start(None, None, record) == Start(clip, "Mia waves.", record["sha256"])
    assert chosen_start(None, None, None) is None
    other = picture(tmp_path / "other.png")
    assert chosen_start(other, "Mia.", record) == Start(other, "Mia.")
    with pytest.raises(UsageError, match="is not the file that this film started from"):
        opening(chosen_start(other, None, record), STORY, model)


def test_what_was_forgotten_is_named(clip):
    with pytest.raises(UsageError, match=r"needs the caption of what it shows: --start-caption"):
        chosen_start(clip, None, None)
    with pytest.raises(UsageError, match="needs the caption"):
        chosen_start(clip, "  ", None)
    with pytest.raises(UsageError, match="name it with --start FILE"):
        chosen_start(None, "Mia waves.", None)


def test_media_that_cannot_be_read_is_named(tmp_path, model):
    for name, content, fault in (
        ("none.png", None, "cannot be read: No such file"),
        ("torn.png", b"\x89PNG\r\n\x1a\n rest", "cannot be read as a picture or a clip"),
        ("text.mp4", b"not a film", "cannot be read as a picture or a clip"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=fault):
            opening(Start(tmp_path / name, "Mia."), STORY, model)


def test_clips_too_short_or_too_long_are_refused(clip, tmp_path, monkeypatch):
    with pytest.raises(
        UsageError, match=r"too short to start from: 8 frames at 4 per second, a chunk needs 9"
    ):
        read_frames(clip, 16, 16, 4, LENGTHS)
    monkeypatch.setattr("causalcine_jax.render.clip.LONGEST", 1)
    with pytest.raises(UsageError, match="longer than 1 s"):
        read_frames(clip, 16, 16, 16, LENGTHS)
    assert LONGEST == 60
