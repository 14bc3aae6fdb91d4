"""Figure of decision: operating points."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation import charts
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

_RATE_TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1)


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw ROC and precision-recall curves of each class with their bands, and the stated rates of false alarms."""
    tables, classes = result.tables, result.classes
    if "roc" not in tables:
        return {}
    figure = plots.create_figure(8.4, 4.0)
    left, right = figure.subplots(1, 2)
    names = dict(zip(classes, plots.shorten_names(classes, 24), strict=True))
    for axes, kind, columns in (
        (left, "roc", ("false_alarms", "recall")),
        (right, "precision_recall", ("recall", "precision")),
    ):
        for name, table in tables[kind].groupby("class", sort=False):
            colour = plots.get_colour(classes.index(str(name)))
            charts.draw_band(axes, table, *columns, color=colour, label=names[str(name)])
        axes.set_ylim(0, 1.02)
        axes.grid(True)
    left.set_xscale("function", functions=(np.sqrt, np.square))  # most of the axis is for few false alarms
    for axes in (left, right):
        plots.format_percent_axis(axes.xaxis, axes.yaxis)
    left.set_xticks(_RATE_TICKS)
    left.set(xlim=(0, 1), xlabel=_("false alarms: images of other classes flagged (%)"), ylabel=_("recall (%)"))
    right.set(xlim=(0, 1), xlabel=_("recall (%)"), ylabel=_("precision (%)"))
    for rate in tables["operating_points"]["false_alarms"].unique():
        left.axvline(rate, color="black", linestyle=":", linewidth=1)
    stated = Line2D([], [], color="black", linestyle=":", linewidth=1, label=_("stated rates of false alarms"))
    plots.draw_legend(figure, 4, stated)
    return {"operating_points": figure}
