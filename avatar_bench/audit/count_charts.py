"""Bar charts of image counts by class, split and source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from avatar_bench.i18n import _
from avatar_bench.metrics import plots


@plots.use_style()
def draw_counts(images: pd.DataFrame, splits: Sequence[str]) -> Figure:
    """Draw image counts by class, split and source: bars stacked by class, with the total at the end.

    `images` has one row per image with label, source and split; `splits` is the order of the splits. Classes missing
    from the first split come last, so that the others keep their colours. Only the 40 largest sources are shown, and
    none if none is known.
    """
    first = set(images["label"][images["split"] == splits[0]])
    classes = sorted(set(images["label"]), key=lambda label: (label not in first, label))
    by_class = pd.crosstab(images["label"], images["label"]).reindex(index=classes, columns=classes)
    by_split = pd.crosstab(images["split"], images["label"]).reindex(index=list(splits), columns=classes)
    by_source = pd.crosstab(images["source"], images["label"]).reindex(columns=classes)
    order = np.lexsort((-by_source.sum(axis=1), by_source.to_numpy().argmax(axis=1)))
    largest = by_source.sum(axis=1).nlargest(plots.MAX_BARS).index
    by_source = by_source.iloc[order].loc[lambda table: table.index.isin(largest)]
    has_sources = by_source.index.astype(str).str.len().any()
    rows = max(len(by_class) + len(by_split) + 4, len(by_source))
    figure = plots.create_figure(8.4 if has_sources else 4.4, 1.5 + 0.22 * rows)
    grid = figure.add_gridspec(2, 2 if has_sources else 1, height_ratios=[len(by_class) + 1, len(by_split) + 1])
    _draw_stack(figure.add_subplot(grid[0, 0]), by_class, _("By class"))
    _draw_stack(figure.add_subplot(grid[1, 0]), by_split, _("By split")).set_xlabel(_("images"))
    if has_sources:
        _draw_stack(figure.add_subplot(grid[:, 1]), by_source, _("By source")).set_xlabel(_("images"))
    handles = [
        Patch(color=plots.get_colour(index), label=plots.shorten_name(name)) for index, name in enumerate(classes)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(classes)))
    return figure


def _draw_stack(axes: Axes, counts: pd.DataFrame, title: str) -> Axes:
    """Draw one bar per row, the first on top, stacked by class (columns)."""
    values = counts.fillna(0).to_numpy()
    starts = np.cumsum(values, axis=1) - values
    rows = np.arange(len(counts))
    for index in range(values.shape[1]):
        axes.barh(rows, values[:, index], left=starts[:, index], color=plots.get_colour(index), height=0.72)
    for row, total in enumerate(values.sum(axis=1)):
        axes.annotate(f"{total:,.0f}", (total, row), (3, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(rows, [plots.shorten_name(str(name) or _("not known"), 30) for name in counts.index])
    axes.set(title=title, xlim=(0, 1.16 * values.sum(axis=1).max()), ylim=(len(rows) - 0.4, -0.6))
    axes.grid(axis="x")
    return axes
