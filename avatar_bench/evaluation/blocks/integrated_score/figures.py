"""Figures of the integrated score: the qualities of each model beside its score, and accuracy against cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation.chart_data import Chart, ChartData, RunStyles
from avatar_bench.evaluation.charts import draw_chart
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.declaration import find_heading
from avatar_bench.results.result import Result

_INK = "#404040"


def draw(result: Result) -> dict[str, Figure]:
    """Draw the profile of the models, and accuracy against cost; none if fewer than two are ranked."""
    scores, models = result.tables["scores"], result.tables["models"]
    ranked = scores.loc[scores["complete"], "run"]
    if len(ranked) < 2:
        return {}
    scale = result.tables["qualities"]["scale"].iloc[0]
    drawn = {"profile": draw_profile(scores, RunStyles(result.tables["raw"]), scale)}
    if {"pareto/speed", "pareto/size"} & set(models):
        drawn["pareto"] = draw_pareto(result, models[models["run"].isin(ranked)])
    return drawn


@plots.use_style()
def draw_profile(table: pd.DataFrame, looks: RunStyles, scale: str) -> Figure:
    """Draw the qualities of each model from 0 to 1 beside its score with its interval, the best at the top."""
    values = table.filter(like="normalised/")
    width = 0.62 * values.shape[1]
    figure = plots.create_figure(4.6 + width, 1.6 + 0.34 * len(table))
    left, right = figure.subplots(1, 2, width_ratios=[width, 2.2], sharey=True)
    shown = values.to_numpy(dtype=float)
    plots.draw_cells(left, shown, plots.format_cells("%.2f", shown, "–"), 8, vmin=0, vmax=1)
    labels = [find_heading(str(column).removeprefix("normalised/"), "integrated_score") for column in values]
    left.set_xticks(range(len(labels)), labels, rotation=35, ha="right")
    names = plots.shorten_names(table["run"], 30)
    ranked = [f"{rank:g}. {name}" for rank, name in zip(table["rank"], names, strict=True)]
    left.set_yticks(range(len(table)), np.where(table["complete"], ranked, names).tolist())
    left.set_title(_("Qualities, 0 (worst) to 1") if scale == "fixed" else _("Qualities, 0 (worst model) to 1 (best)"))
    for row, about in table.iterrows():
        if not about["complete"]:
            right.text(0.02, row, _("not ranked"), va="center", fontsize=8, color=_INK)
            continue
        look = looks.of(str(about["run"]))
        right.hlines(row, about["score_low"], about["score_high"], color=look["color"], linewidth=2)
        right.plot(about["score"], row, markersize=6, **look)
        transform = right.get_yaxis_transform()
        right.text(1.02, row, f"{about['score']:.3f}", va="center", fontsize=8, color=_INK, transform=transform)
    right.set(title=_("Score"), xlim=(0, 1), xlabel=_("weighted mean, with interval"))
    right.tick_params(left=False)
    right.grid(axis="x")
    return figure


def draw_pareto(result: Result, models: pd.DataFrame) -> Figure:
    """Draw accuracy against speed and size; a line joins the Pareto-optimal models."""
    costs = [name for name in ("speed", "size") if f"pareto/{name}" in models]
    labels = {"speed": _("images per second, batch size 1"), "size": _("parameters (millions)")}
    spec = Chart(
        "crosses", "models", {name: labels[name] for name in costs}, {"accuracy": ""}, hue="run", log=tuple(costs)
    )
    result = replace(result, tables=result.tables | {"models": models})
    line: dict[str, Any] = {"linestyle": "--", "color": plots.GREY, "linewidth": 1}
    figure = draw_chart(ChartData("pareto", spec, result), Line2D([], [], label=_("Pareto front"), **line))
    for axes, name in zip(figure.axes, costs, strict=True):
        front = models[models[f"pareto/{name}"].astype(bool)].sort_values(name)
        axes.plot(front[name], front["accuracy"], **line, zorder=1)
    return figure
