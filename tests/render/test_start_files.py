"""What a start's file shows: recognised by content, in its own colours, to its end."""

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageCms
from video_files import write_video

from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.film_folder.start import read_frames
from causalcine_jax.render.clip import Frame, at_rate, short
from causalcine_jax.render.colour import ToRGB
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


def png_chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def write_png(path, pixels, colour_type, *extra):
    """Writes [h,w,c] of uint8 or uint16 with further (kind, data) chunks in front of the pixels."""
    height, width, _ = pixels.shape
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    head = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, colour_type, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    chunks = [(b"IHDR", head), *extra, (b"IDAT", packed), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*each) for each in chunks))
    return path


@pytest.mark.parametrize(("colour_type", "clear"), [(0, (7000,)), (2, (7000, 8000, 9000))])
def test_a_transparent_colour_of_sixteen_bits_is_laid_on_white(tmp_path, colour_type, clear):
    pixels = np.broadcast_to(np.array(clear, np.uint16), (16, 32, len(clear))).copy()
    pixels[:, 16:] = 40000
    key = b"tRNS", struct.pack(f">{len(clear)}H", *clear)
    frames, notes = read(write_png(tmp_path / "a.png", pixels, colour_type, key))
    assert (frames[0, 8, 8] == 255).all() and (frames[0, 8, 24] == 156).all()
    assert "transparent" in notes


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_white_is_zero(tmp_path, bits):
    pixels = np.full((16, 32), 30 * 257 if bits == 16 else 30, f"uint{bits}")
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    data = (tmp_path / "a.tif").read_bytes()
    tag = struct.pack("<HHIH", 262, 3, 1, 1)
    assert tag in data
    (tmp_path / "a.tif").write_bytes(data.replace(tag, tag[:-2] + b"\0\0"))
    assert (read(tmp_path / "a.tif")[0] == 225).all()


def exchanged_profile():
    """sRGB's profile with red and green exchanged."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile.replace(b"rXYZ", b"....").replace(b"gXYZ", b"rXYZ").replace(b"....", b"gXYZ")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_colour_profile_holds_with_transparency_and_in_palettes(tmp_path, mode):
    image = Image.new("RGB", (32, 16), (200, 40, 60))
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    if mode == "RGBA":
        image.paste((200, 40, 60, 0), (0, 0, 16, 16))
    image.save(tmp_path / "a.png", icc_profile=exchanged_profile())
    frames, _ = read(tmp_path / "a.png")
    assert np.abs(frames[0, 8, 24].astype(int) - (40, 200, 60)).max() <= 2
    assert mode != "RGBA" or (frames[0, 8, 8] == 255).all()


def test_pictures_that_are_hdr_are_refused(tmp_path):
    grey = np.full((16, 32, 3), 99, np.uint8)
    for transfer, refused in ((13, False), (16, True), (18, True)):
        write_png(tmp_path / "a.png", grey, 2, (b"cICP", bytes([9, transfer, 0, 1])))
        Image.fromarray(grey).save(tmp_path / "a.avif")
        data = bytearray((tmp_path / "a.avif").read_bytes())
        data[data.index(b"colrnclx") + 11] = transfer
        (tmp_path / "a.avif").write_bytes(data)
        for name in ("a.png", "a.avif"):
            if refused:
                with pytest.raises(UsageError, match=r"is a picture in HDR"):
                    read(tmp_path / name)
            else:
                assert abs(read(tmp_path / name)[0].mean() - 99) <= 1


def test_a_bomb_names_its_pixels_and_what_to_do(tmp_path):
    head = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", b"") + png_chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    with pytest.raises(UsageError, match=r"more than 128,000,000 pixels: make it smaller"):
        read(tmp_path / "a.png")


def test_a_document_with_a_picture_and_a_playlist_are_no_starts(tmp_path):
    Image.new("RGB", (32, 16), (200, 40, 60)).save(tmp_path / "a.pdf")
    with pytest.raises(DataError, match="it only contains a JPEG"):
        read(tmp_path / "a.pdf")
    write_video(tmp_path / "other.mp4", np.zeros((9, 16, 32, 3), np.uint8))
    (tmp_path / "list.mp4").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'other.mp4'}\n")
    (tmp_path / "session.mp4").write_text(
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
    )
    for name in ("list.mp4", "session.mp4"):
        with pytest.raises(DataError, match="cannot be read as a picture or a clip"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.webm", "libvpx-vp9", "yuva420p"),
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("b.mov", "png", "rgba"),
    ],
)
def test_what_is_transparent_in_a_clip_is_white_and_said(tmp_path, name, codec, pix_fmt):
    image = np.full((16, 32, 4), (180, 60, 90, 255), np.uint8)
    image[:, :16, 3] = 0
    with av.open(str(tmp_path / name), "w") as out:
        stream = out.add_stream(codec, rate=16)
        stream.width, stream.height, stream.pix_fmt = 32, 16, pix_fmt
        for _ in range(9):
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgba")))
        out.mux(stream.encode())
    frames, notes = read(tmp_path / name)
    assert frames[-1, 8, 4].min() >= 250 and notes.count("transparent") == 1
    assert np.abs(frames[-1, 8, 28].astype(int) - (180, 60, 90)).max() < 12


@pytest.mark.parametrize("name", ["a.mkv", "a.webm", "a.mp4"])
def test_the_last_frame_is_the_last_where_times_are_rounded(tmp_path, name):
    frames = np.zeros((20, 16, 80, 3), np.uint8)
    for number in range(20):
        frames[number, :, 4 * number : 4 * number + 4] = 255
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    write_video(tmp_path / name, frames, codec=codec)
    shown, _ = read(tmp_path / name, 16, 80)
    assert len(shown) == 9
    assert np.flatnonzero(shown[-1, 8, :, 1] > 128).tolist() == [76, 77, 78, 79]


def test_a_clip_that_is_cut_off_is_said_to_be(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (80, 16, 32, 3)).astype(np.uint8)
    whole = write_video(tmp_path / "a.mkv", frames).read_bytes()
    assert "cut off" not in read(tmp_path / "a.mkv")[1]
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) // 2])
    assert "the file says that it lasts 5.001 s: is it cut off?" in read(tmp_path / "a.mkv")[1]


@pytest.mark.parametrize("bits", [8, 10, 12])
@pytest.mark.parametrize("full", [False, True])
def test_flat_patches_of_any_depth_and_range_keep_their_level(bits, full):
    step, most = 2 ** (bits - 8), 2**bits - 1
    kind = "yuv444p" + ("" if bits == 8 else f"{bits}le")
    errors = []
    for level in range(20, 236, 3):
        stored = round(level / 255 * most) if full else round((16 + level / 255 * 219) * step)
        exact = 255 * stored / most if full else 255 * (stored / step - 16) / 219
        frame = av.VideoFrame(32, 16, kind)
        frame.pts, frame.time_base, frame.colorspace = 0, Fraction(1), 1
        frame.color_range = 2 if full else 1
        for plane, value in zip(frame.planes, (stored, 128 * step, 128 * step)):
            dtype = np.uint8 if bits == 8 else np.uint16
            plane.update(np.full(plane.buffer_size // dtype().itemsize, value, dtype).tobytes())
        errors.append(ToRGB()(frame).mean() - exact)
    assert abs(np.mean(errors)) < 0.25


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 1), (8, 3)])
def test_exif_beside_a_frame_turns_it_upright(tmp_path, orientation, turns):
    """PyAV raises for data beside a frame that it does not know, as EXIF, which phones write."""
    upright = np.zeros((16, 32, 3), np.uint8)
    upright[:8], upright[8:, :16] = (250, 0, 0), (0, 0, 250)
    stored = Image.fromarray(np.rot90(upright, turns).copy())
    exif, png = stored.getexif(), io.BytesIO()
    exif[0x0112] = orientation
    stored.save(png, "PNG", exif=exif)
    with av.open(str(tmp_path / "a.mov"), "w") as out:
        stream = out.add_stream("png", rate=16)
        stream.width, stream.height, stream.pix_fmt = *stored.size, "rgb24"
        for number in range(9):
            packet = av.Packet(png.getvalue())
            packet.stream, packet.is_keyframe = stream, True
            packet.pts = packet.dts = number
            packet.time_base, packet.duration = Fraction(1, 16), 1
            out.mux(packet)
    assert (read(tmp_path / "a.mov")[0] == upright).all()
