"""The film on one page: a row of frames per shot, its caption above, the cuts between, and a strip that shows how long each shot is.

Only the frames that the page shows need to be kept while a film streams by: ask `sheet_frames` which ones.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from causalcine_jax.generation.typography import ACCENT, FAINT, PAPER, SOFT, TEXT, fit_text, font, shot_colour, wrap
from causalcine_jax.story import ResolvedShot, ResolvedStory
from causalcine_jax.whole_file import whole_file

COLUMNS = 6
THUMB_WIDTH = 352
GAP = 10
MARGIN = 72
STRIP = 30  # height of the strip of shots
CUT = 64  # height of the gap between rows, where the cut is marked


def sheet_frames(shot: ResolvedShot) -> list[int]:
    """The film's frames that represent a shot: its first, its last and those evenly between, without repeats."""
    count = min(COLUMNS, shot.frames)
    return [shot.first_frame + round(x) for x in np.linspace(0, shot.frames - 1, count)]


def time_code(frame: int, fps: int) -> str:
    """Minutes, seconds and frames, as editors write it: 0:02:13 is two seconds and thirteen frames."""
    seconds, rest = divmod(frame, fps)
    return f"{seconds // 60}:{seconds % 60:02d}:{rest:02d}"


def draw_contact_sheet(story: ResolvedStory, frames: Mapping[int, UInt8[np.ndarray, "h w 3"]], title: str, details: str) -> Image.Image:
    """The page. `frames` holds at least those that `sheet_frames` names; `title` is the global caption, `details` one line below it."""
    height, width, _ = next(iter(frames.values())).shape
    thumb = (THUMB_WIDTH, round(THUMB_WIDTH * height / width))
    page_width = 2 * MARGIN + COLUMNS * THUMB_WIDTH + (COLUMNS - 1) * GAP
    text_width = page_width - 2 * MARGIN
    titles = wrap(title or "A film without a title", font(40), text_width)
    captions = [wrap(shot.caption, font(26), text_width - 460) for shot in story.shots]
    row_heights = [40 * len(lines) + 14 + thumb[1] + 34 for lines in captions]
    head = MARGIN + 52 * len(titles) + 52 + STRIP + 56
    page = Image.new("RGB", (page_width, head + sum(row_heights) + CUT * (len(story.shots) - 1) + MARGIN - 20), PAPER)
    draw = ImageDraw.Draw(page)

    y = MARGIN - 12
    for line in titles:
        draw.text((MARGIN, y), line, TEXT, font(40))
        y += 52
    draw.text((MARGIN, y + 4), fit_text(details, font(22), text_width), SOFT, font(22))
    _draw_strip(draw, story, MARGIN, y + 52, text_width)
    y = head

    for number, (shot, caption, row_height) in enumerate(zip(story.shots, captions, row_heights, strict=True), start=1):
        _draw_row(page, draw, story, shot, number, caption, frames, thumb, y)
        y += row_height
        if number < len(story.shots):
            _draw_cut(draw, story, number, y + CUT // 2 - 10, page_width)
            y += CUT
    return page


def save_contact_sheet(path: str | Path, story: ResolvedStory, frames: Mapping[int, np.ndarray], title: str, details: str) -> None:
    """Draws the page and writes it as a PNG. `DataError` if the disk refuses."""
    page = draw_contact_sheet(story, frames, title, details)
    with whole_file(path) as partial:
        page.save(partial, format="PNG", optimize=True)


def _draw_row(page, draw, story: ResolvedStory, shot: ResolvedShot, number: int, caption, frames, thumb, y: int) -> None:
    colour = shot_colour(number - 1)
    draw.rounded_rectangle((MARGIN, y + 5, MARGIN + 8, y + 40 * len(caption) - 5), 4, colour)
    for line_number, line in enumerate(caption):
        draw.text((MARGIN + 26, y + 40 * line_number + 3), line, TEXT, font(26))
    ends = f"{time_code(shot.first_frame, story.fps)} - {time_code(shot.first_frame + shot.frames, story.fps)}"
    chunks = f"{shot.chunks} chunk" + "s" * (shot.chunks > 1)
    right = page.width - MARGIN
    draw.text((right, y + 5), f"{shot.seconds:.2f} s   {chunks}   {ends}", SOFT, font(20), anchor="ra")
    y += 40 * len(caption) + 14
    for column, frame in enumerate(sheet_frames(shot)):
        x = MARGIN + column * (THUMB_WIDTH + GAP)
        page.paste(Image.fromarray(frames[frame]).resize(thumb, Image.Resampling.LANCZOS), (x, y))
        draw.text((x + 2, y + thumb[1] + 7), time_code(frame, story.fps), FAINT, font(17))


def _draw_cut(draw, story: ResolvedStory, number: int, y: int, page_width: int) -> None:
    shot = story.shots[number]
    label = f"CUT  {time_code(shot.first_frame, story.fps)}   frame {shot.first_frame}"
    width = draw.textlength(label, font(18))
    draw.line((MARGIN, y, MARGIN + 40, y), ACCENT, 2)
    draw.text((MARGIN + 54, y), label, ACCENT, font(18), anchor="lm")
    draw.line((MARGIN + 68 + width, y, page_width - MARGIN, y), ACCENT, 2)


def _draw_strip(draw, story: ResolvedStory, x: int, y: int, width: int) -> None:
    """The film from left to right, a block per shot as long as the shot."""
    for number, shot in enumerate(story.shots):
        left = x + width * shot.first_frame / story.frames
        right = x + width * (shot.first_frame + shot.frames) / story.frames
        gap = 3 if number < len(story.shots) - 1 else 0
        draw.rounded_rectangle((left, y, max(left + 1, right - gap), y + STRIP), 5, shot_colour(number))
        if right - left > 40:
            draw.text((left + 12, y + STRIP // 2), shot.id, PAPER, font(18), anchor="lm")
