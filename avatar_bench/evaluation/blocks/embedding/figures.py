"""Figures of embedding: one map twice, coloured by class and by source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.headings import find_word
from avatar_bench.results.result import Result

_MARKERS = "s^Dv<>PX"  # without the circle, which marks classes


def draw(result: Result) -> dict[str, Figure]:
    """Draw the map of each method."""
    saved = result.arrays["embeddings"]
    named, methods = int(saved["named_sources"]), saved["methods"].tolist()
    tables = [result.tables["points"], *(result.tables[f"points_{method}"] for method in methods[1:])]
    return {
        method: _draw_maps(table, result.classes, method, named) for method, table in zip(methods, tables, strict=True)
    }


@plots.use_style()
def _draw_maps(table: pd.DataFrame, classes: Sequence[str], method: str, named: int) -> Figure:
    """Draw the points of images by true class, left, and by source, right, where the largest are named."""
    points = table.fillna({"target": "", "source": ""})
    rows = -(-max(len(classes), min(named, points["source"].nunique()) + 1) // 2)
    figure = plots.create_figure(8.6, 4.7 + 0.15 * rows)
    by_class, by_source = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_points(by_class, points[points["target"] == ""], plots.GREY, "o", _("not known"))
    for index, (name, shown) in enumerate(zip(classes, plots.shorten_names(classes), strict=True)):
        _draw_points(by_class, points[points["target"] == name], plots.get_colour(index), "o", shown)
    _draw_sources(by_source, points, named)
    by_class.set_title(_("by class"))
    by_source.set_title(_("by source"))
    for axes in (by_class, by_source):
        axes.set(xticks=[], yticks=[], xlabel=_("{method}, first axis", method=find_word(method, "embedding")))
        axes.set_box_aspect(1)
        axes.set_anchor("N")  # leaves the room below the square for the legend
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, fontsize=7, handletextpad=0.2)
    by_class.set_ylabel(_("{method}, second axis", method=find_word(method, "embedding")))
    return figure


def _draw_sources(axes: Axes, points: pd.DataFrame, named: int) -> None:
    sources = points["source"]
    names, counts = np.unique(sources[sources != ""].to_numpy(str), return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:named].tolist()
    for index, (name, shown) in enumerate(zip(largest, plots.shorten_names(largest), strict=True)):
        marker = _MARKERS[(index + index // len(plots.PALETTE)) % len(_MARKERS)]
        _draw_points(axes, points[sources == name], plots.get_colour(index), marker, shown)
    others = len(names) - len(largest)
    label = _("{n} others", n=others) if others else _("not known")
    _draw_points(axes, points[~sources.isin(largest)], "#BBBBBB", ".", label)


def _draw_points(axes: Axes, points: pd.DataFrame, colour: str, marker: str, name: str) -> None:
    if len(points):
        label = f"{name} ({len(points)})"
        axes.scatter(points["x"], points["y"], s=11, c=colour, marker=marker, alpha=0.75, linewidths=0, label=label)
