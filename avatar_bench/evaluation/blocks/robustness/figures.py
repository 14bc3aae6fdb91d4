"""Figures of robustness."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from avatar_bench.data.corruptions import STANDARD_CORRUPTIONS
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.headings import find_word
from avatar_bench.results.result import Metric, Result

_COLUMNS = 5  # corruptions side by side
_RESEMBLED = "\N{DAGGER} "  # before what the augmentation of training resembles


class _Cell(NamedTuple):
    """Image under a variation, with its true class, its prediction as text and the colour of that."""

    image: NDArray[np.uint8]
    target: str
    text: str
    colour: str


def draw(result: Result) -> dict[str, Figure]:
    """Draw accuracies and recalls, the one-class test, and one image under every variation."""
    chance = 1 / len(result.classes)
    kinds = _list_kinds(result.tables["severities"])
    others = [kind for kind in kinds if kind not in STANDARD_CORRUPTIONS]
    standard = [kind for kind in kinds if kind not in others]
    tiers = [name for name in result.metrics if name.startswith("delivery/")]
    resembled = _list_resembled(result)
    drawn = {
        "severities": draw_severities(result.tables["severities"], result.tables["recalls"], result.classes),
        "severity_3": draw_bars(
            result.metrics, ["clean", *standard, "robustness", *others], result.n, chance, resembled
        ),
        "one_class": draw_one_class(result.tables["bias"], result.classes),
    }
    cells = _build_cells(result)
    delivered = {name: cell for name, cell in cells.items() if name in ("clean", *tiers)}
    drawn["images"] = _draw_corruption_wall({name: cell for name, cell in cells.items() if name not in tiers})
    if tiers:
        drawn["delivery"] = draw_bars(result.metrics, ["clean", *tiers], result.n, chance, resembled)
        titles = [f"{_name_variation(name)}\n{cell.text}" for name, cell in delivered.items()]
        drawn["images_delivered"] = plots.draw_gallery([cell.image for cell in delivered.values()], titles)
    return drawn


def draw_bars(
    metrics: Mapping[str, Metric], names: Sequence[str], n: int, chance: float, resembled: Collection[str] = ()
) -> Figure:
    """Draw accuracies of n images as bars with intervals, without those that have no value; mark `resembled` ones."""
    shown = {name: metrics[name] for name in names if metrics[name].value is not None}
    value, low, high = (
        np.array([getattr(one, end) for one in shown.values()], dtype=float) for end in ("value", "low", "high")
    )
    label = _("accuracy (%)")
    labels = [_RESEMBLED * (name in resembled) + _name_variation(name) for name in shown]
    return plots.draw_interval_bars(labels, value, low, high, [n] * len(shown), label=label, chance=chance)


@plots.use_style()
def draw_severities(table: pd.DataFrame, recalls: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw accuracy with its interval, and each class's recall, against severity, one panel per corruption."""
    kinds = _list_kinds(table)
    columns, lines = min(len(kinds), _COLUMNS), math.ceil(len(kinds) / _COLUMNS)
    figure = plots.create_figure(0.8 + 1.75 * max(2, columns), 0.7 + 2.2 * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(kinds) :]:
        axes.set_axis_off()
    for axes, kind in zip(grid.flat, kinds, strict=False):
        _draw_recall_lines(axes, recalls, kind, classes)
        rows = table[table["corruption"].isin(["clean", kind])]
        low, high = rows["low"].to_numpy(float), rows["high"].to_numpy(float)
        axes.fill_between(rows["severity"], low, high, color="black", alpha=0.15, linewidth=0)
        axes.plot(rows["severity"], rows["accuracy"], "o-", color="black", markersize=3.5, label=_("accuracy"))
        axes.axhline(1 / len(classes), color="black", linestyle="--", linewidth=1, label=_("chance"))
        axes.set(title=_name_variation(kind), xlabel=_("severity"), xlim=(-0.2, 5.2), ylim=(0, 1.02))
        axes.set_xticks(range(6))
        axes.grid(True)
    for axes in grid[:, 0]:
        axes.set_ylabel(_("accuracy and recall (%)"))
        plots.format_percent_axis(axes.yaxis)
    plots.draw_legend(figure, len(classes) + 2)
    return figure


@plots.use_style()
def draw_one_class(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw fragility and bias of each class by corruption, with intervals."""
    kinds = list(dict.fromkeys(table["corruption"]))
    figure = plots.create_figure(7.6, 1.5 + 0.5 * len(kinds))
    left, right = figure.subplots(1, 2, sharey=True)
    titles = {
        "fragility": _("drop in recall of a class\nwhen only it is corrupted (points)"),
        "bias": _("rise in share of predictions of a class\nwhen one class is corrupted (points)"),
    }
    for axes, (what, title) in zip((left, right), titles.items(), strict=True):
        for index, name in enumerate(classes):
            _draw_dots(axes, table[table["class"] == name], what, index, len(classes))
        axes.axvline(0, color="black", linewidth=1)
        axes.set_xlabel(title)
        axes.grid(axis="x")
    left.set_yticks(range(len(kinds)), [_name_variation(kind) for kind in kinds])
    left.set_ylim(len(kinds) - 0.5, -0.5)
    plots.draw_legend(figure, min(4, len(classes)))
    return figure


def _list_kinds(severities: pd.DataFrame) -> list[str]:
    return [kind for kind in dict.fromkeys(severities["corruption"]) if kind != "clean"]


def _list_resembled(result: Result) -> set[str]:
    """Return the corruptions and tiers that training resembles; none of a result of an earlier version."""
    found = set()
    for table, column, prefix in (("severities", "corruption", ""), ("delivery", "tier", "delivery/")):
        saved = result.tables.get(table)
        if saved is not None and "resembled" in saved:
            found |= {prefix + name for name in saved.loc[saved["resembled"].eq(True), column]}
    return found


def _name_variation(name: str) -> str:
    return find_word(name, "robustness")


def _build_cells(result: Result) -> dict[str, _Cell]:
    saved = result.arrays["images"]
    rows = result.tables["predictions"].iloc[saved["rows"]].itertuples()
    return {
        str(row.variation): _Cell(
            image,
            str(row.target),
            f"{plots.shorten_name(str(row.prediction), 14)}\n{row.confidence:.0%}",
            plots.get_colour(result.classes.index(row.prediction)),
        )
        for image, row in zip(plots.list_thumbnails(saved), rows, strict=True)
    }


@plots.use_style()
def _draw_corruption_wall(cells: Mapping[str, _Cell]) -> Figure:
    pairs = [name.split("/") for name in cells if name != "clean"]
    kinds, levels = list(dict.fromkeys(kind for kind, __ in pairs)), sorted({level for __, level in pairs})
    width, sides = len(levels) + 1, 1 if len(kinds) <= _COLUMNS else 2  # a row of two kinds: not higher than a screen
    lines = math.ceil(len(kinds) / sides)
    figure = plots.create_figure(1.02 * width * sides + 0.3, 1.25 * lines + 0.4)
    grid = figure.subplots(lines, width * sides, squeeze=False)
    for axes in grid[-1, width * (len(kinds) - (lines - 1) * sides) :]:
        axes.set_axis_off()
    for row, kind in zip(grid.reshape(lines * sides, width), kinds, strict=False):
        for axes, name in zip(row, ["clean", *(f"{kind}/{level}" for level in levels)], strict=True):
            axes.imshow(cells[name].image)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            axes.set_xlabel(cells[name].text, fontsize=7, color=cells[name].colour)
        row[0].set_ylabel(_name_variation(kind))
    for axes, level in zip(grid[0], ["0", *levels] * sides, strict=True):
        axes.set_title(_("severity {k}", k=level) if level != "0" else _name_variation("clean"), fontsize=9)
    figure.supxlabel(_("true class: {name}", name=cells["clean"].target), fontsize=9)
    return figure


def _draw_recall_lines(axes: Axes, recalls: pd.DataFrame, kind: str, classes: Sequence[str]) -> None:
    for index, name in enumerate(classes):
        mine = recalls[recalls["class"] == name].set_index("variation")["recall"]
        levels = [level for level in range(6) if level == 0 or f"{kind}/{level}" in mine.index]
        if len(mine):
            values = [mine["clean" if level == 0 else f"{kind}/{level}"] for level in levels]
            label = _("recall of {name}", name=plots.shorten_name(name))
            axes.plot(levels, values, color=plots.get_colour(index), linewidth=1.2, label=label)


def _draw_dots(axes: Axes, table: pd.DataFrame, what: str, index: int, classes: int) -> None:
    rows = np.arange(len(table)) + 0.6 * ((index + 0.5) / classes - 0.5)
    value, low, high = (100 * table[f"{what}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high"))
    axes.hlines(rows, low, high, color=plots.get_colour(index), linewidth=1.2)
    label = plots.shorten_name(str(table["class"].iloc[0]))
    axes.plot(value, rows, "o", color=plots.get_colour(index), markersize=4, label=label)
