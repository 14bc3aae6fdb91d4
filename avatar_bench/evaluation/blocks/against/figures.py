"""Figure of the differences from an earlier result."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.headings import find_heading
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw the paired differences; none if all are unpaired."""
    return {"differences": _draw(result.tables["differences"])} if "pairs" in result.tables else {}


@plots.use_style()
def _draw(table: pd.DataFrame) -> Figure:
    """Draw the paired differences with their intervals, in points, the first at the top."""
    shown = table[(table["comparison"] == "paired") & table["difference"].notna()]
    rows = np.arange(len(shown))
    figure, axes = plots.create_axes(6.4, 1.1 + 0.24 * len(shown))
    axes.axvline(0, color=plots.GREY, linewidth=1)
    axes.hlines(rows, shown["low"], shown["high"], color=plots.get_colour(0), linewidth=1.6)
    axes.plot(shown["difference"], rows, "o", color=plots.get_colour(0), markersize=5)
    axes.set_yticks(rows, [plots.shorten_name(find_heading(str(name)), 32) for name in shown["metric"]])
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel=_("new minus earlier (points)"))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    axes.grid(axis="x")
    return figure
