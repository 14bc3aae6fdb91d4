"""Figures of ensemble: gains of the strategies, weights and contributions of the runs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.metrics.averaging import STRATEGIES
from avatar_bench.results.headings import find_word
from avatar_bench.results.result import Metric, Result

_ROWS = (*STRATEGIES, "soup")


def draw(result: Result) -> dict[str, Figure]:
    """Draw the gain and the weights of each strategy, and the contribution of each run in the colour of its recipe."""
    labels = result.arrays["members"]["run"].tolist()
    colours = pd.factorize(result.arrays["members"]["recipe"])[0].tolist()
    single = int(result.tables["members"]["chosen"].argmax())
    contributions = [result.metrics[f"contribution/{label}"] for label in labels]
    return {
        "gain": draw_gain(result.metrics, result.n, labels[single], colours[single]),
        "weights": draw_weights(result.tables["weights"], labels),
        "contribution": draw_contribution(contributions, labels, colours),
    }


@plots.use_style()
def draw_gain(metrics: Mapping[str, Metric], n: int, single: str, colour: int) -> Figure:
    """Draw each strategy's accuracy and macro-F1 on n images beside the single run's, and its gains, with intervals."""
    names = [name for name in _ROWS if metrics[f"accuracy/{name}"].value is not None]
    figure = plots.create_figure(8.2, 2.6 + 0.64 * (len(names) + 1))
    grid = figure.subplots(2, 2, sharey=True)
    black = [None] * len(names)
    for (left, right), kind, over in zip(grid, ("accuracy", "macro_f1"), ("gain", "gain_macro_f1"), strict=True):
        _draw_intervals(left, [metrics[f"{kind}/{name}"] for name in ("single", *names)], [colour, *black])
        _draw_intervals(right, [None, *(metrics[f"{over}/{name}"] for name in names)], [None, *black])
        _draw_reference(left, 100 * float(metrics[f"{kind}/single"].value or 0))
        _draw_reference(right, 0)
    (left, right), (below, beside) = grid
    words = [find_word(name, "ensemble") for name in names]
    left.set_yticks(range(len(names) + 1), [plots.shorten_name(single, 30), *words])
    left.set_ylim(len(names) + 0.5, -0.5)
    left.set(xlabel=_("accuracy on {n} images (%)", n=n), title=_("Accuracy and macro-F1"))
    right.set(xlabel=_("gain in accuracy (points)"), title=_("Gain over the single run"))
    below.set(xlabel=_("macro-F1 on {n} images (%)", n=n))
    beside.set(xlabel=_("gain in macro-F1 (points)"))
    return figure


@plots.use_style()
def draw_weights(table: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Draw the weight of each run in each strategy."""
    names = [name for name in _ROWS if name in set(table["strategy"])]
    share = np.column_stack([table.loc[table["strategy"] == name, "weight"] for name in names])
    figure, axes = plots.create_axes(3.4 + 0.95 * len(names), 1.7 + 0.3 * len(labels))
    texts = np.where(share == 0, "-", np.char.mod("%.1f%%", 100 * share))
    image = plots.draw_cells(axes, share, texts, 8, vmin=0, vmax=max(0.5, share.max()))
    axes.set_xticks(range(len(names)), [textwrap.fill(find_word(name, "ensemble"), 12) for name in names], fontsize=8)
    axes.set_yticks(range(len(labels)), plots.shorten_names(labels, 34))
    figure.colorbar(image, ax=axes, shrink=0.9, format=PercentFormatter(1.0), label=_("weight (%)"))
    return figure


@plots.use_style()
def draw_contribution(metrics: Sequence[Metric], labels: Sequence[str], colours: Sequence[int]) -> Figure:
    """Draw the accuracy that soft voting loses without each run, with intervals, the largest loss at the top."""
    order = np.argsort([-(metric.value or 0) for metric in metrics], kind="stable")
    figure, axes = plots.create_axes(6.6, 1.3 + 0.3 * len(labels))
    _draw_intervals(axes, [metrics[row] for row in order], [colours[row] for row in order])
    axes.set_yticks(range(len(labels)), plots.shorten_names((labels[row] for row in order), 34))
    axes.set_ylim(len(labels) - 0.5, -0.5)
    _draw_reference(axes, 0)
    axes.set_xlabel(_("accuracy lost by soft voting without the run (points)"))
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
