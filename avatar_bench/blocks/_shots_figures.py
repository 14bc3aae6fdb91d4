"""The figure of shots: learning curves over the number of pictures a class."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from avatar_bench import plots
from avatar_bench.messages import say


@plots.use_style()
def curve(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Draw accuracy and macro-F1 over shots, a line a recipe with intervals, and a small dot a run."""
    names = list(dict.fromkeys(table["recipe"]))
    figure = plots.new_figure(8.4, 3.3 + 0.2 * ((len(names) + 2) // 3))
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(names):
        own, single = table[table["recipe"] == name], runs[runs["recipe"] == name]
        # a little to the side, so that intervals of two recipes do not cover each other
        aside = 1 + 0.03 * (place - (len(names) - 1) / 2)
        for axes, value, low, high in (
            (left, "accuracy", "low", "high"),
            (right, "macro_f1", "macro_f1_low", "macro_f1_high"),
        ):
            shots, colour = own["shots"] * aside, plots.color(place)
            axes.plot(
                shots, own[value], f"{plots.marker(place)}-", color=colour, markersize=5, label=plots.short(name, 40)
            )
            axes.vlines(shots, own[low], own[high], color=colour, linewidth=1.2)
            axes.plot(single["shots"] * aside * 1.012, single[value], ".", color=colour, markersize=3, alpha=0.6)
    _label(left, say("accuracy (%)"), sorted(set(table["shots"])))
    _label(right, say("macro-F1 (%)"), sorted(set(table["shots"])))
    handles, labels = left.get_legend_handles_labels() if len(names) > 1 else ([], [])
    dot = Line2D([], [], linestyle="", marker=".", color=plots.GREY, markersize=4)
    figure.legend([*handles, dot], [*labels, say("single seeds")], loc="outside lower center", ncols=3)
    return figure


def _label(axes: Axes, value: str, shots: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(number) for number in shots])
    axes.xaxis.set_minor_locator(NullLocator())
    plots.percent_axis(axes.yaxis)
    axes.set(xlabel=say("pictures a class (log scale)"), ylabel=value)
    axes.grid(True)
