"""Reads a picture file as one upright RGB image, or an animation as its images.

The format is recognised by content, never by name. More than eight bits are scaled, not clipped.
Transparent pixels show BACKGROUND. CMYK and other colour profiles become sRGB.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from causalcine_jax.errors import DataError, UsageError, printable

# Pillow knows others, of which some run programs or hold no pictures; those are left to FFmpeg.
FORMATS = (
    "PNG",
    "JPEG",
    "MPO",
    "WEBP",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "JPEG2000",
    "AVIF",
    "PPM",
    "TGA",
    "ICO",
    "QOI",
)
ANIMATED = ("PNG", "WEBP", "GIF", "AVIF")  # others with several images hold pages or views
HDR = {16: "HDR (PQ, as in HDR10)", 18: "HDR (HLG)"}  # transfer characteristics of ITU-T H.273
HEAD = 1 << 16  # bytes in which a picture's description lies
MOST_PIXELS = 128 * 10**6
BACKGROUND = (255, 255, 255)
TRANSPARENT = "what is transparent shows white: lay it on another colour yourself if you want one"
UNTIMED = Fraction(
    1, 10
)  # seconds of an animation's image that has no time of its own, as browsers show it
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
SIXTEEN_BIT_INTEGERS = (
    "PNG",
    "PPM",
    "JPEG2000",
)  # formats whose mode I is a 16-bit picture in wider integers

PHOTOMETRIC = 262  # TIFF's tag that says whether 0 is black
WHITE = 65535
EIGHT_BIT = ((np.arange(WHITE + 1) + 128) // 257).astype(np.uint8)  # of each level of 16 bits

Timed = tuple[Image.Image, Fraction, Fraction]  # an image and the seconds when it comes and goes


@contextlib.contextmanager
def opened(file: Path) -> Iterator[Image.Image | None]:
    """The file opened by Pillow, or None if Pillow does not recognise it.

    Errors inside the context become a `DataError`.
    """
    known = [name for name in FORMATS if name in _available()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # of broken metadata, and of sizes that are checked here
            try:
                image = Image.open(file, formats=known)
            except UnidentifiedImageError:
                yield None
                return
            except Image.DecompressionBombError:
                raise UsageError(
                    f"{file} has more than {MOST_PIXELS:,} pixels: make it smaller"
                ) from None
            with image:
                if image.width * image.height > MOST_PIXELS:
                    raise UsageError(
                        f"{file} has {image.width} x {image.height} pixels, "
                        f"more than {MOST_PIXELS:,}: make it smaller"
                    )
                if curve := HDR.get(_transfer(file, image)):
                    raise UsageError(
                        f"{file} is a picture in {curve}, and films are BT.709: save it for "
                        "ordinary screens (SDR) in an editor"
                    )
                yield image
    except (UsageError, DataError):
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise DataError(
            f"{file} cannot be read as a picture: {printable(str(error) or type(error).__name__)}"
        ) from error


def _transfer(file: Path, image: Image.Image) -> int:
    """The transfer characteristics of ITU-T H.273 that the file names, which Pillow skips; or 2."""
    box, at, size = {"PNG": (b"cICP", 1, 1), "AVIF": (b"colrnclx", 2, 2)}.get(
        image.format or "", (b"", 0, 0)
    )
    with open(file, "rb") as content:
        head = content.read(HEAD) if box else b""
    _, found, after = head.partition(box) if box else (b"", b"", b"")
    return int.from_bytes(after[at : at + size], "big") if found else 2


def moves(image: Image.Image) -> bool:
    """Whether the file is an animation."""
    return (
        image.format in ANIMATED
        and getattr(image, "n_frames", 1) - bool(getattr(image, "default_image", False)) > 1
    )


def picture(image: Image.Image, tell) -> Image.Image:
    """The file's image, upright, as RGB. Reports differences from a viewer through `tell`."""
    count = getattr(image, "n_frames", 1)
    if count > 1:
        tell(f"the first of its {count} images is taken")
    return _as_rgb(_upright(image), image, tell)


def images(image: Image.Image, tell) -> Iterator[Timed]:
    """The opened animation's images, each with its time."""
    first = int(
        bool(getattr(image, "default_image", False))
    )  # an APNG's picture for programs that know no APNG
    begin = Fraction(0)
    for number in range(first, getattr(image, "n_frames", 1)):
        image.seek(number)
        image.load()
        milliseconds = image.info.get("duration") or 0
        end = begin + (Fraction(milliseconds) / 1000 if milliseconds > 0 else UNTIMED)
        yield _as_rgb(_upright(image), image, tell), begin, end
        begin, tell = end, _silent


def _upright(image: Image.Image) -> Image.Image:
    # Pillow would copy a picture that need not be turned.
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


def _as_rgb(shown: Image.Image, source: Image.Image, tell) -> Image.Image:
    clear = source.info.get("transparency")  # of 16-bit pictures, a colour of 16 bits
    if shown.mode in SIXTEEN_BIT or (shown.mode == "I" and source.format in SIXTEEN_BIT_INTEGERS):
        levels = np.asarray(shown)
        grey = Image.fromarray(EIGHT_BIT[np.clip(levels, 0, WHITE)])
        if _white_is_zero(source):
            grey = ImageOps.invert(grey)
        if not isinstance(clear, int):
            return _in_srgb(grey, source)
        shown = Image.merge("LA", (grey, Image.fromarray(np.uint8(255) * (levels != clear))))
    if shown.mode in ("I", "F"):
        raise UsageError(
            f"{getattr(source, 'filename', 'the picture')} has pixels of 32 bits, "
            "and nothing says which is white: save it with 8 or 16 bits"
        )
    if isinstance(clear, tuple) and max(clear) > 255:
        shown.info["transparency"] = tuple(map(int, EIGHT_BIT[list(clear)]))
    if not shown.has_transparency_data:
        return _in_srgb(shown, source)
    alpha = (shown if "A" in shown.getbands() else shown.convert("RGBA")).getchannel("A")
    return _on_background(
        _in_srgb(shown.convert("L" if shown.mode == "LA" else "RGB"), source), alpha, tell
    )


def _white_is_zero(source: Image.Image) -> bool:
    """Whether a TIFF's greatest level is black, which Pillow turns around in 8 bits alone."""
    return source.format == "TIFF" and getattr(source, "tag_v2", {}).get(PHOTOMETRIC) == 0


def _on_background(image: Image.Image, alpha: Image.Image, tell) -> Image.Image:
    if alpha.getextrema()[0] == 255:
        return image
    tell(TRANSPARENT)
    page = Image.new("RGB", image.size, BACKGROUND)
    page.paste(image, mask=alpha)
    return page


def _in_srgb(image: Image.Image, source: Image.Image) -> Image.Image:
    """An image without transparency in sRGB."""
    profile = source.info.get("icc_profile")
    if profile:
        image = image if image.mode in ("RGB", "CMYK", "L") else image.convert("RGB")
        # A broken profile, or one of another mode: viewers then take the plain values.
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            shown = ImageCms.profileToProfile(
                image,
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                outputMode="RGB",
            )
            if shown is not None:
                return shown
    return image.convert("RGB")


def _available() -> set[str]:
    Image.init()
    return set(Image.OPEN)


def _silent(line: str) -> None:
    pass
