"""Figures of the blocks ensemble and ensemble_diversity."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.metrics.plots import number_points
from avatar_bench.results.result import Metric, Result

_MAX_RUNS_WITH_NUMBERS = 14  # with more runs, numbers in the cells of a heatmap are illegible
_MAX_NUMBERED_POINTS = 45  # with more points, numbers beside them are illegible


def name_strategies() -> dict[str, str]:
    """Return the display name of each strategy."""
    return {
        "soft_vote": _("soft vote"),
        "accuracy_ece": _("accuracy × (1 − ECE)"),
        "greedy": _("greedy selection"),
        "scaled_vote": _("scaled soft vote"),
        "soup": _("weight soup"),
    }


def draw(result: Result, labels: Sequence[str], colours: Sequence[int], single: int) -> dict[str, Figure]:
    """Draw the figures of the block ensemble from its metrics and tables; `colours` number each run's recipe."""
    contributions = [result.metrics[f"contribution/{label}"] for label in labels]
    return {
        "gain": draw_gain(result.metrics, result.n, labels[single], colours[single]),
        "weights": draw_weights(result.tables["weights"], labels),
        "contribution": draw_contribution(contributions, labels, colours),
    }


@plots.use_style()
def draw_gain(metrics: Mapping[str, Metric], n: int, single: str, colour: int) -> Figure:
    """Draw each strategy's accuracy and macro-F1 on n images beside the single run's, and its gains, with intervals."""
    words = name_strategies()
    names = [name for name in words if metrics[f"accuracy/{name}"].value is not None]
    figure = plots.create_figure(8.2, 2.6 + 0.64 * (len(names) + 1))
    grid = figure.subplots(2, 2, sharey=True)
    for (left, right), kind, over in zip(grid, ("accuracy", "macro_f1"), ("gain", "gain_macro_f1"), strict=True):
        _draw_intervals(
            left, [metrics[f"{kind}/{name}"] for name in ("single", *names)], [colour, *[None] * len(names)]
        )
        _draw_intervals(right, [None, *(metrics[f"{over}/{name}"] for name in names)], [None] * (len(names) + 1))
        _draw_reference(left, 100 * float(metrics[f"{kind}/single"].value or 0))
        _draw_reference(right, 0)
    (left, right), (below, beside) = grid
    left.set_yticks(range(len(names) + 1), [plots.shorten_name(single, 30), *(words[name] for name in names)])
    left.set_ylim(len(names) + 0.5, -0.5)
    left.set(xlabel=_("accuracy on {n} images (%)", n=n), title=_("Accuracy and macro-F1"))
    right.set(xlabel=_("gain in accuracy (points)"), title=_("Gain over the single run"))
    below.set(xlabel=_("macro-F1 on {n} images (%)", n=n))
    beside.set(xlabel=_("gain in macro-F1 (points)"))
    return figure


@plots.use_style()
def draw_weights(table: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Draw the weight of each run in each strategy."""
    words = name_strategies()
    names = [name for name in words if name in set(table["strategy"])]
    rows = [table[table["strategy"] == name].set_index("run")["weight"].reindex(list(labels)) for name in names]
    share = np.column_stack(rows).astype(float)
    figure = plots.create_figure(3.4 + 0.95 * len(names), 1.7 + 0.3 * len(labels))
    axes = figure.subplots()
    image = axes.imshow(share, vmin=0, vmax=max(0.5, share.max()), aspect="auto")
    axes.set_xticks(range(len(names)), [textwrap.fill(words[name], 12) for name in names], fontsize=8)
    axes.set_yticks(range(len(labels)), plots.shorten_names(labels, 34))
    axes.spines[:].set_visible(False)
    for (row, column), weight in np.ndenumerate(share):
        ink = "white" if weight > 0.6 * max(0.5, share.max()) else "black"
        axes.text(column, row, f"{weight:.1%}" if weight else "-", ha="center", va="center", color=ink, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.9, format=PercentFormatter(1.0), label=_("weight (%)"))
    return figure


@plots.use_style()
def draw_contribution(metrics: Sequence[Metric], labels: Sequence[str], colours: Sequence[int]) -> Figure:
    """Draw the accuracy that soft voting loses without each run, with intervals, the largest loss at the top."""
    order = np.argsort([-(metric.value or 0) for metric in metrics], kind="stable")
    figure = plots.create_figure(6.6, 1.3 + 0.3 * len(labels))
    axes = figure.subplots()
    _draw_intervals(axes, [metrics[row] for row in order], [colours[row] for row in order])
    axes.set_yticks(range(len(labels)), plots.shorten_names((labels[row] for row in order), 34))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    _draw_reference(axes, 0)
    axes.set_xlabel(_("accuracy lost by soft voting without the run (points)"))
    return figure


@plots.use_style()
def draw_pairs(values: NDArray[np.float64], labels: Sequence[str], label: str, signed: bool) -> Figure:
    """Draw a measure of every pair of runs, (M, M) and symmetric, as a triangle; NaN means no value.

    The colour scale is -1 to 1 if the measure is `signed`, else 0 to the largest value.
    """
    size = len(labels)
    figure = plots.create_figure(max(4.8, 3.0 + 0.48 * size), max(4.4, 2.4 + 0.48 * size))
    axes = figure.subplots()
    shown = np.ma.masked_where(np.triu(np.ones((size, size), bool)) | np.isnan(values), values)
    high = 1.0 if signed else max(0.01, float(np.nan_to_num(values).max()))
    colours = "RdBu_r" if signed else "Blues"
    image = axes.imshow(shown[1:, :-1], vmin=-high if signed else 0, vmax=high, cmap=colours)
    names = plots.shorten_names(labels, 28)
    axes.set_xticks(range(size - 1), names[:-1], rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(size - 1), names[1:], fontsize=8)
    axes.spines[:].set_visible(False)
    for row in range(1, size if size <= _MAX_RUNS_WITH_NUMBERS else 1):
        for column in range(row):
            value = values[row, column]
            text = "-" if np.isnan(value) else f"{value:.2f}"
            ink = "white" if abs(value) > 0.62 * high else "black"
            axes.text(column, row - 1, text, ha="center", va="center", color=ink, fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    return figure


@plots.use_style()
def draw_kappa_error(table: pd.DataFrame, accuracies: Mapping[str, float], colours: Mapping[str, int]) -> Figure:
    """Draw each pair's kappa against its mean error; each half of a marker has the colour of one of the runs.

    If runs of one recipe share a colour, runs and pairs are numbered, up to 45 pairs. Margineantu and Dietterich, ICML
    1997: pairs at the lower left are accurate and diverse, and averaging gains from them.
    """
    number = {name: place for place, name in enumerate(colours, 1)}
    numbered = len(set(colours.values())) < len(colours) and len(table) <= _MAX_NUMBERED_POINTS
    figure = plots.create_figure(7.6, 4.2 + 0.2 * max(0, len(colours) - 12))
    axes = figure.subplots()
    points = []
    for row in table.to_dict("records"):
        a, b = str(row["a"]), str(row["b"])
        sign = plots.get_marker(max(colours[a], colours[b]))
        style: dict[str, Any] = {"marker": sign, "markersize": 9, "fillstyle": "left", "markeredgecolor": "black"}
        halves: dict[str, Any] = {
            "color": plots.get_colour(colours[a]),
            "markerfacecoloralt": plots.get_colour(colours[b]),
        }
        error = 100 - 50 * (accuracies[a] + accuracies[b])
        axes.plot(row["kappa"], error, markeredgewidth=0.6, **style, **halves)
        points.append((f"{number[a]}–{number[b]}", row["kappa"], error, error, error))
    axes.set(xlabel=_("Cohen's kappa of the pair"), ylabel=_("mean error of the pair (%)"))
    axes.margins(0.08)
    axes.grid(True)
    names = [
        f"{number[name]}  {text}" if numbered else text
        for name, text in zip(colours, plots.shorten_names(colours, 34), strict=True)
    ]
    handles = [
        Line2D([], [], marker=plots.get_marker(look), linestyle="", color=plots.get_colour(look), label=name)
        for look, name in zip(colours.values(), names, strict=True)
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    if numbered:
        number_points(figure, axes, pd.DataFrame(points, columns=["number", "x", "y", "low", "high"]))
    return figure


def _draw_reference(axes: Axes, x: float) -> None:
    axes.axvline(x, color=plots.GREY, linestyle="--", linewidth=1, zorder=1)


def _draw_intervals(axes: Axes, metrics: Sequence[Metric | None], colours: Sequence[int | None]) -> None:
    """Draw proportions as per cent with their intervals, one row each; None leaves a row empty."""
    for row, (metric, number) in enumerate(zip(metrics, colours, strict=True)):
        if metric is None or metric.value is None:
            continue
        colour = "black" if number is None else plots.get_colour(number)
        sign = "o" if number is None else plots.get_marker(number)
        if metric.low is not None and metric.high is not None:
            axes.hlines(row, 100 * metric.low, 100 * metric.high, color=colour, linewidth=1.4)
        axes.plot(100 * metric.value, row, sign, color=colour, markersize=5)
    axes.grid(axis="x")
