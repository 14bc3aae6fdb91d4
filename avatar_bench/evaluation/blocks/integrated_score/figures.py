"""Figures of the integrated score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from avatar_bench.evaluation.model_scatter import RunStyles, set_log_axis
from avatar_bench.i18n import _
from avatar_bench.metrics import plots

_INK = "#404040"
_FRONT: dict[str, Any] = {"linestyle": "--", "color": plots.GREY, "linewidth": 1}


def draw(
    tables: Mapping[str, pd.DataFrame], qualities: Sequence[str], looks: RunStyles, scale: str
) -> dict[str, Figure]:
    """Draw the profile of the models, the distribution of their ranks, and accuracy against cost."""
    ranked = tables["scores"][tables["scores"]["complete"]]
    drawn = {
        "profile": draw_profile(tables["scores"], qualities, looks, scale),
        "ranks": draw_rank_shares(tables["ranks"], list(ranked["run"])),
    }
    costs = [key for key in ("speed", "size") if f"pareto/{key}" in tables["models"]]
    if costs:
        drawn["pareto"] = draw_pareto(tables["models"].set_index("run").loc[list(ranked["run"])], costs, looks)
    return drawn


@plots.use_style()
def draw_profile(table: pd.DataFrame, qualities: Sequence[str], looks: RunStyles, scale: str) -> Figure:
    """Draw the qualities of each model from 0 to 1 beside its score with its interval, the best at the top."""
    rows = np.arange(len(table))
    figure = plots.create_figure(4.6 + 0.62 * len(qualities), 1.6 + 0.34 * len(table))
    left, right = figure.subplots(1, 2, width_ratios=[0.62 * len(qualities), 2.2], sharey=True)
    values = table[[f"normalised/{key}" for key in qualities]].to_numpy(dtype=float)
    left.imshow(np.nan_to_num(values), vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text, ink = ("–", _INK) if np.isnan(value) else (f"{value:.2f}", "white" if value > 0.55 else "black")
        left.text(column, row, text, ha="center", va="center", color=ink, fontsize=8)
    words = _name_qualities()
    left.set_xticks(range(len(qualities)), [words[key] for key in qualities], rotation=35, ha="right")
    names = plots.shorten_names(table["run"], 30)
    left.set_yticks(rows, [_format_ranked(row, name) for (__, row), name in zip(table.iterrows(), names, strict=True)])
    left.set_title(_("Qualities, 0 (worst) to 1") if scale == "fixed" else _("Qualities, 0 (worst model) to 1 (best)"))
    left.spines[:].set_visible(False)
    for row, (__, about) in enumerate(table.iterrows()):
        _draw_score(right, row, about, looks)
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
        image = axes.imshow(share, vmin=0, vmax=1, aspect="auto")
        for (row, column), part in np.ndenumerate(share):
            if part >= 0.005:
                ink = "white" if part > 0.55 else "black"
                axes.text(column, row, f"{100 * part:.0f}", ha="center", va="center", color=ink, fontsize=7.5)
        axes.set_xticks(range(n), [str(rank) for rank in range(1, n + 1)])
        axes.set_yticks(range(n), plots.shorten_names(names, 28))
        axes.set(title=title, xlabel=_("rank"))
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=figure.axes, shrink=0.9, format=PercentFormatter(1.0), label=_("share of draws (%)"))
    return figure


@plots.use_style()
def draw_pareto(models: pd.DataFrame, costs: Sequence[str], looks: RunStyles) -> Figure:
    """Draw accuracy, with its interval, against speed and size; a line joins the Pareto-optimal models."""
    width = 1.6 + 3.4 * len(costs)
    figure = plots.create_figure(width, 3.3 + looks.height(width))
    panels = np.atleast_1d(figure.subplots(1, len(costs), sharey=True))
    for axes, key in zip(panels, costs, strict=True):
        for name, row in models.iterrows():
            _draw_point(axes, row, key, str(name), looks)
        line = models[models[f"pareto/{key}"].astype(bool)].sort_values(key)
        axes.plot(line[key], line["accuracy"], **_FRONT, zorder=1)
        axes.set_xlabel(_name_axis(key))
        set_log_axis(axes, "x", models[key])
        axes.grid(True)
    panels[0].set_ylabel(_("accuracy (%)"))
    plots.format_percent_axis(panels[0].yaxis)
    front = Line2D([], [], label=_("Pareto front"), **_FRONT)
    looks.legend(figure, [str(name) for name in models.index], [front])
    return figure


def _draw_point(axes: Axes, row: pd.Series, key: str, name: str, looks: RunStyles) -> None:
    look = looks.of(name)
    axes.vlines(row[key], row["accuracy_low"], row["accuracy_high"], color=look["color"], linewidth=1.4)
    axes.plot(row[key], row["accuracy"], markersize=7, **look)


def _draw_score(axes: Axes, row: int, about: pd.Series, looks: RunStyles) -> None:
    if not about["complete"]:
        axes.text(0.02, row, _("not ranked"), va="center", fontsize=8, color=_INK)
        return
    look = looks.of(str(about["run"]))
    axes.hlines(row, about["score_low"], about["score_high"], color=look["color"], linewidth=2)
    axes.plot(about["score"], row, markersize=6, **look)
    place = axes.get_yaxis_transform()
    axes.text(1.02, row, f"{about['score']:.3f}", va="center", fontsize=8, color=_INK, transform=place)


def _format_ranked(about: pd.Series, name: str) -> str:
    return f"{about['rank']}. {name}" if about["complete"] else name


def _name_qualities() -> dict[str, str]:
    return {
        "accuracy": _("accuracy"),
        "robustness": _("robustness"),
        "calibration": _("calibration"),
        "ood": _("out of domain"),
        "separation": _("separation"),
        "speed": _("speed"),
        "size": _("size"),
    }


def _name_axis(key: str) -> str:
    return _("images per second, batch size 1") if key == "speed" else _("parameters (millions)")
