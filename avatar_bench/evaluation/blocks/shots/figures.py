"""Figure of shots: learning curves over the number of images per class."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw accuracy and macro-F1 over shots."""
    floors = {name.partition("/")[0]: metric.floor or 0.0 for name, metric in result.metrics.items()}
    guessing = floors["accuracy"], floors["macro_f1"]
    return {"curve": _draw_curve(result.tables["curve"], result.tables["runs"], guessing)}


@plots.use_style()
def _draw_curve(table: pd.DataFrame, runs: pd.DataFrame, guessing: tuple[float, float]) -> Figure:
    """Draw accuracy and macro-F1 over shots, one line per recipe with intervals, one dot per run, and guessing."""
    names = list(dict.fromkeys(table["recipe"]))
    figure = plots.create_figure(8.4, 3.3 + 0.2 * ((len(names) + 2) // 3))
    left, right = figure.subplots(1, 2)
    for place, (name, shown) in enumerate(zip(names, plots.shorten_names(names, 40), strict=True)):
        own, single = table[table["recipe"] == name], runs[runs["recipe"] == name]
        # shifted, so that intervals of recipes do not overlap
        aside = 1 + 0.03 * (place - (len(names) - 1) / 2)
        for axes, value, low, high in (
            (left, "accuracy", "low", "high"),
            (right, "macro_f1", "macro_f1_low", "macro_f1_high"),
        ):
            shots, colour = own["shots"] * aside, plots.get_colour(place)
            axes.plot(shots, own[value], f"{plots.get_marker(place)}-", color=colour, markersize=5, label=shown)
            axes.vlines(shots, own[low], own[high], color=colour, linewidth=1.2)
            axes.plot(single["shots"] * aside * 1.012, single[value], ".", color=colour, markersize=3, alpha=0.6)
    for axes, label, chance in zip((left, right), (_("accuracy (%)"), _("macro-F1 (%)")), guessing, strict=True):
        _label_axes(axes, label, sorted(set(table["shots"])))
        axes.axhline(chance, color="black", linestyle="--", linewidth=1)
    dots = Line2D([], [], linestyle="", marker=".", color=plots.GREY, markersize=4, label=_("single seeds"))
    line = Line2D([], [], color="black", linestyle="--", linewidth=1, label=_("chance"))
    plots.draw_legend(figure, 3, dots, line)
    return figure


def _label_axes(axes: Axes, value: str, shots: list[int]) -> None:
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(number) for number in shots])
    axes.xaxis.set_minor_locator(NullLocator())
    plots.format_percent_axis(axes.yaxis)
    axes.set(xlabel=_("images per class (log scale)"), ylabel=value)
    axes.grid(True)
