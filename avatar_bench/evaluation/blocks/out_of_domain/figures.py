"""Figures of out_of_domain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, PercentFormatter
from numpy.typing import NDArray

from avatar_bench.evaluation.ood_sets import name_kind
from avatar_bench.i18n import _, get_title
from avatar_bench.metrics import plots
from avatar_bench.results.result import Metric, Result

IN_DOMAIN_COLOUR, OOD_COLOUR = plots.GREY, plots.get_colour(4)
_COLUMNS, _MOST_PANELS = 3, 6  # legible sets side by side, with and without row labels
_BINS = 30
_WIDE = 50  # ratio of scores from which the axis is logarithmic


def draw(result: Result) -> dict[str, Figure]:
    """Draw shares and confidence, detection where there are scores, and the gallery if there is one."""
    sets, scores = result.tables["sets"], result.tables["scores"]
    drawn = {
        "shares": draw_shares(sets, result.metrics, result.classes),
        "confidence": draw_confidence(result.tables["confidence"].fillna({"class": ""}), sets, result.classes),
    }
    columns = list(scores)
    names = [str(name) for name in columns[columns.index("confidence") + 1 :]]
    outside_domain = list(sets.loc[sets["kind"].isin(["near", "far"]), "set"])
    if outside_domain and names:
        drawn["auroc"] = draw_auroc(result.metrics, sets, outside_domain, names)
        drawn["scores"] = draw_histograms(scores, outside_domain, names)
    if "gallery" in result.arrays:
        gallery = result.arrays["gallery"]
        titles = [
            "\n".join([str(row.set), _("predicted:"), str(row.prediction), f"{row.confidence:.1%}"])
            for row in scores.iloc[gallery["rows"]].itertuples()
        ]
        drawn["gallery"] = plots.draw_gallery(plots.list_thumbnails(gallery), titles)
    return drawn


@plots.use_style()
def draw_shares(table: pd.DataFrame, metrics: Mapping[str, Metric], classes: Sequence[str]) -> Figure:
    """Draw the share of each predicted class by set, with its interval; the in-domain set is at the top."""
    share = table[[f"share_{name}" for name in classes]].to_numpy()
    figure, axes = plots.create_axes(3.4 + 0.85 * len(classes), 1.5 + 0.42 * len(table))
    intervals = [[_format_interval(metrics.get(f"share/{row}/{name}")) for name in classes] for row in table["set"]]
    texts = np.char.add(np.char.mod("%.0f%%", 100 * share), intervals)
    image = plots.draw_cells(axes, share, texts, vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), plots.shorten_names(classes, 18))
    axes.set_yticks(range(len(table)), _format_sets(table), fontsize=8)
    axes.set(xlabel=_("predicted class"))
    axes.axhline(0.5, color="white", linewidth=3)
    figure.colorbar(image, ax=axes, shrink=0.9, format=PercentFormatter(1.0), label=_("share of row (%)"))
    return figure


@plots.use_style()
def draw_confidence(table: pd.DataFrame, sets: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw mean and standard deviation of confidence on each set with intervals; the in-domain set is at the top.

    Squares are all images, dots those of each predicted class. A cross is the accuracy of labelled images: a square to
    the right of it means overconfidence.
    """
    step = 0.8 / (1 + len(classes))
    figure = plots.create_figure(8.2, 1.9 + (0.3 + 0.17 * len(classes)) * len(sets))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(5, 3))
    for row, of in enumerate(sets["set"]):
        own = table[table["set"] == of].set_index("class")
        for index, name in enumerate(("", *classes)):
            colour = plots.get_colour(index - 1) if name else "black"
            place = row - 0.4 + step * (index + 0.5)
            for axes, number in ((left, "mean_confidence"), (right, "std_confidence")):
                value, low, high = own.loc[name, [number, f"{number}_low", f"{number}_high"]].astype(float)
                axes.hlines(place, 100 * low, 100 * high, color=colour, linewidth=1.6 if not name else 1.1)
                axes.plot(100 * value, place, "s" if not name else "o", color=colour, markersize=4)
    left.plot(100 * sets["accuracy"], np.arange(len(sets)) - 0.4 + step / 2, "x", color="black", markersize=6)
    names = _format_sets(sets)
    left.set_yticks(range(len(names)), names, fontsize=8)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set(xlabel=_("mean confidence (%)"), xlim=(None, 101))
    right.set(xlabel=_("std. deviation (points)"), xlim=(0, None))
    handles = [
        Line2D([], [], marker="s", color="black", markersize=4, label=_("all images")),
        Line2D([], [], marker="x", color="black", linestyle="", label=_("accuracy, where classes are known")),
    ]
    for index, name in enumerate(classes):
        label = _("predicted as {name}", name=plots.shorten_name(name, 18))
        handles.append(Line2D([], [], marker="o", color=plots.get_colour(index), markersize=4, label=label))
    for axes in (left, right):
        axes.grid(axis="x")
        axes.hlines(np.arange(len(names) - 1) + 0.5, *axes.get_xlim(), color="#E3E3E3", linewidth=0.6)
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


@plots.use_style()
def draw_auroc(
    metrics: Mapping[str, Metric], table: pd.DataFrame, sets: Sequence[str], scores: Sequence[str]
) -> Figure:
    """Draw the AUROC of each score with its interval in a panel for each set; chance is marked."""
    columns = min(len(sets), _COLUMNS)
    lines = math.ceil(len(sets) / columns)
    figure = plots.create_figure(max(5.0, 1.5 + 2.2 * columns), 0.6 + lines * (0.9 + 0.3 * len(scores)))
    grid = figure.subplots(lines, columns, sharey=True, sharex=True, squeeze=False)
    for axes, name in zip(grid.flat, sets, strict=False):
        for row, score in enumerate(scores):
            _draw_point(axes, row, metrics[f"auroc/{name}/{score}"])
        about = table.set_index("set").loc[name]
        axes.axvline(0.5, color="black", linestyle="--", linewidth=1)
        axes.set(title=f"{plots.shorten_name(name, 22)}\n{name_kind(str(about['kind']))}, n = {about['n']}")
        axes.tick_params(labelbottom=True)
        axes.grid(axis="x")
    for axes in grid.flat[len(sets) :]:
        axes.set_axis_off()
    grid[0, 0].set_yticks(range(len(scores)), [get_title("ood_score", score) for score in scores])
    ends = [metrics[f"auroc/{name}/{score}"].low for name in sets for score in scores]
    low = min(0.45, *(end - 0.05 for end in ends if end is not None))
    grid[0, 0].set(ylim=(len(scores) - 0.5, -0.5), xlim=(low, 1.02))
    figure.supxlabel(_("AUROC, out of domain against in domain (dashed: chance)"), fontsize=9)
    return figure


@plots.use_style()
def draw_histograms(table: pd.DataFrame, sets: Sequence[str], scores: Sequence[str]) -> Figure:
    """Draw the distribution of each score in the domain and in each set, from the table of scores."""
    shown = sets[:_MOST_PANELS]
    figure = plots.create_figure(max(4.0, 0.9 + 1.9 * len(shown)), 0.9 + 1.15 * len(scores))
    grid = figure.subplots(len(scores), len(shown), squeeze=False, sharex="row", sharey="row")
    domain = table[table["kind"] == "in_domain"]
    for line, score in zip(grid, scores, strict=True):
        values = table.loc[(table["kind"] == "in_domain") | table["set"].isin(shown), score]
        low, high = np.quantile(values, [0.005, 0.995])
        wide = low > 0 and high > _WIDE * low
        edges = (np.geomspace if wide else np.linspace)(low, high if high > low else low + 1, _BINS + 1)
        for axes, name in zip(line, shown, strict=True):
            own = table[(table["set"] == name) & (table["kind"] != "in_domain")]
            _draw_histogram(axes, domain[score], edges, color=IN_DOMAIN_COLOUR, alpha=0.6, label=_("in domain"))
            _draw_histogram(axes, own[score], edges, color=OOD_COLOUR, histtype="step", label=_("out of domain"))
            if wide:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
        line[0].set_ylabel(get_title("ood_score", score))
        line[0].yaxis.set_major_locator(MaxNLocator(4, integer=True))
    for axes, name in zip(grid[0], shown, strict=True):
        axes.set_title(plots.shorten_name(name, 20))
    left_out = _("{n} of {all} sets", n=len(shown), all=len(sets)) if len(sets) > len(shown) else ""
    figure.supylabel(_("share of the set's images (%)"), fontsize=9)
    figure.supxlabel(_("score (higher: more likely out of domain)"), fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, title=left_out)
    return figure


def _format_sets(table: pd.DataFrame) -> list[str]:
    return [
        f"{plots.shorten_name(str(row.set), 26)}\n{name_kind(str(row.kind))}, n = {row.n}" for row in table.itertuples()
    ]


def _draw_point(axes: Axes, row: int, metric: Metric) -> None:
    if metric.value is None:
        return
    if metric.low is not None and metric.high is not None:
        axes.hlines(row, metric.low, metric.high, color=plots.GREY, linewidth=2)
    axes.plot(metric.value, row, "o", color="black", markersize=4)
    place = axes.get_yaxis_transform()
    axes.text(1.02, row, f"{metric.value:.3f}", va="center", fontsize=7.5, color="#404040", transform=place)


def _format_interval(share: Metric | None) -> str:
    if share is None or share.low is None or share.high is None:
        return ""
    return f"\n{100 * share.low:.0f}–{100 * share.high:.0f}"


def _draw_histogram(axes: Axes, values: pd.Series, edges: NDArray[np.float64], **how: Any) -> None:
    """Draw a histogram in percent; values beyond the outer edges count in the outer bins."""
    percent = [100 / len(values)] * len(values)
    axes.hist(np.clip(values, edges[0], edges[-1]), bins=edges.tolist(), weights=percent, **how)
    axes.tick_params(labelsize=7)
