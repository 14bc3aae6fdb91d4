"""Numbers beside the points of a chart, placed so that each can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from avatar_bench import plots

Floats = NDArray[np.float64]

# all in points, from the middle of a marker to that of its number; near ones first, of these the upper right
_RINGS = np.arange(10.0, 90.0, 4.0)
_ANGLES = np.radians(40 + np.arange(0, 360, 20))
_WAYS = (_RINGS[:, None, None] * np.column_stack([np.cos(_ANGLES), np.sin(_ANGLES)])).reshape(-1, 2)
_DOT = 4.0  # to the edge of a marker
_STYLE: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": 8}
_LINE = {"arrowstyle": "-", "color": plots.GREY, "linewidth": 0.6, "shrinkA": 4, "shrinkB": 0}


def number_points(figure: Figure, axes: Axes, rows: pd.DataFrame) -> None:
    """Write the `number` of each row beside its point, x and y, clear of all points and of all other numbers.

    Where it can be, a number is clear of the intervals, low to high, too; a line leads to one that is further off. Draw
    all else before: where the layout puts the axes decides how far points stand apart.
    """
    figure.draw_without_rendering()
    middles, lows, highs = (
        axes.transData.transform(rows[["x", name]]) * 72 / figure.dpi for name in ("y", "low", "high")
    )
    taken = np.stack([middles - _DOT, middles + _DOT], axis=1)  # (n, 2, 2): of each box the lower left, upper right
    bars = np.stack([lows - 1, highs + 1], axis=1)
    frame = axes.bbox.get_points() * 72 / figure.dpi
    for number, x, y, middle in zip(rows["number"], rows["x"], rows["y"], middles, strict=True):
        half = np.array([2.5 * len(f"{number}") + 1.5, 4.5])  # as wide and high as digits of 8 points are, and a gap
        boxes = middle + _WAYS[:, None] + np.stack([-half, half])
        outside = ((boxes < frame[0]) | (boxes > frame[1])).any(axis=(1, 2))
        best = np.lexsort((_overlaps(boxes, bars), outside + _overlaps(boxes, taken)))[0]  # of equal ones the nearest
        taken = np.concatenate([taken, boxes[best : best + 1]])
        axes.annotate(f"{number}", (x, y), _WAYS[best], **_STYLE)
        away = np.hypot(*_WAYS[best])
        if away > _RINGS[1] or (np.hypot(*(middles - middle - _WAYS[best]).T) < away - _DOT).any():  # another is nearer
            axes.annotate("", (x, y), _WAYS[best], arrowprops=_LINE, zorder=1.5, **_STYLE)


def _overlaps(boxes: Floats, others: Floats) -> NDArray[np.intp]:
    """Count the boxes (M, 2, 2) that each of (N, 2, 2) overlaps, (N,)."""
    apart = (boxes[:, None, 0] >= others[:, 1]) | (boxes[:, None, 1] <= others[:, 0])
    return np.asarray((~apart.any(axis=2)).sum(axis=1))
