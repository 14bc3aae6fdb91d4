"""Figures of leave_one_source_out: recall and predicted classes by source, and recipes side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator, PercentFormatter

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

SourceClass = tuple[str, str]  # a source and the class of its images
MAX_DOTTED_RECIPES = 4  # more would make a dot plot of each source unreadable


def draw(result: Result) -> dict[str, Figure]:
    """Draw the predicted classes of each source, its recall by recipe, and the summary and curve of the recipes."""
    matrix = result.tables["matrix"].astype(dict.fromkeys(("recipe", "source", "target"), str))
    summary = result.tables["summary"].astype({"recipe": str, "base": str})
    figures = {"predicted_as": draw_predictions(matrix, result.classes)}
    if len(summary) <= MAX_DOTTED_RECIPES:
        figures["recall"] = draw_recall(matrix, summary.set_index("recipe")["mean"], result.classes)
    if len(summary) > 1:
        figures |= {"by_recipe": draw_heatmap(matrix, summary, result.classes), "gain": draw_gains(summary)}
    if "curve" in result.tables:
        figures["curve"] = draw_curve(result.tables["curve"].astype({"recipe": str}))
    return figures


@plots.use_style()
def draw_recall(matrix: pd.DataFrame, means: pd.Series, classes: Sequence[str]) -> Figure:
    """Draw the recall of each source with its interval, one marker per recipe, by class and then by recall.

    Hollow markers are sources with too few images to count; dashed lines are the means of the recipes.
    """
    sources = _sort_sources(matrix, classes)
    recipes = list(dict.fromkeys(matrix["recipe"]))
    shown = plots.shorten_names(recipes, 44)
    step = min(0.2, 0.7 / len(recipes))
    height = 0.24 + 0.05 * (len(recipes) - 1)
    figure, axes = plots.create_axes(7.2, 1.6 + height * len(sources) + 0.18 * len(recipes))
    for index, recipe in enumerate(recipes):
        own = matrix[matrix["recipe"] == recipe]
        _draw_marks(axes, own, sources, index, step * (index - (len(recipes) - 1) / 2))
        axes.axvline(means[recipe], color=plots.get_colour(index), linestyle="--")
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
    figure, axes = plots.create_axes(4.0 + 0.8 * len(classes), 1.4 + 0.24 * len(sources))
    texts = np.vectorize(_format_percent, otypes=[object])(share)
    image = plots.draw_cells(axes, share, texts, 7, vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), plots.shorten_names(classes, 16))
    axes.set(xlabel=_("predicted class"))
    axes.set_yticks(range(len(sources)), _format_rows(matrix, sources), fontsize=8)
    axes.set_ylabel(_("source, by true class (framed)"))
    plots.frame_true_classes(axes, [list(classes).index(target) for __, target in sources])
    figure.colorbar(image, ax=axes, shrink=0.9, format=PercentFormatter(1.0), label=_("share of row (%)"))
    return figure


@plots.use_style()
def draw_heatmap(matrix: pd.DataFrame, summary: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the recall of each source, by class and then by recall, for each recipe, above its mean and its worst.

    Sources with too few images to count are in brackets; a cell without a run is empty.
    """
    sources, recipes = _sort_sources(matrix, classes), list(summary["recipe"])
    pivot = matrix.pivot(index=["source", "target"], columns="recipe", values="recall")
    means = summary.set_index("recipe").loc[recipes, ["mean", "worst"]].T
    values = np.vstack([pivot.loc[sources, recipes], means]).astype(np.float64)
    shared, names = _drop_shared_words(recipes)
    names = plots.shorten_names(names, 40)
    figure, axes = plots.create_axes(3.6 + 0.5 * len(recipes), 1.3 + 0.2 * len(values) + 0.075 * max(map(len, names)))
    texts = plots.format_cells("%.0f", 100 * values, "")
    plots.draw_cells(axes, values, texts, 7, vmin=0, vmax=1)
    axes.axhline(len(sources) - 0.5, color="white", linewidth=4)
    axes.set_xticks(range(len(recipes)), names, rotation=90, fontsize=8)
    counted = matrix.groupby(["source", "target"])["counted"].any()
    rows = _format_rows(matrix, sources)
    rows = [row if counted[key] else f"[{row}]" for row, key in zip(rows, sources, strict=True)]
    axes.set_yticks(range(len(values)), [*rows, _("mean"), _("worst")], fontsize=8)
    for tick, (__, target) in zip(axes.get_yticklabels(), sources, strict=False):
        tick.set_color(plots.get_colour(list(classes).index(target)))
    axes.tick_params(length=0)
    for index, name in enumerate(classes):
        axes.plot([], [], "s", color=plots.get_colour(index), label=plots.shorten_name(name))
    figure.legend(loc="outside upper center", ncols=len(classes))
    figure.supxlabel("\n".join(filter(None, [_("recall on the held-out source (%)"), plots.shorten_name(shared, 60)])))
    return figure


@plots.use_style()
def draw_gains(summary: pd.DataFrame) -> Figure:
    """Draw the mean and the worst recall of each recipe, and its gain over the base recipe, with intervals."""
    rows = np.arange(len(summary))
    figure = plots.create_figure(8.4, 1.3 + 0.32 * len(summary))
    left, right = figure.subplots(1, 2, sharey=True)
    kinds = {"mean": _("mean"), "worst": _("worst")}
    for axes, name, marker, aside in ((left, "mean", "o", -0.12), (left, "worst", "x", 0.12), (right, "gain", "o", 0)):
        colour = plots.get_colour(1 if name == "worst" else 0)
        axes.hlines(rows + aside, summary[f"{name}_low"], summary[f"{name}_high"], color=colour, linewidth=1.1)
        axes.plot(summary[name], rows + aside, marker, color=colour, markersize=5, label=kinds.get(name))
        plots.format_percent_axis(axes.xaxis)
        axes.grid(True, axis="x")
    right.plot(0, rows[summary["recipe"] == summary["base"]], "D", color=plots.GREY, markersize=5)
    right.axvline(0, color=plots.GREY, linewidth=0.8)
    left.set(xlim=(-0.01, 1.01), xlabel=_("recall on held-out sources (%)"), ylim=(len(rows) - 0.4, -0.6))
    right.set_xlabel(_("gain over the base (points)"))
    shared, names = _drop_shared_words(list(summary["recipe"]))
    left.set_yticks(rows, plots.shorten_names(names, 44), fontsize=8)
    figure.suptitle(plots.shorten_name(shared, 90), fontsize=9)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


@plots.use_style()
def draw_curve(curve: pd.DataFrame) -> Figure:
    """Draw the mean recall on held-out sources over the number of training sources per class, a line per recipe."""
    names = list(dict.fromkeys(curve["recipe"]))
    figure, axes = plots.create_axes(5.6, 3.8 + 0.2 * len(names))
    for index, (name, shown) in enumerate(zip(names, plots.shorten_names(names, 44), strict=True)):
        own, colour = curve[curve["recipe"] == name], plots.get_colour(index)
        shifted = own["train_sources"] * (1 + 0.02 * (index - (len(names) - 1) / 2))  # so that intervals stay apart
        axes.plot(shifted, own["mean"], f"{plots.get_marker(index)}-", color=colour, markersize=5, label=shown)
        axes.vlines(shifted, own["low"], own["high"], color=colour, linewidth=1.2)
    numbers = sorted(set(curve["train_sources"]))
    axes.set_xscale("log")
    axes.set_xticks(numbers, [str(number) for number in numbers])
    axes.xaxis.set_minor_locator(NullLocator())
    plots.format_percent_axis(axes.yaxis)
    axes.set(xlabel=_("training sources per class (log scale)"), ylabel=_("recall on held-out sources (%)"))
    axes.grid(True)
    figure.legend(loc="outside lower center")
    return figure


def _format_percent(share: float) -> str:
    """Format a proportion in whole percent, with "<1%" and ">99%" in place of a rounded 0% and 100%."""
    if 0 < share < 0.005:
        return "<1%"
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def _drop_shared_words(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the first words that all names share, and the names without them; a name keeps its last word."""
    words = [name.split(" ") for name in names]
    n = next((n for n, each in enumerate(zip(*words, strict=False)) if len(set(each)) > 1), len(min(words, key=len)))
    n = min(n, min(map(len, words)) - 1)
    return " ".join(words[0][:n]), [" ".join(each[n:]) for each in words]


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
