"""Figure of significance: the pairwise differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

_SMALLEST = 0.05  # of accuracy: lower limit of the range of the colour map


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw the differences, the recipes in the order of the ranking."""
    return {"differences": draw_differences(result.tables["pairs"], list(result.tables["ranking"]["recipe"]))}


def draw_differences(pairs: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Draw the difference in accuracy (points), row minus column, of every two recipes; a star if significant."""
    place = {name: index for index, name in enumerate(order)}
    value = np.full((len(order), len(order)), np.nan)
    star = np.zeros(value.shape, dtype=bool)
    for first, second, ahead, significant in pairs[["a", "b", "difference", "significant"]].to_numpy(object):
        a, b = place[first], place[second]
        value[a, b], value[b, a] = 100 * ahead, -100 * ahead
        star[a, b] = star[b, a] = significant
    most = max(100 * _SMALLEST, float(np.nanmax(np.abs(value))))
    figure, axes = plots.create_axes(max(6.8, 3.6 + 0.55 * len(order)), max(4.4, 2.0 + 0.46 * len(order)))
    rounded = np.where(np.abs(value) < 0.05, "0.0", plots.format_cells("%+.1f", value, "–"))
    texts = np.char.add(np.char.replace(rounded, "-", "−"), np.where(star, " *", ""))
    image = plots.draw_cells(axes, value, texts, cmap="PuOr_r", vmin=-most, vmax=most)
    for text, significant in zip(axes.texts, star.flat, strict=True):
        text.set_fontweight("bold" if significant else "normal")
    names = plots.shorten_names(order, 30)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(_("Row minus column; * and bold: significantly different"), loc="left", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.9, label=_("difference in accuracy (points)"))
    return figure
