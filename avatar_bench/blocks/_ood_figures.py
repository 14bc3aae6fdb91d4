"""The figures of out_of_domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, PercentFormatter
from numpy.typing import NDArray

from avatar_bench import plots
from avatar_bench.blocks._ood_sets import kind_words
from avatar_bench.messages import say
from avatar_bench.results import Metric

INSIDE, OUTSIDE = plots.GREY, plots.color(4)
_MOST_PANELS = 6  # sets side by side that can still be read
_BINS = 30
_WIDE = 50  # times: a wider range of scores is drawn on a logarithmic axis


@plots.use_style()
def shares(table: pd.DataFrame, metrics: Mapping[str, Metric], classes: Sequence[str]) -> Figure:
    """Draw the share of each predicted class by set, with its interval; the set of the domain on top."""
    share = table[[f"share_{name}" for name in classes]].to_numpy()
    figure = plots.new_figure(3.4 + 0.85 * len(classes), 1.5 + 0.42 * len(table))
    axes = figure.subplots()
    image = axes.imshow(share, vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(classes)), [plots.short(name, 18) for name in classes])
    names = [f"{plots.short(str(row.set), 26)}\n{kind_words(str(row.kind))}, n = {row.n}" for row in table.itertuples()]
    axes.set_yticks(range(len(table)), names, fontsize=8)
    axes.set(xlabel=say("predicted class"))
    axes.spines[:].set_visible(False)
    for (row, column), part in np.ndenumerate(share):
        ink = "white" if part > 0.55 else "black"
        about = metrics.get(f"share/{table['set'].iat[row]}/{classes[column]}")
        axes.text(column, row, f"{part:.0%}{_ends(about)}", ha="center", va="center", color=ink, fontsize=7.5)
    axes.axhline(0.5, color="white", linewidth=3)
    figure.colorbar(image, ax=axes, shrink=0.9, format=PercentFormatter(1.0), label=say("share of row (%)"))
    return figure


@plots.use_style()
def aurocs(metrics: Mapping[str, Metric], table: pd.DataFrame, sets: Sequence[str], scores: Sequence[str]) -> Figure:
    """Draw the AUROC of each score with its interval, a panel for each set; chance is marked."""
    sets = sets[:_MOST_PANELS]
    figure = plots.new_figure(max(5.0, 1.5 + 2.2 * len(sets)), 1.5 + 0.3 * len(scores))
    panels = np.atleast_1d(figure.subplots(1, len(sets), sharey=True, sharex=True))
    for axes, name in zip(panels, sets, strict=True):
        for row, score in enumerate(scores):
            _point(axes, row, metrics[f"auroc/{name}/{score}"])
        about = table.set_index("set").loc[name]
        axes.axvline(0.5, color="black", linestyle="--", linewidth=1)
        axes.set(title=f"{plots.short(name, 22)}\n{kind_words(str(about['kind']))}, n = {about['n']}")
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(scores)), list(scores))
    ends = [metrics[f"auroc/{name}/{score}"].low for name in sets for score in scores]
    panels[0].set(
        ylim=(len(scores) - 0.5, -0.5), xlim=(min(0.45, *(end - 0.05 for end in ends if end is not None)), 1.02)
    )
    figure.supxlabel(say("AUROC, out of domain against in domain (dashed: chance)"), fontsize=9)
    return figure


@plots.use_style()
def histograms(table: pd.DataFrame, sets: Sequence[str], scores: Sequence[str]) -> Figure:
    """Draw how each score is distributed in the domain and in each set, from the table of scores."""
    sets = sets[:_MOST_PANELS]
    figure = plots.new_figure(max(4.0, 0.9 + 1.9 * len(sets)), 0.9 + 1.15 * len(scores))
    grid = figure.subplots(len(scores), len(sets), squeeze=False, sharex="row")
    domain = table[table["kind"] == "in_domain"]
    for line, score in zip(grid, scores, strict=True):
        shown = table.loc[(table["kind"] == "in_domain") | table["set"].isin(sets), score]
        low, high = np.quantile(shown, [0.005, 0.995])
        wide = low > 0 and high > _WIDE * low
        edges = (np.geomspace if wide else np.linspace)(low, high if high > low else low + 1, _BINS + 1)
        for axes, name in zip(line, sets, strict=True):
            beside = table[(table["set"] == name) & (table["kind"] != "in_domain")]
            _distribution(axes, domain[score], edges, color=INSIDE, alpha=0.6, label=say("in domain"))
            _distribution(axes, beside[score], edges, color=OUTSIDE, histtype="step", label=say("out of domain"))
            if wide:
                _logarithmic(axes)
        line[0].set_ylabel(score)
    for axes, name in zip(grid[0], sets, strict=True):
        axes.set_title(plots.short(name, 22))
    figure.supylabel(say("share of the set's pictures (%)"), fontsize=9)
    figure.supxlabel(say("score; the higher, the more out of domain"), fontsize=9)
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _point(axes: Axes, row: int, metric: Metric) -> None:
    if metric.value is None:
        return
    if metric.low is not None and metric.high is not None:
        axes.hlines(row, metric.low, metric.high, color=plots.GREY, linewidth=2)
    axes.plot(metric.value, row, "o", color="black", markersize=4)
    place = axes.get_yaxis_transform()
    axes.text(1.02, row, f"{metric.value:.3f}", va="center", fontsize=7.5, color="#404040", transform=place)


def _ends(share: Metric | None) -> str:
    if share is None or share.low is None or share.high is None:
        return ""
    return f"\n{100 * share.low:.0f}–{100 * share.high:.0f}"


def _distribution(axes: Axes, values: pd.Series, edges: NDArray[np.float64], **how: Any) -> None:
    """Draw shares; what lies beyond the outer edges is counted in the outer bins."""
    axes.hist(np.clip(values, edges[0], edges[-1]), bins=edges.tolist(), weights=[1 / len(values)] * len(values), **how)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(labelsize=7)


def _logarithmic(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
