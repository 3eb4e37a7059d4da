"""Draws a film as pages: per shot a caption and a row of frames, with cuts marked between.

A strip shows how long each shot is. A film of many shots has several pages.
If it has more than MOST_SHOTS shots, the pages show that many, evenly chosen.
While a film streams, only thumbnails of the shown frames need to be kept: see `wanted_frames`.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from causalcine_jax.render.typography import (
    ACCENT,
    FAINT,
    PAPER,
    SOFT,
    TEXT,
    face,
    fit_text,
    font,
    save_png,
    shot_colour,
    spelled,
    wrap,
)
from causalcine_jax.story import ResolvedShot, ResolvedStory

COLUMNS = 6
THUMB_WIDTH, THUMB_HEIGHT = 352, 626  # at most
GAP = 10
MARGIN = 72
STRIP = 30  # height of the strip of shots
CUT = 64  # height of the gap between rows, where the cut is marked
MOST_SHOTS = 240
PAGE_HEIGHT = 8_000  # of a page's rows
TITLE_LINES, CAPTION_LINES = 4, 8  # at most


def shown_shots(story: ResolvedStory) -> list[int]:
    """Returns the shots on the pages: all, or MOST_SHOTS of them evenly from first to last."""
    count = len(story.shots)
    return (
        list(range(count))
        if count <= MOST_SHOTS
        else np.linspace(0, count - 1, MOST_SHOTS).round().astype(int).tolist()
    )


def wanted_frames(story: ResolvedStory) -> set[int]:
    """Returns the film's frames that `save_contact_sheet` needs."""
    return {frame for number in shown_shots(story) for frame in sheet_frames(story.shots[number])}


def thumbnail(frame: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "th tw 3"]:
    """Returns a frame at the size at which the pages show it."""
    height, width, _ = frame.shape
    scale = min(THUMB_WIDTH / width, THUMB_HEIGHT / height)
    size = max(1, round(scale * width)), max(1, round(scale * height))
    return np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))


def sheet_frames(shot: ResolvedShot) -> list[int]:
    """Returns the frames that represent a shot: first, last and some evenly between.

    No frame is repeated.
    """
    count = min(COLUMNS, shot.frames)
    return [shot.first_frame + round(x) for x in np.linspace(0, shot.frames - 1, count)]


def time_code(frame: int, fps: int) -> str:
    """Formats as editors do: 0:02:13 is 0 minutes, 2 seconds and 13 frames."""
    seconds, rest = divmod(frame, fps)
    return f"{seconds // 60}:{seconds % 60:02d}:{rest:02d}"


def draw_pages(
    story: ResolvedStory, thumbs: Mapping[int, UInt8[np.ndarray, "h w 3"]], title: str, details: str
) -> Iterator[Image.Image]:
    """Draws the pages.

    Args:
      story: the film's story.
      thumbs: thumbnails by frame number, at least those of `wanted_frames`.
      title: the global caption.
      details: one line below the title.
    """
    page_width = 2 * MARGIN + COLUMNS * THUMB_WIDTH + (COLUMNS - 1) * GAP
    captions = {
        number: wrap(
            story.shots[number].caption, font(26), page_width - 2 * MARGIN - 460, CAPTION_LINES
        )
        for number in shown_shots(story)
    }
    pages = list(_paged(captions, next(iter(thumbs.values())).shape[0]))
    if len(story.shots) > MOST_SHOTS:
        details += f" | {MOST_SHOTS} of {len(story.shots)} shots"
    for number, rows in enumerate(pages, start=1):
        place = f" | page {number} of {len(pages)}" if len(pages) > 1 else ""
        yield _draw_page(
            story,
            thumbs,
            title,
            details + place,
            {shot: captions[shot] for shot in rows},
            page_width,
        )


def save_contact_sheet(
    path: str | Path,
    story: ResolvedStory,
    thumbs: Mapping[int, np.ndarray],
    title: str,
    details: str,
) -> list[str]:
    """Writes the pages as PNG: X.png, X-2.png, X-3.png, ...

    Returns notes to the user about them.

    Raises:
      DataError: writing failed.
    """
    path, count = Path(path), 0
    for count, page in enumerate(draw_pages(story, thumbs, title, details), start=1):
        save_png(_page_path(path, count), page)
    # Pages that remain from an earlier film.
    for number in itertools.takewhile(
        lambda n: _page_path(path, n).exists(), itertools.count(count + 1)
    ):
        with contextlib.suppress(OSError):
            _page_path(path, number).unlink()
    notes = (
        [f"{path.name} has {count} pages, to {_page_path(path, count).name}"] if count > 1 else []
    )
    if len(story.shots) > MOST_SHOTS:
        notes.append(f"{path.name} shows {MOST_SHOTS} of the {len(story.shots)} shots")
    if missing := spelled(
        title + "".join(story.shots[number].caption for number in shown_shots(story))
    ):
        some = missing if len(missing) <= 12 else f"{missing[:12]}..."
        notes.append(f"{path.name}: no font here has {some}: spelled in Latin letters")
    return notes


def _page_path(path: Path, number: int) -> Path:
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def _row_height(caption: list[str], thumb_height: int) -> int:
    return 40 * len(caption) + 14 + thumb_height + 34


def _paged(captions: Mapping[int, list[str]], thumb_height: int) -> Iterator[list[int]]:
    """Yields the shots of each page: as many as fit into PAGE_HEIGHT."""
    rows: list[int] = []
    height = 0
    for number, caption in captions.items():
        needed = _row_height(caption, thumb_height) + CUT
        if rows and height + needed > PAGE_HEIGHT:
            yield rows
            rows, height = [], 0
        rows.append(number)
        height += needed
    yield rows


def _draw_page(
    story: ResolvedStory,
    thumbs,
    title: str,
    details: str,
    captions: Mapping[int, list[str]],
    width: int,
) -> Image.Image:
    text_width, thumb_height = width - 2 * MARGIN, next(iter(thumbs.values())).shape[0]
    title = title or "A film without a title"
    titles = wrap(title, font(40), text_width, TITLE_LINES)
    heights = {number: _row_height(caption, thumb_height) for number, caption in captions.items()}
    head = MARGIN + 52 * len(titles) + 52 + STRIP + 56
    page = Image.new(
        "RGB",
        (width, head + sum(heights.values()) + CUT * (len(captions) - 1) + MARGIN - 20),
        PAPER,
    )
    draw = ImageDraw.Draw(page)

    y = MARGIN - 12
    for line in titles:
        draw.text((MARGIN, y), line, TEXT, face(title, font(40)))
        y += 52
    draw.text(
        (MARGIN, y + 4), fit_text(details, font(22), text_width), SOFT, face(details, font(22))
    )
    _draw_strip(draw, story, MARGIN, y + 52, text_width)
    y = head
    for place, number in enumerate(captions):
        if place:
            _draw_cut(draw, story, number, y + CUT // 2 - 10, width)
            y += CUT
        _draw_row(page, draw, story, number, captions[number], thumbs, y)
        y += heights[number]
    return page


def _draw_row(
    page, draw, story: ResolvedStory, number: int, caption: list[str], thumbs, y: int
) -> None:
    shot, colour = story.shots[number], shot_colour(number)
    draw.rounded_rectangle((MARGIN, y + 5, MARGIN + 8, y + 40 * len(caption) - 5), 4, colour)
    for line_number, line in enumerate(caption):
        draw.text((MARGIN + 26, y + 40 * line_number + 3), line, TEXT, face(shot.caption, font(26)))
    first, last = shot.first_frame, shot.first_frame + shot.frames
    ends = f"{time_code(first, story.fps)} - {time_code(last, story.fps)}"
    chunks = f"{shot.chunks} chunk" + "s" * (shot.chunks > 1)
    right = page.width - MARGIN
    draw.text(
        (right, y + 5), f"{shot.seconds:.2f} s   {chunks}   {ends}", SOFT, font(20), anchor="ra"
    )
    y += 40 * len(caption) + 14
    for column, frame in enumerate(sheet_frames(shot)):
        x = MARGIN + column * (THUMB_WIDTH + GAP)
        page.paste(Image.fromarray(thumbs[frame]), (x, y))
        draw.text(
            (x + 2, y + thumbs[frame].shape[0] + 7), time_code(frame, story.fps), FAINT, font(17)
        )


def _draw_cut(draw, story: ResolvedStory, number: int, y: int, page_width: int) -> None:
    shot = story.shots[number]
    label = f"CUT  {time_code(shot.first_frame, story.fps)}   frame {shot.first_frame}"
    width = draw.textlength(label, font(18))
    draw.line((MARGIN, y, MARGIN + 40, y), ACCENT, 2)
    draw.text((MARGIN + 54, y), label, ACCENT, font(18), anchor="lm")
    draw.line((MARGIN + 68 + width, y, page_width - MARGIN, y), ACCENT, 2)


def _draw_strip(draw, story: ResolvedStory, x: int, y: int, width: int) -> None:
    """Draws the film from left to right, a block per shot in proportion to its length."""
    scale, many = width / story.frames, len(story.shots) > MOST_SHOTS
    for number, shot in enumerate(story.shots):
        left = x + scale * shot.first_frame
        right = left + scale * shot.frames
        if many:
            draw.rectangle((left, y, max(left + 1, right), y + STRIP), shot_colour(number))
            continue
        gap = 3 if number < len(story.shots) - 1 else 0
        draw.rounded_rectangle(
            (left, y, max(left + 1, right - gap), y + STRIP), 5, shot_colour(number)
        )
        if right - left > 40:
            name = fit_text(shot.id, font(18), right - left - 18)
            draw.text((left + 12, y + STRIP // 2), name, PAPER, face(name, font(18)), anchor="lm")
