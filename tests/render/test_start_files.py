"""What a start's file shows: recognised by content, in its own colours, to its end."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from causalcine_jax.errors import UsageError
from causalcine_jax.film_folder.start import read_frames
from causalcine_jax.render.clip import Frame, at_rate, short
from causalcine_jax.render.mp4 import FilmWriter, read_film

LENGTHS = 9, 12


def read(file, height=16, width=32):
    notes = []
    return read_frames(file, height, width, 16, LENGTHS, notes.append), " ".join(notes)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000"])
def test_a_picture_is_known_by_its_content(tmp_path, kind):
    Image.new("RGB", (32, 16), (200, 40, 60)).save(tmp_path / "start.mp4", format=kind)
    frames, notes = read(tmp_path / "start.mp4")
    assert (
        frames.shape == (9, 16, 32, 3)
        and np.abs(frames.astype(int) - (200, 40, 60)).max() <= 6
        and notes == ""
    )


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.linspace(0, 65535, 32 * 16).astype(np.uint16).reshape(16, 32)).save(
        tmp_path / "a.png"
    )
    frames, _ = read(tmp_path / "a.png")
    assert (frames.min(), frames.max()) == (0, 255) and abs(frames.mean() - 127.5) < 0.5


def test_what_is_transparent_is_white_and_said(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (16, 32, 4), np.uint8)
    image[..., 3] = 0
    Image.fromarray(image).save(tmp_path / "a.png")
    frames, notes = read(tmp_path / "a.png")
    assert frames.min() == 255 and "transparent" in notes


@pytest.mark.parametrize("kind", ["WEBP", "PNG", "GIF"])
def test_an_animation_is_a_clip_that_goes_on_from_its_end(tmp_path, kind):
    images = [Image.new("RGB", (32, 16), (10 * n, 0, 0)) for n in range(20)]
    extra = {"lossless": True} if kind == "WEBP" else {}
    images[0].save(
        tmp_path / "a.bin",
        format=kind,
        save_all=True,
        append_images=images[1:],
        duration=100,
        **extra,
    )
    frames, notes = read(tmp_path / "a.bin")
    assert frames.shape[0] == 21 and abs(int(frames[-1, 8, 8, 0]) - 190) <= 3
    assert "its last 1.312 s are kept" in notes and "0.6875 s before them are cut" in notes


def test_a_gap_of_a_million_seconds_ends_at_once(tmp_path):
    image = Image.new("RGB", (4, 4))
    shown = lambda second: Frame(image, Fraction(second), Fraction(second + 1))
    with pytest.raises(UsageError, match="longer than 60 s"):
        list(at_rate(short(tmp_path, [shown(0), shown(10**6)]), 16))


def test_colours_keep_their_level_for_six_generations(tmp_path):
    colours = np.random.default_rng(1).integers(16, 240, (24, 3)).astype(np.uint8)
    made = np.broadcast_to(colours[:, None, None, None], (24, 9, 32, 32, 3))
    shown = made
    for _ in range(6):
        with FilmWriter(tmp_path / "film.mp4", fps=16) as film:
            for frames in shown:
                film.append(frames)
        shown = read_film(tmp_path / "film.mp4").reshape(made.shape)
        assert np.abs((shown.astype(float) - made).mean((0, 1, 2, 3))).max() < 0.4


@pytest.mark.parametrize("size", [31, 16, 8])
def test_edges_keep_their_colours_for_six_generations(tmp_path, size):
    """Films of pure and of painted colours, each made of the frames that a start reads."""
    pure = [(255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255), (0, 0, 0)]
    for colours in (pure, [(214, 44, 44), (44, 104, 226), (250, 208, 40), (60, 168, 72)]):
        numbers = np.random.default_rng(size).integers(0, len(colours), (9, 9))
        blocks = np.array(colours, np.uint8)[numbers]
        image = np.repeat(np.repeat(blocks, size, 0), size, 1)[:64, :64]
        made, shown = np.repeat(image[None], 9, axis=0), []
        for _ in range(7):
            with FilmWriter(tmp_path / "film.mp4", fps=16) as film:
                film.append(made)
            made = read_frames(tmp_path / "film.mp4", 64, 64, 16, (9, 12))
            shown.append(read_film(tmp_path / "film.mp4").astype(float))
        drift = np.abs((shown[6] - shown[0]).mean((0, 1, 2))).max()
        assert drift < 0.5 and np.abs(shown[6] - shown[0]).mean() < 3


def test_pixels_that_are_not_square(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as out:
        stream = out.add_stream("libx264", rate=16, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        image = np.zeros((32, 32, 3), np.uint8)
        image[:, 8:24] = 255
        for _ in range(9):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    frames, notes = read(tmp_path / "a.mp4")  # shown 2:1, as the film is: nothing is cut
    assert frames[-1, 8, 2].max() < 40 and frames[-1, 8, 16].min() > 215 and notes == ""
