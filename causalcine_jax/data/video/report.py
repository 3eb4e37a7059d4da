"""What `causalcine prepare` leaves to look at: numbers, a sheet of windows, a page of rejects."""

import base64
import html
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from causalcine_jax.clock import FPS
from causalcine_jax.data.video.captioning import Film, SourceVideo, jpeg
from causalcine_jax.data.video.frames import read
from causalcine_jax.data.video.manifest import Row
from causalcine_jax.errors import DataError, UsageError
from causalcine_jax.render.typography import (
    PAPER,
    SOFT,
    TEXT,
    face,
    fit_text,
    font,
    save_png,
    shot_colour,
    wrap,
)
from causalcine_jax.utils.atomic_file import write_text

SHOWN_WINDOWS = 24  # on the sheet, evenly chosen
COLUMNS = 8  # frames of a window
THUMB_WIDTH = 200
MARGIN, GAP = 48, 6
CAPTION_LINES = 2
SHOWN_REJECTS = 2000  # on the page; rejects.jsonl has all
PICTURED_REJECTS = 120  # with a frame
PICTURE_HEIGHT = 90


def counted(rejects: Sequence[Row]) -> dict[str, dict[str, int]]:
    """The number of rejects by stage and kind."""
    counts: dict[str, Counter[str]] = {}
    for row in rejects:
        counts.setdefault(row["stage"], Counter())[row["kind"]] += 1
    return {stage: dict(sorted(kinds.items())) for stage, kinds in counts.items()}


def most(rejects: Sequence[Row]) -> str:
    """The most frequent reasons, in words."""
    kinds = Counter(row["kind"] for row in rejects)
    return (
        ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(3)) or "nothing was left"
    )


def save_sheet(file: Path, films: Sequence[Film], size: tuple[int, int]) -> None:
    """Draws windows as a PNG: a row of frames each, their shots as a strip, their captions."""
    chosen = [
        films[n]
        for n in np.unique(
            np.linspace(0, len(films) - 1, min(len(films), SHOWN_WINDOWS)).round().astype(int)
        )
    ]
    height = round(THUMB_WIDTH * size[0] / size[1])
    row = 34 + height + 14 + 26 * CAPTION_LINES + 30
    width = 2 * MARGIN + COLUMNS * (THUMB_WIDTH + GAP) - GAP
    page = Image.new("RGB", (width, 2 * MARGIN + 40 + row * len(chosen)), PAPER)
    draw = ImageDraw.Draw(page)
    title = f"{len(chosen)} of {len(films)} windows"
    draw.text((MARGIN, MARGIN - 12), title, TEXT, font(30))
    for number, film in enumerate(chosen):
        _draw_window(page, draw, film, MARGIN + 40 + row * number, height)
    save_png(file, page)


def _draw_window(page: Image.Image, draw, film: Film, y: int, height: int) -> None:
    pieces = film.window.pieces
    inner = page.width - 2 * MARGIN
    times = f"{_time(pieces[0].first)} - {_time(pieces[-1].stop)}"
    shots = f"{len(pieces)} shot{'s' * (len(pieces) > 1)}"
    label = f"{film.video.name}   {times}   {shots}   {film.video.licence}"
    draw.text((MARGIN, y), fit_text(label, font(20), inner), SOFT, face(label, font(20)))
    y += 34
    frames = [index for first, stop in film.window.ranges for index in range(first, stop)]
    columns = [frames[round(x)] for x in np.linspace(0, len(frames) - 1, COLUMNS)]
    images = _frames(film.video, columns, height, THUMB_WIDTH)
    for column, image in enumerate(images):
        page.paste(Image.fromarray(image), (MARGIN + column * (THUMB_WIDTH + GAP), y))
    y += height + 4
    x = float(MARGIN)
    for number, piece in enumerate(pieces):
        right = x + inner * (piece.stop - piece.first) / len(frames)
        draw.rectangle((x, y, max(x + 1, right - 2), y + 6), shot_colour(number))
        x = right
    text = " | ".join(filter(None, (film.captions.whole, *film.captions.shots)))
    for line_number, line in enumerate(wrap(text, font(18), inner, CAPTION_LINES)):
        draw.text((MARGIN, y + 14 + 26 * line_number), line, TEXT, face(text, font(18)))


def _frames(
    video: SourceVideo, indices: Sequence[int], height: int, width: int
) -> list[np.ndarray]:
    """Frames of a video by ascending indices; those that cannot be read are missing."""
    found: list[np.ndarray] = []
    try:
        ranges = [(index, index + 1) for index in sorted(set(indices))]
        found.extend(read(video.file, video.clock, ranges, height, width))
    except (UsageError, DataError):
        pass
    return found


def _time(frame: int) -> str:
    seconds = frame / FPS
    return f"{int(seconds) // 60}:{seconds % 60:05.2f}"


STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem;
  background: #111318; color: #eeece6 }
table { border-collapse: collapse; width: 100% } td, th { text-align: left; vertical-align: top;
  padding: .35rem .8rem .35rem 0; border-bottom: 1px solid #2a2d36 } th { color: #9ea1aa }
img { display: block; height: 60px; border-radius: 3px } .file { overflow-wrap: anywhere }
.kind { color: #f0a848; white-space: nowrap } td.count { width: 5rem }
"""


def save_rejects(
    file: Path, rejects: Sequence[Row], videos: Mapping[str, SourceVideo], size: tuple[int, int]
) -> None:
    """Writes the rejects as one HTML file: counted by reason, then listed with a frame of each.

    Args:
      file: to write.
      rejects: rows of filters.py.
      videos: those that can be read, by name.
      size: height and width of the model's films.
    """
    counts = "".join(
        f"<tr><td class=count>{count}</td><td>{html.escape(stage)}</td>"
        f"<td class=kind>{html.escape(kind)}</td></tr>"
        for stage, kinds in counted(rejects).items()
        for kind, count in kinds.items()
    )
    count, pictured = len(rejects), 0
    listed = []
    for row in rejects[:SHOWN_REJECTS]:
        image, video = "", videos.get(row["file"])
        if video is not None and video.scan and "first" in row and pictured < PICTURED_REJECTS:
            middle = (row["first"] + row["stop"]) // 2
            width = round(PICTURE_HEIGHT * size[1] / size[0])
            for picture in _frames(video, [middle], PICTURE_HEIGHT, width):
                data = base64.b64encode(jpeg(picture)).decode()
                image = f'<img alt="" src="data:image/jpeg;base64,{data}">'
                pictured += 1
        times = f"{_time(row['first'])} - {_time(row['stop'])}" if "first" in row else ""
        listed.append(
            f"<tr><td>{image}</td><td class=file>{html.escape(row['file'])}<br>{times}</td>"
            f"<td class=kind>{html.escape(row['kind'])}</td><td>{html.escape(row['reason'])}</td>"
        )
    more = len(rejects) - len(listed)
    rest = f"<p>{more} more are in rejects.jsonl.</p>" if more else ""
    page = (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Rejects</title>"
        f"<style>{STYLE}</style><h1>{count} reject{'s' * (count != 1)}</h1>"
        f"<table><tr><th>count<th>stage<th>reason</tr>{counts}</table>"
        f"<h2>Each of them</h2><table><tr><th>frame<th>file<th>reason<th>measured</tr>"
        f"{''.join(listed)}</table>{rest}</html>\n"
    )
    write_text(file, page)
