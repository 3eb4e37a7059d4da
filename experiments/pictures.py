"""The report's pictures: films of the same stories, numbers as bars, numbers along the film."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

import numpy as np
from PIL import Image, ImageDraw

from causalcine_jax.evaluation.intervals import Interval
from causalcine_jax.render.chart import draw_bars, new_axes, save_figure
from causalcine_jax.render.typography import (
    ACCENT,
    PAPER,
    SOFT,
    TEXT,
    fit_text,
    font,
    save_png,
    wrap,
)
from experiments.numbers import Numbers

THUMB_WIDTH, GAP, MARGIN, TITLE = 200, 10, 40, 44
CAPTION_LINES, LINE = 5, 18


def write_all(numbers: Numbers, name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """Draws all pictures of a table that have their numbers; yields each with its caption."""
    table = numbers.table
    shares = [
        column for column in table.columns if column.split(".")[0] in ("recall", "films", "long")
    ]
    measured = {
        row.label: {table.columns[c]: value for c in shares if (value := numbers.interval(row, c))}
        for row in table.rows
    }
    bars = {
        label: values for label, values in measured.items() if values and len(values) == len(shares)
    }
    if bars:
        path = folder / f"{name}.png"
        write_bars(path, table.title, bars)
        yield path, f"{table.title}, with 95 % intervals"
    curves = {
        c: {row.label: parts for row in table.rows if (parts := numbers.along(row, c))}
        for c in table.curves
    }
    if any(curves.values()):
        path = folder / f"{name}_along_the_film.png"
        write_curves(path, {table.curves[c]: rows for c, rows in curves.items() if rows})
        yield path, "Along the film, with 95 % intervals"
    for kind in table.kinds:
        shown, films = numbers.films(kind)
        if films:
            path = folder / f"{name}_{kind}.png"
            write_comparison(path, shown, films)
            yield path, f"The same stories by each model ({kind})"


def write_comparison(path: Path, shown: list[dict], rows: dict[str, list[np.ndarray]]) -> None:
    """Draws a block per story: its title, a caption per column, a line of stills per model."""
    height, width, _ = next(iter(rows.values()))[0][0].shape
    thumb = (THUMB_WIDTH, round(THUMB_WIDTH * height / width))
    columns = max(len(film) for films in rows.values() for film in films)
    captions = [
        [wrap(caption, font(14), THUMB_WIDTH)[:CAPTION_LINES] for caption in story["captions"]]
        for story in shown
    ]
    lines = max(len(caption) for of in captions for caption in of)
    block = TITLE + lines * LINE + len(rows) * (thumb[1] + GAP + 26) + 2 * GAP
    page = Image.new(
        "RGB",
        (2 * MARGIN + columns * (THUMB_WIDTH + GAP) - GAP, 2 * MARGIN + len(shown) * block),
        PAPER,
    )
    draw = ImageDraw.Draw(page)
    for number, story in enumerate(shown):
        y = MARGIN + number * block
        draw.text(
            (MARGIN, y), fit_text(story["title"], font(26), page.width - 2 * MARGIN), TEXT, font(26)
        )
        y += TITLE
        for column, caption in enumerate(captions[number]):
            for line, text in enumerate(caption):
                draw.text(
                    (MARGIN + column * (THUMB_WIDTH + GAP), y + line * LINE), text, SOFT, font(14)
                )
        y += lines * LINE + 4
        for label, films in rows.items():
            draw.text((MARGIN, y), label, ACCENT, font(18))
            for column, frame in enumerate(films[number] if number < len(films) else []):
                still = Image.fromarray(frame).resize(thumb, Image.Resampling.LANCZOS)
                page.paste(still, (MARGIN + column * (THUMB_WIDTH + GAP), y + 26))
            y += thumb[1] + GAP + 26
    save_png(path, page)


def write_bars(path: Path, title: str, rows: dict[str, dict[str, Interval]]) -> None:
    """Draws groups of bars by metric, with a bar per row."""
    figure, (axes,) = new_axes(1)
    groups = [fill(metric, 14) for metric in next(iter(rows.values()))]
    draw_bars(
        axes,
        {label: [interval[:3] for interval in values.values()] for label, values in rows.items()},
        groups,
    )
    axes.set_title(title)
    save_figure(figure, path)


def write_curves(path: Path, metrics: dict[str, dict[str, list[Interval]]]) -> None:
    """Draws a panel per metric, with a line per row over the parts of the film."""
    figure, panels = new_axes(len(metrics))
    for axes, (metric, rows) in zip(panels, metrics.items(), strict=True):
        for i, (label, parts) in enumerate(rows.items()):
            value, low, high = np.array([part[:3] for part in parts]).T
            x = np.arange(1, len(parts) + 1) + 0.06 * (i - (len(rows) - 1) / 2)
            axes.errorbar(
                x,
                value,
                yerr=np.abs([low - value, high - value]),
                capsize=3,
                marker="o",
                label=label,
            )
        axes.set_xlabel(f"part of the film, of {len(parts)}")
        axes.set_title(metric)
        of_all = [part for parts in rows.values() for part in parts]
        axes.set_ylim(0, 1.2 * np.nanmax([part[:3] for part in of_all]))
    panels[0].legend(loc="best", frameon=False, fontsize="small")
    save_figure(figure, path)
