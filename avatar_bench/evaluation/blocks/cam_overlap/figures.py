"""Figures of cam_overlap: overlap of the maps of runs beside its null, by class and by pair, and raw maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from avatar_bench.evaluation.activation_figures import Arrays, draw_map_cells, draw_wall
from avatar_bench.evaluation.blocks.cam_overlap.overlap_tables import ALL_CLASSES
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.metrics.overlap import OVERLAP_MEASURES
from avatar_bench.results.headings import find_word
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw the overlap by class, by pair if there are several, and the raw maps of a few images if any are saved."""
    pairs, level = result.tables["pairs"], result.provenance["level"]
    drawn = {"overlap": draw_overlaps_by_class(result.tables["classes"], level)}
    if len(result.arrays["maps"]["runs"]) > 2:
        drawn["pairs"] = draw_overlaps_by_pair(pairs, level)
    if "gallery" in result.arrays:
        drawn["maps"] = _draw_gallery(result.arrays["maps"], result.arrays["gallery"])
    return drawn


@plots.use_style()
def draw_overlaps(table: pd.DataFrame, names: Sequence[str], level: float) -> Figure:
    """Draw each metric of the rows `names`, with its interval, over the range of its null; the first row at the top.

    `table` has one row per name and metric, those of a name together. A point that is not above the null is hollow.
    """
    figure = plots.create_figure(9.6, 1.95 + 0.3 * len(names))
    rows = np.arange(len(names))
    for axes, metric in zip(figure.subplots(1, len(OVERLAP_MEASURES), sharey=True), OVERLAP_MEASURES, strict=True):
        one = table[table["metric"] == metric]
        low, high, null = (one[end].to_numpy(dtype=float) for end in ("null_low", "null_high", "null_random"))
        axes.barh(rows, high - low, left=low, height=0.62, color="#D0D0D0")
        axes.plot(null, rows, "|", color="black", markersize=9, markeredgewidth=1.2)
        axes.hlines(rows, one["low"], one["high"], color=plots.get_colour(0), linewidth=1.4)
        axes.plot(one["value"], rows, "o", color=plots.get_colour(0), markersize=5, markerfacecolor="white")
        above = one["above_null"].to_numpy(dtype=bool)
        axes.plot(one["value"].to_numpy()[above], rows[above], "o", color=plots.get_colour(0), markersize=5)
        axes.set(xlabel=find_word(metric, "cam_overlap"), ylim=(len(names) - 0.5, -0.5))
        axes.set_xlim(min(-0.05, float(np.nanmin([one["low"].min(), low.min(), 0.0])) - 0.05), 1.05)
        axes.grid(axis="x")
    figure.axes[0].set_yticks(rows, names, fontsize=8)
    figure.legend(handles=_build_legend(level), loc="outside lower center", ncols=2, fontsize=8)
    return figure


def draw_overlaps_by_class(table: pd.DataFrame, level: float) -> Figure:
    """Draw the mean over pairs, for all images and for those of each class."""
    order = [ALL_CLASSES, *(name for name in dict.fromkeys(table["class"]) if name != ALL_CLASSES)]
    counts = table.groupby("class")["n"].max()
    shown = [find_word(ALL_CLASSES, "cam_overlap"), *plots.shorten_names(order[1:], 20)]
    names = [f"{name} (n = {counts[key]})" for key, name in zip(order, shown, strict=True)]
    parts = pd.concat([table[table["class"] == name] for name in order])
    return draw_overlaps(parts, names, level)


def draw_overlaps_by_pair(table: pd.DataFrame, level: float) -> Figure:
    """Draw the pairs of runs over all classes, the most similar first; at most 40 pairs."""
    pairs = table[table["class"] == ALL_CLASSES].astype({"a": str, "b": str})
    alike = pairs[pairs["metric"] == "spearman"].sort_values("value", ascending=False, kind="stable")
    order = list(zip(alike["a"], alike["b"], strict=True))[: plots.MAX_BARS]
    parts = pd.concat([pairs[(pairs["a"] == a) & (pairs["b"] == b)] for a, b in order])
    runs = list(dict.fromkeys([*pairs["a"], *pairs["b"]]))
    shown = dict(zip(runs, plots.shorten_names(runs, 30), strict=True))
    return draw_overlaps(parts, [f"{shown[a]}\n{shown[b]}" for a, b in order], level)


def _draw_gallery(maps: Arrays, gallery: Arrays) -> Figure:
    names = maps["classes"][maps["targets"][gallery["rows"]]]
    titles = [f"{name}\n{_('IoU {value:.2f}', value=iou)}" for name, iou in zip(names, gallery["iou"], strict=True)]
    about = _("image, its true class, and the IoU of the top 20 %, mean over pairs")
    return draw_wall(maps, gallery, range(len(titles)), titles, draw_map_cells, about)


def _build_legend(level: float) -> list[Line2D | Patch]:
    blue, alpha = plots.get_colour(0), 1 - level
    same = _("maps of the same image ({level:.0%} interval), p ≤ {alpha:.2g}", level=level, alpha=alpha)
    hollow = _("p > {alpha:.2g}", alpha=alpha)
    return [
        Line2D([], [], color=blue, marker="o", markersize=5, label=same),
        Line2D([], [], color=blue, marker="o", markersize=5, markerfacecolor="white", label=hollow),
        Patch(color="#D0D0D0", label=_("maps of different images of a class ({level:.0%} range)", level=level)),
        Line2D([], [], color="black", marker="|", linestyle="", markersize=9, label=_("shuffled cells (mean)")),
    ]
