"""Fonts, colours, line breaking and saving of the pictures that a film is shown with.

Plain English is in Pillow's own font. Text with other letters (accents, Cyrillic, Greek,
Hebrew, Arabic, ...) is in DejaVu Sans, which matplotlib brings. Characters that DejaVu Sans
lacks (Chinese, emoji, ...) are spelled in Latin letters, and the caller tells the user.
"""

import functools
import importlib.metadata
import unicodedata
from bisect import bisect
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageFont

from causalcine_jax.utils.atomic_file import atomic_file

DEJAVU_SANS = "matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf"
MOST_LETTERS = 1000  # measured at once; no line is that long
NO_CHARACTER = "\U0010ffff"
PAPER = (17, 19, 24)
TEXT = (238, 236, 230)
SOFT = (158, 161, 170)
FAINT = (106, 110, 120)
ACCENT = (240, 168, 72)
SHOT_COLOURS = (
    (124, 190, 214),
    (232, 152, 120),
    (158, 206, 132),
    (206, 162, 222),
    (236, 204, 112),
    (140, 160, 232),
    (230, 140, 170),
)


PLAIN = {
    ord(a): b
    for a, b in {
        "“": '"',
        "”": '"',
        "‘": "'",
        "’": "'",
        "–": "-",
        "—": "-",
        "…": "...",
        "×": "x",
    }.items()
}


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    # Every wheel of Pillow has FreeType.
    return ImageFont.load_default(size)  # type: ignore[return-value]


@functools.cache
def wide_font(size: int) -> ImageFont.FreeTypeFont:
    """Returns DejaVu Sans, for text that is not plain English."""
    # Found without importing matplotlib, which takes longer than drawing a page.
    files = importlib.metadata.distribution("matplotlib")
    return ImageFont.truetype(str(files.locate_file(DEJAVU_SANS)), size)


def face(text: str, type_: ImageFont.FreeTypeFont) -> ImageFont.FreeTypeFont:
    """Returns `type_`, or DejaVu Sans of its size if `type_` lacks letters of `text`."""
    return type_ if printable(text).isascii() else wide_font(round(type_.size))


def shot_colour(number: int) -> tuple[int, int, int]:
    return SHOT_COLOURS[number % len(SHOT_COLOURS)]


def printable(text: str) -> str:
    """Returns `text` in glyphs that exist.

    Quotes and dashes become plain, letters without a glyph become Latin, and control characters
    are removed.
    """
    return "".join(map(_drawn, text.translate(PLAIN)))


def spelled(text: str) -> str:
    """Returns the characters of `text` without a glyph, each once, as Latin letters."""
    return "".join(
        dict.fromkeys(
            c
            for c in text.translate(PLAIN)
            if _drawn(c).strip() and not c.isascii() and not _has_glyph(c)
        )
    )


def wrap(
    text: str, type_: ImageFont.FreeTypeFont, width: float, most: int | None = None
) -> list[str]:
    """Breaks `text` into lines of at most `width` pixels.

    Lines break between words, and inside words longer than a line. Text beyond `most` lines is
    replaced by "...".
    """
    type_, lines = face(text, type_), [""]
    for word in _pieces(text, type_, width):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and type_.getlength(longer) > width:
            if len(lines) == most:
                return [*lines[:-1], _shortened(lines[-1], type_, width)]
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def fit_text(text: str, type_: ImageFont.FreeTypeFont, width: float) -> str:
    """Returns `text`, shortened if it is wider than `width` pixels."""
    type_, text = face(text, type_), " ".join(printable(text).split())
    return (
        text
        if len(text) <= MOST_LETTERS and type_.getlength(text) <= width
        else _shortened(text, type_, width)
    )


def _shortened(text: str, type_: ImageFont.FreeTypeFont, width: float) -> str:
    text = text[:MOST_LETTERS]
    while text and type_.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _pieces(text: str, type_: ImageFont.FreeTypeFont, width: float) -> Iterator[str]:
    """Yields the words of `text`, splitting words longer than a line."""
    for word in printable(text).split():
        while word and type_.getlength(word[:MOST_LETTERS]) > width:
            part = max(
                1,
                bisect(
                    range(min(len(word), MOST_LETTERS)),
                    width,
                    key=lambda n: type_.getlength(word[:n]),
                )
                - 1,
            )
            yield word[:part]
            word = word[part:]
        if word:
            yield word


@functools.lru_cache(4096)
def _drawn(character: str) -> str:
    if character.isspace():
        return " "
    if not character.isprintable():
        return ""
    if character.isascii() or _has_glyph(character):
        return character
    from anyascii import anyascii  # here, because it is seldom needed

    # Some scripts have no Latin spelling. Marks on letters, and emoji's variants, are left out.
    return anyascii(character) or ("" if unicodedata.category(character)[0] == "M" else "?")


@functools.lru_cache(4096)
def _has_glyph(character: str) -> bool:
    """Whether DejaVu Sans draws the character unlike one that no font has."""
    plain = wide_font(20).font_variant(layout_engine=ImageFont.Layout.BASIC)
    mask, none = (bytes(plain.getmask(c)) for c in (character, NO_CHARACTER))
    return mask != none


def save_png(path: str | Path, page: Image.Image) -> None:
    """Writes an atomic file of PNG. Raises as `atomic_file`."""
    with atomic_file(path) as partial:
        # Level 9 makes pages of frames 8 % smaller and takes ten times as long: seconds a page.
        page.save(partial, format="PNG", compress_level=4)
