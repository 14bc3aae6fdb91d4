"""Figures of robustness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from avatar_bench.evaluation import charts
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.declaration import find_word
from avatar_bench.results.result import Result

_COLUMNS = 5  # corruptions side by side


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw accuracies and recalls by severity, and one image under every corruption."""
    return {
        "severities": draw_severities(result.tables["severities"], result.tables["recalls"], result.classes),
        "images": _draw_corruption_wall(result),
    }


def draw_severities(table: pd.DataFrame, recalls: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw accuracy with its interval, and each class's recall, against severity, one panel per corruption."""
    kinds = [kind for kind in table["corruption"].unique() if kind != "clean"]
    columns, lines = min(len(kinds), _COLUMNS), math.ceil(len(kinds) / _COLUMNS)
    figure = plots.create_figure(0.8 + 1.75 * max(2, columns), 0.7 + 2.2 * lines)
    grid = figure.subplots(lines, columns, sharey=True, squeeze=False)
    for axes in grid.flat[len(kinds) :]:
        axes.set_axis_off()
    for axes, kind in zip(grid.flat, kinds, strict=False):
        rows = table[table["corruption"].isin(["clean", kind])]
        levels = {f"{kind}/{level}" if level else "clean": level for level in rows["severity"]}
        for name, of_class in recalls[recalls["variation"].isin(levels)].groupby("class", sort=False):
            colour, label = (
                plots.get_colour(classes.index(str(name))),
                _("recall of {name}", name=plots.shorten_name(str(name))),
            )
            axes.plot(of_class["variation"].map(levels), of_class["recall"], color=colour, linewidth=1.2, label=label)
        style: dict[str, Any] = {"color": "black", "marker": "o", "markersize": 3.5, "label": _("accuracy")}
        charts.draw_band(axes, rows.astype({"low": float, "high": float}), "severity", "accuracy", **style)
        axes.axhline(1 / len(classes), color="black", linestyle="--", linewidth=1, label=_("chance"))
        axes.set(title=_name_variation(kind), xlabel=_("severity"), xlim=(-0.2, 5.2), ylim=(0, 1.02))
        axes.set_xticks(range(6))
        axes.grid(True)
    plots.format_percent_axis(*(axes.yaxis for axes in grid[:, 0]))
    figure.supylabel(_("accuracy and recall (%)"), fontsize=9)  # a row is too low for it in Russian
    plots.draw_legend(figure, len(classes) + 2)
    return figure


def _name_variation(name: str) -> str:
    return find_word(name, "robustness")


def _draw_corruption_wall(result: Result) -> Figure:
    """Draw the image under each corruption and severity above its prediction, a row for each corruption."""
    saved = result.arrays["images"]
    rows = result.tables["predictions"].iloc[saved["rows"]]
    cells = dict(zip(rows["variation"], zip(plots.list_thumbnails(saved), rows.itertuples(), strict=True), strict=True))
    pairs = [name.split("/") for name in cells if name != "clean" and not name.startswith("delivery/")]
    kinds, levels = list(dict.fromkeys(kind for kind, __ in pairs)), sorted({level for __, level in pairs})
    width, sides = len(levels) + 1, 1 if len(kinds) <= _COLUMNS else 2  # a row of two kinds: not higher than a screen
    lines = math.ceil(len(kinds) / sides)
    figure = plots.create_figure(1.02 * width * sides + 0.3, 1.25 * lines + 0.4)
    grid = figure.subplots(lines, width * sides, squeeze=False)
    for axes in grid[-1, width * (len(kinds) - (lines - 1) * sides) :]:
        axes.set_axis_off()
    for row, kind in zip(grid.reshape(lines * sides, width), kinds, strict=False):
        for axes, name in zip(row, ["clean", *(f"{kind}/{level}" for level in levels)], strict=True):
            image, seen = cells[name]
            axes.imshow(image)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            text = f"{plots.shorten_name(seen.prediction, 14)}\n{seen.confidence:.0%}"
            axes.set_xlabel(text, fontsize=7, color=plots.get_colour(result.classes.index(seen.prediction)))
        row[0].set_ylabel(_name_variation(kind))
    for axes, level in zip(grid[0], ["0", *levels] * sides, strict=True):
        axes.set_title(_("severity {k}", k=level) if level != "0" else _name_variation("clean"), fontsize=9)
    figure.supxlabel(_("true class: {name}", name=rows["target"].iloc[0]), fontsize=9)
    return figure
