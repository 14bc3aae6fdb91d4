"""Figures of leave_one_source_out: recall by source and recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation.chart_data import Chart, ChartData
from avatar_bench.evaluation.charts import draw_chart
from avatar_bench.i18n import _
from avatar_bench.results.result import Result

MAX_DOTTED_RECIPES = 4  # more would make a dot plot of each source unreadable
_ROWS = {"source": "", "target": ""}


def draw(result: Result) -> dict[str, Figure]:
    """Draw the recall of each source, by recipe, as dots of a few recipes, and as a heatmap of several."""
    n = len(result.tables["summary"])
    figures = {"recall": draw_recall(result)} if n <= MAX_DOTTED_RECIPES else {}
    return figures | ({"by_recipe": draw_heatmap(result)} if n > 1 else {})


def draw_recall(result: Result) -> Figure:
    """Draw the recall of each source by recipe, by class and then by recall; dashed lines are means of the recipes."""
    spec = Chart(
        *("dots", "matrix", {"recall": _("recall on sources held out of training (%; hollow: too few images)")}, _ROWS),
        sort=("target", "recall"),
        count="n",
        hue="recipe",
        filled={"counted": "True"},
    )
    data = ChartData("recall", spec, result)
    dashed: dict[str, Any] = {"linestyle": "--", "linewidth": 1}
    figure = draw_chart(data, Line2D([], [], color="black", label=_("mean"), **dashed))
    for recipe, mean in result.tables["summary"].set_index("recipe")["mean"].items():
        figure.axes[0].axvline(mean, color=data.style_mark(recipe)["color"], **dashed)
    return figure


def draw_heatmap(result: Result) -> Figure:
    """Draw the recall of each source, by class and then by recall, for each recipe, above its mean and its worst."""
    matrix, summary = result.tables["matrix"], result.tables["summary"]
    cells = matrix.groupby(["source", "target"])
    is_counted, mean = cells["counted"].transform("any"), cells["recall"].transform("mean")
    named = matrix.assign(
        source=matrix["source"].where(is_counted, "[" + matrix["source"].astype(str) + "]"), mean=mean
    )
    words = {"mean": _("mean"), "worst": _("worst")}
    n = named[is_counted].drop_duplicates(["source", "target"])["n"].sum()
    over_all = summary.melt("recipe", [*words], "source", "recall").replace({"source": words}).assign(n=n)
    table = pd.concat([named.sort_values(["target", "mean"], kind="stable"), over_all])
    label = _("recall on the held-out source (%)")
    spec = Chart("cells", "matrix", {"recipe": ""}, _ROWS, {"recall": label}, count="n")
    return draw_chart(ChartData("by_recipe", spec, replace(result, tables=result.tables | {"matrix": table})))
