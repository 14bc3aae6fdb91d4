"""Figures of leave_one_source_out: recall and predicted classes by source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

SourceClass = tuple[str, str]  # a source and the class of its images


def draw(result: Result) -> dict[str, Figure]:
    """Draw the recall and the predicted classes of each source."""
    matrix = result.tables["matrix"].astype(dict.fromkeys(("recipe", "source", "target"), str))
    return {"recall": draw_recall(matrix, result.classes), "predicted_as": draw_predictions(matrix, result.classes)}


@plots.use_style()
def draw_recall(matrix: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the recall of each source with its interval, one marker per recipe, by class and then by recall.

    Hollow markers are sources with too few images to count; dashed lines are the means of the recipes.
    """
    sources = _sort_sources(matrix, classes)
    recipes = list(dict.fromkeys(matrix["recipe"]))
    shown = plots.shorten_names(recipes, 44)
    step = min(0.2, 0.7 / len(recipes))
    height = 0.24 + 0.05 * (len(recipes) - 1)
    figure = plots.create_figure(7.2, 1.6 + height * len(sources) + 0.18 * len(recipes))
    axes = figure.subplots()
    for index, recipe in enumerate(recipes):
        own = matrix[matrix["recipe"] == recipe]
        _draw_marks(axes, own, sources, index, step * (index - (len(recipes) - 1) / 2))
        axes.axvline(float(own.loc[own["counted"], "recall"].mean()), color=plots.get_colour(index), linestyle="--")
        axes.plot([], [], plots.get_marker(index), color=plots.get_colour(index), label=shown[index])
    # colours stand for recipes here, so the labels name the class
    axes.set_yticks(range(len(sources)), _format_rows(matrix, sources, with_class=True), fontsize=8)
    for row in range(1, len(sources)):
        if sources[row][1] != sources[row - 1][1]:
            axes.axhline(row - 0.5, color=plots.GREY, linewidth=0.6)
    axes.set(xlim=(-0.01, 1.01), ylim=(len(sources) - 0.4, -0.6))
    axes.set_xlabel(_("recall on sources held out of training (%)"))
    plots.format_percent_axis(axes.xaxis)
    axes.grid(axis="x")
    figure.legend(loc="outside lower center", title=_("dashed: mean; hollow: too few images"))
    return figure


@plots.use_style()
def draw_predictions(matrix: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the proportion of each predicted class by source, averaged over recipes; the true class is framed."""
    sources = _sort_sources(matrix, classes)
    columns = [f"predicted_as_{name}" for name in classes]
    means = matrix.groupby(["source", "target"])[columns].mean()
    share = means.loc[sources].to_numpy(dtype=np.float64)
    figure = plots.create_figure(4.0 + 0.8 * len(classes), 1.4 + 0.24 * len(sources))
    axes = figure.subplots()
    texts = np.vectorize(_format_percent, otypes=[object])(share)
    image = plots.draw_cells(axes, share, texts, 7, vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), plots.shorten_names(classes, 16))
    axes.set(xlabel=_("predicted class"))
    axes.set_yticks(range(len(sources)), _format_rows(matrix, sources), fontsize=8)
    axes.set_ylabel(_("source, by true class (framed)"))
    plots.frame_true_classes(axes, [list(classes).index(target) for __, target in sources])
    figure.colorbar(image, ax=axes, shrink=0.9, format=PercentFormatter(1.0), label=_("share of row (%)"))
    return figure


def _format_percent(share: float) -> str:
    """Format a proportion in whole percent, with "<1%" and ">99%" in place of a rounded 0% and 100%."""
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _sort_sources(matrix: pd.DataFrame, classes: Sequence[str]) -> list[SourceClass]:
    """Return each source and class once, by class and then by increasing recall."""
    means = matrix.groupby(["source", "target"])["recall"].mean()
    return sorted(means.index, key=lambda key: (list(classes).index(key[1]), means[key], key[0]))


def _draw_marks(axes: Axes, own: pd.DataFrame, sources: list[SourceClass], index: int, aside: float) -> None:
    """Draw one recipe's markers and intervals, shifted slightly from the centre of each row."""
    rows = np.array([sources.index(key) for key in zip(own["source"], own["target"], strict=True)]) + aside
    colour, counted = plots.get_colour(index), own["counted"].to_numpy(dtype=bool)
    axes.hlines(rows, own["low"], own["high"], color=colour, linewidth=1.1)
    for which, fill in ((counted, colour), (~counted, "white")):
        shown = (own["recall"][which], rows[which], plots.get_marker(index))
        axes.plot(*shown, color=colour, markerfacecolor=fill, linestyle="", markersize=4.5)


def _format_rows(matrix: pd.DataFrame, sources: list[SourceClass], with_class: bool = False) -> list[str]:
    sizes = matrix.groupby(["source", "target"])["n"].max()
    names = [", ".join(key) if with_class else key[0] for key in sources]
    return [f"{name} (n = {sizes[key]})" for name, key in zip(plots.shorten_names(names, 34), sources, strict=True)]
