"""Figures of decision: operating points, risk by coverage, and cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

_MOST_SETS = 4  # panels of the cost curve; legible curves of one chart are more
_RATE_TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 1)


def draw(result: Result) -> dict[str, Figure]:
    """Draw the curves of the operating points, risk by coverage of each set, and cost by set."""
    tables = result.tables
    drawn = {
        "risk_coverage": _draw_risk_coverage(tables["risk_coverage"]),
        "cost_curve": _draw_costs(tables["cost_curve"]),
    }
    if "sets" in tables:
        drawn["targets"] = _draw_targets(tables["sets"])
    if "roc" in tables:
        drawn["operating_points"] = _draw_operating_points(tables, result.classes)
    return drawn


@plots.use_style()
def _draw_targets(table: pd.DataFrame) -> Figure:
    """Draw coverage and error of the answers by set and target, with and without the rule on unlike images."""
    targets = table["target_error"].unique().tolist()
    names = table["set"].unique()[: plots.MAX_BARS].tolist()
    figure = plots.create_figure(8.4, 1.5 + 0.4 * len(names) * len(targets) + 0.35 * len(targets))
    grid = figure.subplots(len(targets), 2, sharex="col", squeeze=False)
    for (left, right), target in zip(grid, targets, strict=True):
        for has_rule, step in ((True, -0.14), (False, 0.14)):
            own = table[(table["target_error"] == target) & (table["unlike_rule"] == has_rule)].set_index("set")
            rows = np.array([names.index(name) for name in own.index if name in names]) + step
            for axes, kind in ((left, "coverage"), (right, "error")):
                _draw_row_intervals(axes, own.loc[own.index.isin(names)], rows, kind, has_rule)
        right.axvline(target, color="black", linestyle="--", linewidth=1, label=_("target error"))
        left.set_yticks(range(len(names)), plots.shorten_names(names, 24))
        right.set_yticks(range(len(names)), [])
        left.set_title(_("target error {target}", target=f"{target:.0%}"), loc="left")
        left.set_xlim(0, 1.02)
        for axes in (left, right):
            axes.set_ylim(len(names) - 0.5, -0.5)
            axes.grid(axis="x")
    highest = float(table["error_high"].where(table["error"].notna()).max())
    grid[0, 1].set_xlim(0, 1.05 * max(2 * max(targets), 0.0 if np.isnan(highest) else highest))
    grid[-1, 0].set_xlabel(_("images answered (%)"))
    grid[-1, 1].set_xlabel(_("error rate among answered images (%)"))
    for axes in grid[-1]:
        plots.format_percent_axis(axes.xaxis)
    plots.draw_legend(figure, 2)
    return figure


def _draw_row_intervals(axes: Axes, own: pd.DataFrame, rows: NDArray[np.float64], kind: str, has_rule: bool) -> None:
    """Draw the values of rows with their intervals: filled if unlike images are abstained from, else hollow."""
    colour = plots.get_colour(0) if has_rule else plots.GREY
    label = _("abstaining on images unlike the training data") if has_rule else _("whatever the images are like")
    axes.hlines(rows, own[f"{kind}_low"], own[f"{kind}_high"], color=colour, linewidth=1.2)
    if len(rows):
        fill = colour if has_rule else "white"
        axes.plot(own[kind], rows, "o", color=colour, markerfacecolor=fill, markersize=5, label=label)


@plots.use_style()
def _draw_operating_points(tables: dict[str, pd.DataFrame], classes: tuple[str, ...]) -> Figure:
    """Draw ROC and precision-recall curves of each class with their bands, and the stated rates of false alarms."""
    figure = plots.create_figure(8.4, 4.0)
    left, right = figure.subplots(1, 2)
    names = dict(zip(classes, plots.shorten_names(classes, 24), strict=True))
    for axes, kind, columns in (
        (left, "roc", ("false_alarms", "recall")),
        (right, "precision_recall", ("recall", "precision")),
    ):
        for name, table in tables[kind].groupby("class", sort=False):
            _draw_band(axes, table, columns, classes.index(str(name)), names[str(name)])
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
    return figure


@plots.use_style()
def _draw_risk_coverage(table: pd.DataFrame) -> Figure:
    """Draw the error rate among the answered images of each set by coverage, most confident first."""
    sets = table["set"].unique()[: len(plots.PALETTE)].tolist()
    figure, axes = plots.create_axes(5.6, 3.9)
    for index, (name, shown) in enumerate(zip(sets, plots.shorten_names(sets, 24), strict=True)):
        _draw_band(axes, table[table["set"] == name], ("coverage", "error"), index, shown)
    axes.set_xlim(0, 1)
    plots.frame_risk_coverage(axes, table)
    plots.draw_legend(figure, 3)
    return figure


@plots.use_style()
def _draw_costs(table: pd.DataFrame) -> Figure:
    """Draw the mean cost of each set over the cost of abstaining, and of answering all, none, or by the best rule."""
    sets = table["set"].unique()[:_MOST_SETS].tolist()
    figure = plots.create_figure(max(5.6, 1.6 + 2.7 * len(sets)), 4.6)
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    top = 1.15 * max(0.02, float(table.loc[table["set"].isin(sets), ["high", "answer_all"]].max().max()))
    dashed: dict[str, Any] = {"color": plots.GREY, "linewidth": 1}
    for axes, name, shown in zip(panels, sets, plots.shorten_names(sets, 24), strict=True):
        own = table[table["set"] == name]
        cost = own["abstain_cost"]
        _draw_band(axes, own, ("abstain_cost", "cost"), 0, _("abstain where the expected error costs more"))
        axes.plot(cost, own["answer_all"], "--", label=_("answer all"), **dashed)
        axes.plot(cost, cost, "-.", label=_("answer none"), **dashed)
        axes.plot(cost, own["best"], ":", color="black", linewidth=1, label=_("best threshold on these images"))
        axes.set(title=shown, xlabel=_("cost of abstaining (error = 1)"), xlim=(0, cost.max()), ylim=(0, top))
        axes.grid(True)
    panels[0].set_ylabel(_("mean cost per image (error = 1)"))
    plots.draw_legend(figure, min(3, len(sets)))
    return figure


def _draw_band(axes: Axes, table: pd.DataFrame, columns: tuple[str, str], index: int, label: str) -> None:
    """Draw a curve with the band of its intervals, in the colour of its position."""
    colour, (x, y) = plots.get_colour(index), columns
    axes.plot(table[x], table[y], color=colour, label=label)
    axes.fill_between(table[x], table["low"], table["high"], color=colour, alpha=0.18, linewidth=0)
