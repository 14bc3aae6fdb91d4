"""Figures of prior_shift: accuracy under other class shares, with and without correction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from avatar_bench import plots
from avatar_bench.messages import say
from avatar_bench.metrics.prior_shift import WAYS, one_frequent

_MOST = 6  # classes that get a panel
# how the answers are come by: own, corrected by known shares, by estimated ones
_LOOKS: dict[str, dict[str, Any]] = dict(
    zip(WAYS, ({"marker": "o", "ls": "-"}, {"marker": "s", "ls": "-"}, {"marker": "^", "ls": "--"}), strict=True)
)


@plots.use_style()
def mixes(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the accuracy under each mix, a row a mix of mixes.csv, with its interval and the commonest class's share."""
    figure = plots.new_figure(2.6 + 1.2 * len(table), 3.6)
    axes = figure.subplots()
    place = np.arange(len(table))
    for offset, way in zip((-0.2, 0.0, 0.2), WAYS, strict=True):
        value, low, high = _columns(table, way)
        ink = plots.GREY if way == WAYS[0] else "black"
        axes.vlines(place + offset, low, high, color=ink, linewidth=1.1)
        axes.plot(place + offset, value, **_LOOKS[way] | {"ls": ""}, color=ink, markersize=5)
    commonest = table[[f"share_{name}" for name in classes]].max(axis=1)
    axes.hlines(commonest, place - 0.35, place + 0.35, color="black", linestyle="--", linewidth=1)
    axes.set_xticks(place, [plots.short(mix, 16) for mix in table["mix"]])
    axes.set(xlim=(-0.5, len(table) - 0.5), xlabel=say("mix of classes"), ylabel=say("accuracy (%)"))
    axes.set_ylim(max(0.0, axes.get_ylim()[0] - 0.05), 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=None))
    axes.grid(axis="y")
    figure.legend(handles=_handles(lines=False), loc="outside lower center", ncols=2)
    return figure


@plots.use_style()
def shares(table: pd.DataFrame, classes: Sequence[str], training: Mapping[str, float]) -> Figure:
    """Draw accuracy over the share of each class in turn, a panel a class, the others sharing the rest equally."""
    shown = list(classes)[:_MOST]
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    figure = plots.new_figure(2.7 * columns + 0.5, 2.8 * rows + 0.6)
    grid = np.atleast_1d(figure.subplots(rows, columns, sharey=True)).ravel()
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    for index, (axes, name) in enumerate(zip(grid, shown, strict=False)):
        own = table[table["frequent"] == name].sort_values(f"share_{name}")
        _panel(axes, own, name, plots.color(index))
        grid_shares = np.linspace(0, 1, 101)
        commonest = [one_frequent(index, share, len(classes)).max() for share in grid_shares]
        axes.plot(grid_shares, commonest, "--", color="black", linewidth=1)
        axes.axvline(training[name], color=plots.GREY, linewidth=1, linestyle=":")
    for axes in grid[::columns]:
        axes.set_ylabel(say("accuracy (%)"))
    share = Line2D([], [], color=plots.GREY, linewidth=1, linestyle=":", label=say("share in training"))
    figure.legend(handles=[*_handles(lines=True), share], loc="outside lower center", ncols=3)
    return figure


def _panel(axes: Axes, own: pd.DataFrame, name: str, colour: str) -> None:
    share = own[f"share_{name}"].to_numpy()
    for way in WAYS:
        value, low, high = _columns(own, way)
        ink = plots.GREY if way == WAYS[0] else colour
        if way != WAYS[-1]:  # a third band would hide the others
            axes.fill_between(share, low, high, color=ink, alpha=0.18, linewidth=0)
        axes.plot(share, value, color=ink, markersize=3.5, **_LOOKS[way])
    axes.set(title=plots.short(name), xlabel=say("share of the class (%)"), xlim=(0, 1), ylim=(0, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=None))
    axes.grid(True)


def _columns(table: pd.DataFrame, way: str) -> list[Any]:
    """Give accuracy with both ends of its interval, which shrink to it where there is none."""
    name = f"{way}accuracy".replace("/", "_")
    value = table[name].astype(float)
    return [value, *(table[f"{name}_{end}"].astype(float).fillna(value) for end in ("low", "high"))]


def _handles(lines: bool) -> list[Line2D]:
    own, known, estimated = WAYS
    words = {
        own: say("the network's own answers"),
        known: say("corrected, shares known"),
        estimated: say("corrected, shares estimated"),
    }
    inks = {way: plots.GREY if way == own else "black" for way in WAYS}
    looks = {way: _LOOKS[way] if lines else _LOOKS[way] | {"ls": ""} for way in WAYS}
    handles = [Line2D([], [], color=inks[way], label=words[way], markersize=4, **looks[way]) for way in WAYS]
    commonest = Line2D([], [], color="black", linewidth=1, ls="--", label=say("always the commonest class"))
    return [*handles, commonest]
