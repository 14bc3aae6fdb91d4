"""Figures of error_bias."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation import charts
from avatar_bench.evaluation.blocks.error_bias import describe_slice
from avatar_bench.evaluation.chart_data import Chart, ChartData
from avatar_bench.i18n import _
from avatar_bench.results.reasons import format_reason
from avatar_bench.results.result import Result

_MOST_SLICES = 20
_DIAMOND: Any = {"marker": "D", "linestyle": "", "color": "white", "markeredgecolor": "black", "markersize": 4}


def draw(result: Result) -> dict[str, Figure]:
    """Draw the confidence, and the weakest slices if any can be tested."""
    slices, images = result.tables["slices"], result.tables["images"]
    confidence, correct = images["confidence"].to_numpy(), images["correct"].to_numpy()
    drawn = {"confidence": charts.draw_confidence({"": confidence}, correct, len(result.classes))}
    tested = slices[slices["p"].notna()].fillna({"target": ""}).head(_MOST_SLICES)
    return drawn | ({"weakest_slices": _draw_weakest_slices(result, tested)} if len(tested) else {})


def _draw_weakest_slices(result: Result, table: pd.DataFrame) -> Figure:
    """Draw the weakest slices with intervals beside the rest of their class; a star marks significant ones."""
    stars = table["significant"].map({True: "* ", False: ""})
    names = stars + [format_reason(describe_slice(row), "error_bias") for __, row in table.iterrows()]
    data = ChartData(
        "weakest_slices",
        Chart("bars", "slices", {"accuracy": _("accuracy (%)")}, {"slice": ""}, hue="target", count="n"),
        replace(result, tables={"slices": table.assign(slice=names)}),
    )
    star = Line2D([], [], marker="*", linestyle="", color="black", label=_("significantly different"))
    figure = charts.draw_chart(data, Line2D([], [], label=_("the rest of the class"), **_DIAMOND), star)
    figure.axes[0].plot(table["rest"], range(len(table)), clip_on=False, **_DIAMOND)
    return figure
