"""Figure of ensemble: agreement of each pair of runs against its error."""

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

_MAX_NUMBERED_POINTS = 45  # with more points, numbers beside them are illegible


def draw(result: Result) -> dict[str, Figure]:
    """Draw the kappa and the error of the pairs of runs, if there are any, in the colours of the recipes."""
    if "pairs" not in result.tables:
        return {}
    runs = result.arrays["runs" if "runs" in result.arrays else "members"]
    labels, colours = runs["run"].tolist(), pd.factorize(runs["recipe"])[0].tolist()
    return {"kappa_error": draw_kappa_error(result.tables["pairs"], labels, colours)}


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
