"""Figures of error_bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.error_bias.bias_tables import describe_slice
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.reasons import format_reason
from avatar_bench.results.result import Result

_BINS, _MOST_SLICES = 15, 20
_DIAMOND: Any = {"marker": "D", "linestyle": "", "color": "white", "markeredgecolor": "black", "markersize": 4}


def draw(result: Result) -> dict[str, Figure]:
    """Draw the predictions by source, the confidence, and the weakest slices if any can be tested."""
    slices, images = result.tables["slices"], result.tables["images"]
    confidence, correct = images["confidence"].to_numpy(), images["correct"].to_numpy()
    drawn = {
        "bias_map": _draw_bias_map(result.tables["confusion_by_slice"], result.classes),
        "confidence": _draw_confidence(confidence, correct, len(result.classes)),
    }
    tested = slices[slices["p"].notna()].fillna({"target": ""})
    return drawn | ({"weakest_slices": _draw_weakest_slices(tested, result.classes)} if len(tested) else {})


@plots.use_style()
def _draw_bias_map(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the proportion of each predicted class for each source, from the table of confusions by slice.

    Rows are sources by true class, or the classes if no source is known; the cell of the true class is framed.
    """
    by_source = bool((table["by"] == "source").any())
    shown = table[table["by"] == ("source" if by_source else "class")]
    shown = shown.nlargest(plots.MAX_BARS, "n").sort_values(["target", "slice"])
    counts = shown[[f"predicted_{name}" for name in classes]].to_numpy(float)
    share = counts / counts.sum(axis=1, keepdims=True)
    figure, axes = plots.create_axes(3.6 + 0.8 * len(classes), max(3.6, 1.4 + 0.24 * len(shown)))
    image = plots.draw_cells(axes, share, np.char.mod("%.0f%%", 100 * share), 7, vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), plots.shorten_names(classes, 16))
    slices = plots.shorten_names(shown["slice"].astype(str), 24)
    names = [f"{name} (n = {n})" for name, n in zip(slices, shown["n"], strict=True)]
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.set(xlabel=_("predicted class"))
    axes.set_ylabel(_("source, by true class (framed)") if by_source else _("class (true class framed)"))
    plots.frame_true_classes(axes, [list(classes).index(target) for target in shown["target"]])
    figure.colorbar(image, ax=axes, shrink=0.9, format=PercentFormatter(1.0), label=_("share of row (%)"))
    return figure


@plots.use_style()
def _draw_confidence(confidence: NDArray[np.floating], correct: NDArray[np.bool_], classes: int) -> Figure:
    """Draw the distributions of confidence (N,) for correct and for incorrect predictions, with their means."""
    figure, axes = plots.create_axes(5.4, 3.2)
    edges = np.linspace(1 / classes, 1, _BINS + 1)
    outline: Any = {"histtype": "step", "linewidth": 1.6}
    for rows, colour, style, name in (
        (correct, plots.GREY, {"alpha": 0.6}, _("correct (n = {n})", n=int(correct.sum()))),
        (~correct, plots.get_colour(4), outline, _("incorrect (n = {n})", n=int((~correct).sum()))),
    ):
        if rows.any():
            values = np.clip(confidence[rows], edges[0], edges[-1])
            style |= {"weights": [1 / len(values)] * len(values), "label": name}
            axes.hist(values, bins=edges.tolist(), color=colour, **style)
            axes.axvline(float(values.mean()), color=colour, linestyle="--", linewidth=1.2)
    axes.set(xlabel=_("confidence (%; dashed: mean)"), ylabel=_("share within each group (%)"))
    axes.set_xlim(edges[0], 1)
    plots.format_percent_axis(axes.xaxis, axes.yaxis)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@plots.use_style()
def _draw_weakest_slices(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the weakest slices with intervals beside the rest of their class; a star marks significant ones."""
    shown = table.head(_MOST_SLICES)
    rows = np.arange(len(shown))
    colours = [_get_colour(name, classes) for name in shown["target"]]
    figure, axes = plots.create_axes(6.8, 1.8 + 0.26 * len(shown))
    axes.barh(rows, shown["accuracy"], color=colours, alpha=0.75, height=0.72)
    axes.hlines(rows, shown["low"], shown["high"], color="black", linewidth=1.1)
    axes.plot(shown["rest"], rows, clip_on=False, **_DIAMOND)
    for row, (n, significant) in enumerate(zip(shown["n"], shown["significant"], strict=True)):
        axes.text(1.015, row, f"{n}{' *' * significant}", va="center", fontsize=8, color="#404040")
    axes.annotate("n", (1.015, 1), (0, 3), axes.get_xaxis_transform(), "offset points", fontsize=8, color="#404040")
    names = [format_reason(describe_slice(row), "error_bias") for __, row in shown.iterrows()]
    axes.set_yticks(rows, plots.shorten_names(names, 40), fontsize=8)
    axes.set(xlim=(0, 1), ylim=(len(shown) - 0.4, -0.6), xlabel=_("accuracy (%)"))
    plots.format_percent_axis(axes.xaxis)
    axes.grid(axis="x")
    kinds = [name for name in (*classes, "") if name in set(shown["target"])]
    figure.legend(handles=_build_legend(kinds, classes), loc="outside lower center", ncols=3)
    return figure


def _get_colour(target: str, classes: Sequence[str]) -> str:
    return plots.get_colour(list(classes).index(target)) if target else plots.GREY


def _build_legend(kinds: Sequence[str], classes: Sequence[str]) -> list[Patch | Line2D]:
    names = {name: shown or _("all classes") for name, shown in zip(kinds, plots.shorten_names(kinds), strict=True)}
    bars = [Patch(color=_get_colour(name, classes), alpha=0.75, label=shown) for name, shown in names.items()]
    star = Line2D([], [], marker="*", linestyle="", color="#404040", label=_("significantly different"))
    return [*bars, Line2D([], [], label=_("the rest of the class"), **_DIAMOND), star]
