"""Type, colours and line breaking of the pictures that generation draws. Only Pillow's own font is needed."""

import functools
import unicodedata

from PIL import ImageFont

PAPER = (17, 19, 24)
TEXT = (238, 236, 230)
SOFT = (158, 161, 170)
FAINT = (106, 110, 120)
ACCENT = (240, 168, 72)
SHOT_COLOURS = ((124, 190, 214), (232, 152, 120), (158, 206, 132), (206, 162, 222), (236, 204, 112), (140, 160, 232), (230, 140, 170))


@functools.cache
def font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def shot_colour(number: int) -> tuple[int, int, int]:
    return SHOT_COLOURS[number % len(SHOT_COLOURS)]


def printable(text: str) -> str:
    """`text` in the glyphs that Pillow's font has: plain quotes and dashes, letters without accents."""
    text = text.translate(
        {ord(a): b for a, b in {"“": '"', "”": '"', "‘": "'", "’": "'", "–": "-", "—": "-", "…": "...", "×": "x"}.items()}
    )
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def wrap(text: str, type_: ImageFont.FreeTypeFont, width: float) -> list[str]:
    """`text` broken between words into lines of at most `width` pixels; a word longer than a line keeps its own."""
    lines = [""]
    for word in printable(text).split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and type_.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def fit_text(text: str, type_: ImageFont.FreeTypeFont, width: float) -> str:
    """`text`, shortened to `width` pixels if it is longer."""
    text = printable(text)
    if type_.getlength(text) <= width:
        return text
    while text and type_.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
