"""Figures of the integrated score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from avatar_bench.evaluation.model_scatter import RunStyles, set_log_axis
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.headings import find_heading
from avatar_bench.results.result import Result

_INK = "#404040"
_FRONT: dict[str, Any] = {"linestyle": "--", "color": plots.GREY, "linewidth": 1}


def draw(result: Result) -> dict[str, Figure]:
    """Draw the profile of the models, their ranks, and accuracy against cost; none if fewer than two are ranked."""
    ranked = result.tables["scores"].query("complete")["run"].tolist()
    if len(ranked) < 2:
        return {}
    scores, models, ranks, settings = (result.tables[name] for name in ("scores", "models", "ranks", "qualities"))
    looks = RunStyles(result.tables["raw"])
    drawn = {
        "profile": draw_profile(scores, looks, settings["scale"].iloc[0]),
        "ranks": draw_rank_shares(ranks, ranked),
    }
    costs = [key for key in ("speed", "size") if f"pareto/{key}" in models]
    if costs:
        drawn["pareto"] = draw_pareto(models.set_index("run").loc[ranked], costs, looks)
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
        place = right.get_yaxis_transform()
        right.text(1.02, row, f"{about['score']:.3f}", va="center", fontsize=8, color=_INK, transform=place)
    right.set(title=_("Score"), xlim=(0, 1), xlabel=_("weighted mean, with interval"))
    right.tick_params(left=False)
    right.grid(axis="x")
    return figure


@plots.use_style()
def draw_rank_shares(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw how often each model has each rank, over resamples of the images and over random weights."""
    n = len(names)
    figure = plots.create_figure(max(7.2, 3.6 + 0.8 * n), max(2.6, 1.8 + 0.34 * n))
    kinds = {"resamples": _("Resampled images"), "weightings": _("Random weights")}
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), kinds.items(), strict=True):
        share = table.pivot(index="run", columns="rank", values=kind).loc[list(names)].to_numpy()
        texts = np.where(share >= 0.005, np.char.mod("%.0f", 100 * share), "")
        image = plots.draw_cells(axes, share, texts, vmin=0, vmax=1)
        axes.set_xticks(range(n), [str(rank) for rank in range(1, n + 1)])
        axes.set_yticks(range(n), plots.shorten_names(names, 28))
        axes.set(title=title, xlabel=_("rank"))
    figure.colorbar(image, ax=figure.axes, shrink=0.9, format=PercentFormatter(1.0), label=_("share of draws (%)"))
    return figure


@plots.use_style()
def draw_pareto(models: pd.DataFrame, costs: Sequence[str], looks: RunStyles) -> Figure:
    """Draw accuracy, with its interval, against speed and size; a line joins the Pareto-optimal models."""
    width = 1.6 + 3.4 * len(costs)
    figure = plots.create_figure(width, 3.3 + looks.height(width))
    panels = np.atleast_1d(figure.subplots(1, len(costs), sharey=True))
    labels = {"speed": _("images per second, batch size 1"), "size": _("parameters (millions)")}
    for axes, key in zip(panels, costs, strict=True):
        for name, row in models.iterrows():
            look = looks.of(str(name))
            axes.vlines(row[key], row["accuracy_low"], row["accuracy_high"], color=look["color"], linewidth=1.4)
            axes.plot(row[key], row["accuracy"], markersize=7, **look)
        line = models[models[f"pareto/{key}"].astype(bool)].sort_values(key)
        axes.plot(line[key], line["accuracy"], **_FRONT, zorder=1)
        axes.set_xlabel(labels[key])
        set_log_axis(axes, "x", models[key])
        axes.grid(True)
    panels[0].set_ylabel(_("accuracy (%)"))
    plots.format_percent_axis(panels[0].yaxis)
    looks.legend(figure, map(str, models.index), [Line2D([], [], label=_("Pareto front"), **_FRONT)])
    return figure
