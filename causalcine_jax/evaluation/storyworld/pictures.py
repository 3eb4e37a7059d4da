"""Two pictures beside the numbers: returns under each policy, and bars of recall."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from causalcine_jax.evaluation.storyworld.recall import CHANCE, TRUTH, VAE, RecallResult, ReturnCase
from causalcine_jax.evaluation.storyworld.true_films import true_film
from causalcine_jax.render.chart import draw_bars, new_axes, save_figure
from causalcine_jax.render.typography import (
    ACCENT,
    FAINT,
    PAPER,
    SOFT,
    TEXT,
    fit_text,
    font,
    save_png,
)

THUMB_WIDTH, GAP, MARGIN, LABEL = 300, 12, 48, 58
RIGHT, WRONG = (140, 206, 132), (232, 112, 100)
HEADS = {TRUTH: "true return", VAE: "through the VAE"}
RETURNS_SHOWN = 10
SHOWN = ("colour", "accessory", "joint", "mean")


def write_returns_sheet(path: Path, result: RecallResult) -> None:
    """Draws a row per return: first appearance, true return, and each policy's frame.

    Below each frame is what the judge read in it.
    """
    cases = len(result.cases)
    chosen = np.unique(np.linspace(0, cases - 1, min(RETURNS_SHOWN, cases)).astype(int))
    columns = list(result.verdicts)
    height, width, _ = result.stills[TRUTH][0].shape
    thumb = (THUMB_WIDTH, round(THUMB_WIDTH * height / width))
    row_height = thumb[1] + LABEL
    size = (
        2 * MARGIN + (1 + len(columns)) * (THUMB_WIDTH + GAP) - GAP,
        2 * MARGIN + 40 + len(chosen) * (row_height + GAP),
    )
    page = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(page)
    for column, name in enumerate(["first appearance", *(HEADS.get(row, row) for row in columns)]):
        draw.text((MARGIN + column * (THUMB_WIDTH + GAP), MARGIN - 8), name, ACCENT, font(24))
    for line, number in enumerate(chosen):
        y = MARGIN + 40 + line * (row_height + GAP)
        case = result.cases[number]
        character = case.character
        _cell(
            page,
            draw,
            0,
            y,
            thumb,
            _first_seen(case),
            f"{character.name} the {character.species}",
            (f"{character.colour}, {character.accessory}", TEXT),
        )
        for column, row in enumerate(columns, start=1):
            verdict = result.verdicts[row][number]
            found = verdict.found
            answer = (
                ("not found", WRONG)
                if found is None
                else (f"{found.colour}, {found.accessory}", RIGHT if verdict.joint else WRONG)
            )
            note = (
                f"chunk {case.back.chunk + 1}, last seen in {case.back.last_seen_chunk + 1}"
                if row == TRUTH
                else ""
            )
            _cell(page, draw, column, y, thumb, result.stills[row][number], note, answer)
    save_png(path, page)


def _cell(
    page,
    draw,
    column: int,
    y: int,
    thumb: tuple[int, int],
    frame: UInt8[np.ndarray, "h w 3"],
    note: str,
    answer: tuple[str, tuple],
) -> None:
    x = MARGIN + column * (THUMB_WIDTH + GAP)
    page.paste(Image.fromarray(frame).resize(thumb, Image.Resampling.LANCZOS), (x, y))
    draw.text((x + 2, y + thumb[1] + 4), answer[0], answer[1], font(20))
    draw.text(
        (x + 2, y + thumb[1] + 30),
        fit_text(note, font(16), THUMB_WIDTH),
        SOFT if column == 0 else FAINT,
        font(16),
    )


def _first_seen(case: ReturnCase) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the middle frame of the true shot in which the character first appears."""
    shot = next(shot for shot in case.story.shots if case.back.character in shot.cast)
    return true_film(case.story)[shot.frames[len(shot.frames) // 2]]


def write_recall_chart(path: Path, report: dict[str, Any]) -> None:
    """Draws every row's colour, accessory, joint and mean recall, with 95 % intervals.

    A dashed line marks chance.
    """
    rows = report["primary"]["rows"]
    figure, (axes,) = new_axes(1)
    label = lambda row: {**HEADS, TRUTH: "judge on truth"}.get(row) or row
    bounds = lambda values: [
        tuple(values[name][end] for end in ("value", "low", "high")) for name in SHOWN
    ]
    draw_bars(axes, {label(row): bounds(values) for row, values in rows.items()}, SHOWN)
    for i, name in enumerate(SHOWN):
        axes.hlines(
            CHANCE[name],
            i - 0.45,
            i + 0.45,
            colors="black",
            linestyles="dashed",
            label="chance" if i == 0 else None,
        )
    axes.set_ylabel("recall")
    axes.set_title(
        f"What memory carries: {report['primary']['returns']} returns "
        "after absences longer than the window"
    )
    axes.legend(ncols=len(rows) + 1, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    save_figure(figure, path)
