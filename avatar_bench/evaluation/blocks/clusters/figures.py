"""Figures of clusters: silhouettes by class, heatmaps of mean distances, and maps coloured by class and by source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.declaration import find_word
from avatar_bench.results.result import Result

_MARKERS = "s^Dv<>PX"  # without the circle, which marks classes


def draw(result: Result) -> dict[str, Figure]:
    """Draw silhouettes, and a map by method; either may be absent."""
    drawn = {}
    if "distances" in result.tables:
        drawn["silhouettes"] = _draw_silhouettes(result.tables["images"], result.classes)
    if "points" in result.tables:
        saved = result.arrays.get("points") or result.arrays["embeddings"]  # of an earlier version
        for number, method in enumerate(saved["methods"].tolist()):
            table = result.tables[f"points_{method}" if number else "points"]
            drawn[method] = _draw_maps(table, result.classes, method, int(saved["named_sources"]))
    return drawn


@plots.use_style()
def _draw_silhouettes(images: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the silhouette of each image, sorted within its class, with the mean of each class and of all."""
    value, targets = images["silhouette"].to_numpy(), images["target"].to_numpy()
    present = [index for index, name in enumerate(classes) if (targets == name).any()]
    figure, axes = plots.create_axes(5.6, 1.4 + 0.9 * len(present))
    gap, start = 0.03 * len(value), 0.0
    middles = []
    for index in present:
        of_class = np.sort(value[targets == classes[index]])[::-1]
        rows = start + np.arange(len(of_class))
        axes.fill_betweenx(rows, 0, of_class, color=plots.get_colour(index), alpha=0.75, linewidth=0, step="mid")
        axes.plot([of_class.mean()] * 2, [rows[0], rows[-1]], color="black", linewidth=1)
        middles.append(rows.mean())
        start = rows[-1] + 1 + gap
    axes.axvline(value.mean(), color="black", linestyle="--", linewidth=1)
    axes.axvline(0, color=plots.GREY, linewidth=0.8)
    shown = plots.shorten_names(classes, 18)
    names = [f"{shown[index]}\nn = {(targets == classes[index]).sum()}" for index in present]
    axes.set_yticks(middles, names)
    axes.set(ylim=(start, -gap), xlabel=_("silhouette (line: mean of the class, dashed: of all)"))
    axes.grid(axis="x")
    return figure


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
        axes.set(xticks=[], yticks=[], xlabel=_("{method}, first axis", method=find_word(method, "clusters")))
        axes.set_box_aspect(1)
        axes.set_anchor("N")  # leaves the room below the square for the legend
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, fontsize=7, handletextpad=0.2)
    by_class.set_ylabel(_("{method}, second axis", method=find_word(method, "clusters")))
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
