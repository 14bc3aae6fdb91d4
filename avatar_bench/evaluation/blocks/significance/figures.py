"""Figures of significance: the ranking with its ties, and the pairwise differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

_SMALLEST = 0.05  # of accuracy: lower limit of the range of the colour map


def draw(result: Result) -> dict[str, Figure]:
    """Draw the ranking, with the colours of the recipes in the order of the runs, and the differences."""
    ranking, names = result.tables["ranking"], list(dict.fromkeys(result.arrays["answers"]["recipe"].tolist()))
    return {
        "ranking": draw_ranking(ranking, names),
        "differences": draw_differences(result.tables["pairs"], list(ranking["recipe"])),
    }


@plots.use_style()
def draw_ranking(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw the accuracy of each recipe with its interval, the best at the top, and a line through tied recipes.

    Hollow markers are recipes not significantly better than guessing, as the title explains. `names` is the order of
    the recipes that fixes their colours.
    """
    rows = np.arange(len(table))
    guess = table["better_than_guessing"].eq(False).to_numpy()
    letters = sorted(set("".join(table["letters"])) - set("0123456789")) if len(table) else []
    figure = plots.create_figure(6.8, 1.3 + 0.32 * len(table))
    axes, ties = figure.subplots(1, 2, sharey=True, width_ratios=[1, max(0.24, 0.03 + 0.05 * len(letters))])
    for row, each in zip(rows.tolist(), table.itertuples(), strict=True):
        place = list(names).index(str(each.recipe))
        colour, mark = plots.get_colour(place), plots.get_marker(place)
        axes.hlines(row, each.low, each.high, color=colour, linewidth=1.6)
        inside = "white" if guess[row] else colour
        axes.plot(each.accuracy, row, mark, color=colour, markersize=5.5, markerfacecolor=inside)
    if guess.any():
        axes.set_title(_("hollow: not significantly better than guessing"), loc="left", fontsize=9)
    shown = zip(plots.shorten_names(table["recipe"], 32), table["seeds"], strict=True)
    axes.set_yticks(rows, [name + ("" if n == 1 else "\n" + _("{n} seeds", n=n)) for name, n in shown])
    axes.set(ylim=(len(table) - 0.4, -0.6), xlabel=_("accuracy (%)"))
    plots.format_percent_axis(axes.xaxis)
    axes.grid(axis="x")
    for column, letter in enumerate(letters):
        own = rows[table["letters"].str.contains(letter).to_numpy()]
        # dots mark the tied recipes: the line also crosses recipes that are not tied
        ties.plot([column] * len(own), own, "o-", color="black", linewidth=1.2, markersize=4)
        ties.annotate(letter, (column, own[0]), (0, 4), textcoords="offset points", ha="center", fontsize=8)
    ties.set(xlim=(-0.7, len(letters) - 0.3), xticks=[], xlabel=_("ties"))
    ties.spines[:].set_visible(False)
    ties.tick_params(left=False, labelleft=False)
    return figure


@plots.use_style()
def draw_differences(pairs: pd.DataFrame, order: Sequence[str]) -> Figure:
    """Draw the difference in accuracy (points), row minus column, of every two recipes; a star if significant."""
    place = {name: index for index, name in enumerate(order)}
    value = np.full((len(order), len(order)), np.nan)
    star = np.zeros(value.shape, dtype=bool)
    for first, second, ahead, significant in pairs[["a", "b", "difference", "significant"]].to_numpy(object):
        a, b = place[first], place[second]
        value[a, b], value[b, a] = 100 * ahead, -100 * ahead
        star[a, b] = star[b, a] = significant
    most = max(100 * _SMALLEST, float(np.nanmax(np.abs(value))))
    figure, axes = plots.create_axes(max(6.8, 3.6 + 0.55 * len(order)), max(4.4, 2.0 + 0.46 * len(order)))
    rounded = np.where(np.abs(value) < 0.05, "0.0", plots.format_cells("%+.1f", value, "–"))
    texts = np.char.add(np.char.replace(rounded, "-", "−"), np.where(star, " *", ""))
    image = plots.draw_cells(axes, value, texts, cmap="PuOr_r", vmin=-most, vmax=most)
    for text, significant in zip(axes.texts, star.flat, strict=True):
        text.set_fontweight("bold" if significant else "normal")
    names = plots.shorten_names(order, 30)
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_title(_("Row minus column; * and bold: significantly different"), loc="left", fontsize=9)
    figure.colorbar(image, ax=axes, shrink=0.9, label=_("difference in accuracy (points)"))
    return figure
