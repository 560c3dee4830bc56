"""Drawing helpers shared by the notebooks."""

from collections.abc import Sequence
from typing import Any

import numpy as np

WHITE_BELOW = 0.5
"""Luminance of a cell below which its number is written in white."""


def draw_heatmap(
    ax: Any,
    values: np.ndarray,
    *,
    rows: Sequence[Any],
    columns: Sequence[Any],
    limits: tuple[float, float],
    cmap: str,
    form: str = "{:g}",
) -> Any:
    """A table of numbers on colors; returns the image, for a color bar."""
    low, high = limits
    image = ax.imshow(values, cmap=cmap, vmin=low, vmax=high, aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        red, green, blue = image.cmap(image.norm(value))[:3]
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < WHITE_BELOW
        style = {"ha": "center", "va": "center", "color": "white" if dark else "black"}
        ax.text(x, y, form.format(value), fontsize=8, **style)
    ax.set(xticks=range(len(columns)), xticklabels=columns)
    ax.set(yticks=range(len(rows)), yticklabels=rows)
    return image


def mark_boundaries(ax: Any, turns: Sequence[float], *, across: bool = False) -> None:
    """Lines before the turns that open a segment; `across` also draws them horizontally."""
    for turn in turns:
        ax.axvline(turn - 0.5, color="crimson", lw=1)
        if across:
            ax.axhline(turn - 0.5, color="crimson", lw=1)
