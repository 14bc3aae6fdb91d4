"""Figures of the block calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.special import softmax

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.headings import find_word
from avatar_bench.results.result import Metric, Result

Floats = NDArray[np.float64]
_CORRECT_COLOUR, _INCORRECT_COLOUR = plots.PALETTE[5], plots.PALETTE[4]
# marker, colour, vertical offset in the row
_METHOD_STYLES = {"lac": ("o", plots.PALETTE[0], -0.14), "aps": ("s", plots.PALETTE[1], 0.14)}


def draw(result: Result) -> dict[str, Figure]:
    """Draw reliability and confidence, and conformal sets and shift if there are any."""
    tables, saved = result.tables, result.arrays["predictions"]
    logits, temperature = saved["logits"].astype(np.float64), result.metrics["temperature"].value or 1.0
    temperatures = [1.0] if temperature == 1 else [1.0, temperature]  # without a fitted one, nothing is compared
    confidences = [softmax(logits / each, axis=1).max(axis=1) for each in temperatures]
    correct = logits.argmax(axis=1) == saved["targets"]
    reliability = [tables["reliability"], tables["reliability_scaled"]][: len(temperatures)]
    drawn = {
        "reliability": draw_reliability(reliability, result.metrics, result.provenance["level"]),
        "confidence": draw_confidence(confidences, correct, len(result.classes)),
    }
    if "coverage" in tables:
        drawn["coverage"] = draw_coverage(tables["coverage"], result.provenance["nominal_coverage"])
    if len(tables["shift"]) > 1:
        drawn["shift"] = draw_shift(tables["shift"], result.provenance["nominal_coverage"])
    return drawn


@plots.use_style()
def draw_reliability(tables: Sequence[pd.DataFrame], metrics: Mapping[str, Metric], level: float) -> Figure:
    """Draw reliability diagrams with intervals and counts, of the raw and of the scaled probabilities.

    A run without a fitted temperature has one table, that of the raw probabilities.
    """
    figure = plots.create_figure(2.4 + 2.6 * len(tables), 5.0)
    grid = figure.subplots(2, len(tables), height_ratios=(3, 1), sharex=True, sharey="row", squeeze=False)
    for column, (table, title, prefix) in enumerate(
        zip(tables, _build_titles(len(tables)), ("", "scaled/"), strict=False)
    ):
        upper, lower = grid[:, column]
        shown = table[table["count"] > 0]
        width = shown["high"] - shown["low"]
        bars: dict[str, Any] = {"align": "edge", "edgecolor": "white"}
        label = _("accuracy of these predictions")
        upper.bar(shown["low"], shown["accuracy"], width, color=_CORRECT_COLOUR, alpha=0.6, label=label, **bars)
        label = _("the same at their mean confidence, with {level:.0%} interval", level=level)
        ends = [shown["accuracy"] - shown["accuracy_low"], shown["accuracy_high"] - shown["accuracy"]]
        points: dict[str, Any] = {"color": "black", "markersize": 3, "elinewidth": 1.1, "label": label}
        upper.errorbar(shown["confidence"], shown["accuracy"], np.maximum(0, ends), fmt="o", **points)
        upper.plot([0, 1], [0, 1], "--", color=plots.GREY, linewidth=1, label=_("perfect calibration"))
        error, floor = (f"{metrics[prefix + name].value or 0.0:.1%}" for name in ("ece_15", "ece_floor_p95"))
        upper.set_title(f"{title}\n{_('ECE {error}, chance alone up to {floor}', error=error, floor=floor)}")
        lower.bar(shown["low"], shown["count"], width, color=plots.GREY, **bars)
        lower.set(xlabel=_("confidence (%)"), xlim=(0, 1))
        lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        for axes in (upper, lower):
            axes.grid(True)
            plots.format_percent_axis(axes.xaxis)
        upper.set_ylim(0, 1.02)
        plots.format_percent_axis(upper.yaxis)
    grid[0, 0].set_ylabel(_("accuracy (%)"))
    grid[1, 0].set_ylabel(_("number of images"))
    plots.draw_legend(figure, len(tables))
    return figure


@plots.use_style()
def draw_confidence(confidences: Sequence[Floats], correct: NDArray[np.bool_], classes: int) -> Figure:
    """Draw the confidence of correct and of incorrect predictions, before and, where there is one, after scaling."""
    figure = plots.create_figure(2.4 + 2.6 * len(confidences), 3.1)
    grid = figure.subplots(1, len(confidences), sharex=True, sharey=True, squeeze=False)[0]
    edges = np.linspace(1 / max(2, classes), 1, 21)
    for axes, title, confidence in zip(grid, _build_titles(len(confidences)), confidences, strict=True):
        for right, name, ink in (
            (True, _("correct predictions"), _CORRECT_COLOUR),
            (False, _("incorrect predictions"), _INCORRECT_COLOUR),
        ):
            own = confidence[correct == right]
            share, label = np.full(len(own), 1 / max(1, len(own))), f"{name} (n = {len(own)})"
            axes.hist(own, bins=list(edges), weights=share, color=ink, alpha=0.6, label=label, edgecolor="white")
        axes.set(title=title, xlabel=_("confidence (%)"), xlim=(edges[0], 1))
        plots.format_percent_axis(axes.xaxis)
        axes.grid(axis="y")
    grid[0].set_ylabel(_("proportion of these predictions (%)"))
    plots.format_percent_axis(grid[0].yaxis)
    plots.draw_legend(figure, 2)
    return figure


@plots.use_style()
def draw_coverage(table: pd.DataFrame, aim: float) -> Figure:
    """Draw the coverage and the mean size of the conformal sets, of all images and by true class."""
    sides = {method: own.reset_index(drop=True) for method, own in table.groupby("method", sort=False)}
    names = [name or _("all") for name in plots.shorten_names(sides["lac"]["class"].fillna(""), 18)]
    figure = plots.create_figure(7.6, 1.5 + 0.42 * len(names))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    for method, own in sides.items():
        _draw_coverages(left, own, str(method), ("coverage", "low", "high"))
        marker, ink, step = _METHOD_STYLES[str(method)]
        right.plot(own["set_size"], own.index + step, marker, color=ink, markersize=5)
    _draw_target(left, aim, table["low"].min())
    right.set(xlabel=_("mean set size (classes)"), xlim=(0, 1.1 * table["set_size"].max() + 0.1))
    right.grid(True)
    _name_rows(left, names, sides["lac"]["n"])
    plots.draw_legend(figure, 3)
    return figure


@plots.use_style()
def draw_shift(table: pd.DataFrame, aim: float) -> Figure:
    """Draw coverage and calibration error on corrupted and other images.

    Without conformal sets the table has no columns of coverage, and that panel is left out.
    """
    with_sets = "coverage_lac" in table
    figure = plots.create_figure(8.0 if with_sets else 5.2, 1.6 + 0.4 * len(table))
    panels = np.atleast_1d(figure.subplots(1, 1 + with_sets, sharey=True))
    for method in _METHOD_STYLES if with_sets else ():
        _draw_coverages(panels[0], table, method, [f"coverage_{method}{end}" for end in ("", "_low", "_high")])
    if with_sets:
        _draw_target(panels[0], aim, min(table["coverage_lac_low"].min(), table["coverage_aps_low"].min()))
    errors = panels[-1]
    chance = _("chance alone, 95th percentile")
    errors.barh(table.index, table["ece_floor_p95"], color="#D9D9D9", height=0.7, label=chance)
    errors.plot(table["ece_15"], table.index, "D", color=plots.PALETTE[4], markersize=5, label=_("ECE, 15 bins"))
    errors.set(xlabel=_("ECE after scaling (%)"), xlim=(0, None))
    plots.format_percent_axis(errors.xaxis)
    errors.grid(axis="x")
    _name_rows(panels[0], plots.shorten_names([find_word(name) for name in table["set"]], 24), table["n"])
    plots.draw_legend(figure, 3)
    return figure


def _build_titles(panels: int) -> tuple[str, ...]:
    return (_("before scaling"), _("after scaling")) if panels > 1 else (_("no temperature is applied"),)


def _draw_coverages(axes: Axes, table: pd.DataFrame, method: str, columns: Sequence[str]) -> None:
    """Draw one method's coverage with its intervals, in rows next to the other method's."""
    value, low, high = (table[column].to_numpy() for column in columns)
    marker, ink, step = _METHOD_STYLES[method]
    rows = table.index.to_numpy() + step
    axes.hlines(rows, low, high, color=ink, linewidth=1.3)
    axes.plot(value, rows, marker, color=ink, markersize=5, label=method.upper())


def _draw_target(axes: Axes, aim: float, lowest: float) -> None:
    axes.axvline(aim, color="black", linestyle="--", linewidth=1, label=_("nominal: {share}", share=f"{aim:.0%}"))
    axes.set(xlabel=_("sets that contain the true class (%)"), xlim=(max(0.0, min(lowest, aim) - 0.03), 1.01))
    plots.format_percent_axis(axes.xaxis)
    axes.grid(True)


def _name_rows(axes: Axes, names: Sequence[str], ns: Iterable[int]) -> None:
    axes.set_yticks(range(len(names)), [f"{name} (n = {n})" for name, n in zip(names, ns, strict=True)])
    axes.set_ylim(len(names) - 0.5, -0.5)
