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
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

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
MOST_PIXELS = 128 * 10**6
BACKGROUND = (255, 255, 255)
UNTIMED = Fraction(
    1, 10
)  # seconds of an animation's image that has no time of its own, as browsers show it
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
SIXTEEN_BIT_INTEGERS = (
    "PNG",
    "PPM",
    "JPEG2000",
)  # formats whose mode I is a 16-bit picture in wider integers

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
            with image:
                if image.width * image.height > MOST_PIXELS:
                    raise UsageError(
                        f"{file} has {image.width} x {image.height} pixels, "
                        f"more than {MOST_PIXELS:,}: make it smaller"
                    )
                yield image
    except (UsageError, DataError):
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise almost anything
        raise DataError(
            f"{file} cannot be read as a picture: {printable(str(error) or type(error).__name__)}"
        ) from error


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
    return _as_rgb(ImageOps.exif_transpose(image), image, tell)


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
        yield _as_rgb(ImageOps.exif_transpose(image), image, tell), begin, end
        begin, tell = end, _silent


def _as_rgb(shown: Image.Image, source: Image.Image, tell) -> Image.Image:
    if shown.mode in SIXTEEN_BIT or (shown.mode == "I" and source.format in SIXTEEN_BIT_INTEGERS):
        levels = np.asarray(shown).astype(np.uint32)
        return Image.fromarray(((levels + 128) // 257).astype(np.uint8)).convert("RGB")
    if shown.mode in ("I", "F"):
        raise UsageError(
            f"{getattr(source, 'filename', 'the picture')} has pixels of 32 bits, "
            "and nothing says which is white: save it with 8 or 16 bits"
        )
    if shown.has_transparency_data:
        return _on_background(shown.convert("RGBA"), tell)
    return _in_srgb(shown, source)


def _on_background(image: Image.Image, tell) -> Image.Image:
    if image.getchannel("A").getextrema()[0] == 255:
        return image.convert("RGB")
    tell("what is transparent shows white: lay it on another colour yourself if you want one")
    return Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image).convert(
        "RGB"
    )


def _in_srgb(image: Image.Image, source: Image.Image) -> Image.Image:
    profile = source.info.get("icc_profile")
    if profile and image.mode in ("RGB", "CMYK", "L"):
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
