"""Charts: axes side by side, groups of bars with intervals, an atomic file."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from causalcine_jax.utils.atomic_file import atomic_file


def new_axes(panels: int):
    """Returns a figure with `panels` axes side by side, and the axes."""
    # Imported here, because only charts need matplotlib.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10 if panels == 1 else 5 * panels, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_bars(
    axes, rows: dict[str, list[tuple[float, float | None, float | None]]], groups: Sequence[str]
) -> None:
    """Draws fractions as bars: a group per name in `groups`, and in it a bar per row.

    A row has (value, low, high) for every group; low and high may be None or NaN.
    """
    width = 0.8 / len(rows)
    for i, (row, bounds) in enumerate(rows.items()):
        x = np.arange(len(groups)) + (i - (len(rows) - 1) / 2) * width
        value, low, high = np.array(bounds, float).T
        axes.bar(
            x, value, width * 0.92, yerr=np.abs([low - value, high - value]), capsize=3, label=row
        )
    axes.set_xticks(range(len(groups)), groups)
    axes.set_ylim(0, 1.02)
    axes.legend(ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13), frameon=False)


def save_figure(figure, path: Path) -> None:
    with atomic_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150)
