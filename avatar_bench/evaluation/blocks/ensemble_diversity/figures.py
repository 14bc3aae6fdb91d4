"""Figures of ensemble_diversity: measures of each pair of runs, and agreement against error."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

_MAX_RUNS_WITH_NUMBERS = 14  # with more runs, numbers in the cells of a heatmap are illegible
_MAX_NUMBERED_POINTS = 45  # with more points, numbers beside them are illegible


def draw(result: Result) -> dict[str, Figure]:
    """Draw kappa, error correlation and double fault of each pair, and kappa against error in the recipes' colours."""
    table, labels = result.tables["pairs"], result.arrays["runs"]["run"].tolist()
    colours = pd.factorize(result.arrays["runs"]["recipe"])[0].tolist()
    measures = {
        "kappa": (_("Cohen's kappa of the predictions"), True),
        "error_correlation": (_("correlation of the errors"), True),
        "double_fault": (_("proportion of images that both misclassify"), False),
    }
    drawn = {name: draw_pairs(table[name], labels, *about) for name, about in measures.items()}
    return drawn | {"kappa_error": draw_kappa_error(table, labels, colours)}


@plots.use_style()
def draw_pairs(measure: pd.Series, labels: Sequence[str], label: str, signed: bool) -> Figure:
    """Draw a measure of every pair of runs, in the order of `combinations`, as a triangle; NaN means no value.

    The colour scale is -1 to 1 if the measure is `signed`, else 0 to the largest value.
    """
    size = len(labels)
    values = np.full((size, size), np.nan)
    values.T[np.triu_indices(size, 1)] = measure
    figure, axes = plots.create_axes(max(4.8, 3.0 + 0.48 * size), max(4.4, 2.4 + 0.48 * size))
    high = 1.0 if signed else max(0.01, float(np.nan_to_num(values).max()))
    colours = "RdBu_r" if signed else "Blues"
    shown = values[1:, :-1]
    empty = np.triu(np.ones(shown.shape, dtype=bool), 1) | (size > _MAX_RUNS_WITH_NUMBERS)
    texts = np.where(empty, "", plots.format_cells("%.2f", shown))
    limits = {"vmin": -high if signed else 0, "vmax": high, "aspect": "equal"}
    image = plots.draw_cells(axes, shown, texts, 8, cmap=colours, **limits)
    names = plots.shorten_names(labels, 28)
    axes.set_xticks(range(size - 1), names[:-1], rotation=40, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(size - 1), names[1:], fontsize=8)
    figure.colorbar(image, ax=axes, shrink=0.8, label=label)
    return figure


@plots.use_style()
def draw_kappa_error(table: pd.DataFrame, labels: Sequence[str], colours: Sequence[int]) -> Figure:
    """Draw each pair's kappa against its mean error; each half of a marker has the colour of one of the runs.

    If runs of one recipe share a colour, runs and pairs are numbered, up to 45 pairs. A pair whose marker would cover
    that of another stands to the right of it. Margineantu and Dietterich, ICML 1997: pairs at the lower left are
    accurate and diverse, and averaging gains from them.
    """
    errors = 100 * (table["both_incorrect"] + (table["only_a_correct"] + table["only_b_correct"]) / 2) / table["n"]
    numbered = len(set(colours)) < len(colours) and table["kappa"].count() <= _MAX_NUMBERED_POINTS
    figure, axes = plots.create_axes(7.6, 4.2 + 0.2 * max(0, len(colours) - 12))
    near = [0.01 * (values.max() - values.min()) for values in (table["kappa"], errors[table["kappa"].notna()])]
    points: list[tuple[str, float, float, float, float]] = []
    for (a, b), kappa, error in zip(combinations(range(len(labels)), 2), table["kappa"], errors, strict=True):
        if np.isnan(kappa):
            continue
        sign = plots.get_marker(max(colours[a], colours[b]))
        style: dict[str, Any] = {"marker": sign, "markersize": 9, "fillstyle": "left", "markeredgecolor": "black"}
        style |= {"color": plots.get_colour(colours[a]), "markerfacecoloralt": plots.get_colour(colours[b])}
        covered = sum(abs(x - kappa) <= near[0] and abs(y - error) <= near[1] for _number, x, y, *_ends in points)
        aside = ScaledTranslation(9 / 72 * covered, 0, figure.dpi_scale_trans)
        (line,) = axes.plot(kappa, error, markeredgewidth=0.6, **style)
        line.set_transform(axes.transData + aside)  # only now: the limits are those of the data
        points.append((f"{a + 1}–{b + 1}", kappa, error, error, error))
    axes.set(xlabel=_("Cohen's kappa of the pair"), ylabel=_("mean error of the pair (%)"))
    axes.margins(0.08)
    axes.grid(True)
    names = plots.shorten_names(labels, 34)
    names = [f"{number}  {name}" for number, name in enumerate(names, 1)] if numbered else names
    handles = []
    for look, name in zip(colours, names, strict=True):
        style = {"marker": plots.get_marker(look), "linestyle": "", "color": plots.get_colour(look)}
        handles.append(Line2D([], [], label=name, **style))
    figure.legend(handles=handles, loc="outside right upper", fontsize=8)
    if numbered:
        plots.number_points(figure, axes, pd.DataFrame(points, columns=["number", "x", "y", "low", "high"]))
    return figure
