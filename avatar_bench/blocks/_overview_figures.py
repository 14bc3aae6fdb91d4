"""The figures of overview, a colour and marker for each recipe throughout."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from avatar_bench import plots
from avatar_bench.blocks._model_figures import Looks, log_axis
from avatar_bench.blocks._ood_sets import kind_words
from avatar_bench.blocks.base import corruption_words
from avatar_bench.messages import say

_MOST_SETS = 8  # side by side that can still be read


@plots.use_style()
def by_class(table: pd.DataFrame, looks: Looks) -> Figure:
    """Draw the share recognised of each class, and its F1, with intervals."""
    classes = ["", *dict.fromkeys(table.loc[table["class"] != "", "class"])]
    words = {name: plots.short(name, 18) or say("all classes") for name in classes}
    figure = _figure_of_dots(8.4, len(classes), looks)
    titles = {"recall": say("Share recognised (%)"), "f1": say("F1; all classes: macro-F1 (%)")}
    for axes, (kind, title) in zip(figure.subplots(1, 2, sharey=True), titles.items(), strict=True):
        part = table[table["kind"] == kind]
        _dots(axes, part.assign(of=part["class"]), words, looks)
        axes.set_title(title)
    looks.legend(figure, list(table["run"]))
    return figure


@plots.use_style()
def robustness(table: pd.DataFrame, looks: Looks) -> Figure:
    """Draw accuracy as it is, under each corruption and in the mean of these, with intervals; chance is marked."""
    words = {"clean": say("clean"), **corruption_words(), "robustness": say("mean of the five")}
    words = {name: word for name, word in words.items() if name in set(table["metric"])}
    figure = _figure_of_dots(6.4, len(words), looks)
    axes = figure.subplots()
    _dots(axes, table.assign(of=table["metric"]), words, looks)
    axes.set_xlabel(say("accuracy at severity 3 (%)"))
    chance = table["floor"].dropna().unique()
    if len(chance) == 1:
        axes.axvline(chance[0], color="black", linestyle="--", linewidth=1)
        axes.annotate(say("chance"), (chance[0], 1), (0, 3), axes.get_xaxis_transform(), "offset points", ha="center")
    looks.legend(figure, list(table["run"]))
    return figure


@plots.use_style()
def calibration(table: pd.DataFrame, looks: Looks) -> Figure:
    """Draw the calibration error against accuracy, both with intervals; a dash is the error that chance alone makes."""
    figure = plots.new_figure(5.6, 3.8 + looks.height(5.6))
    axes = figure.subplots()
    for _, row in table.iterrows():
        look = looks.of(str(row["run"]))
        axes.hlines(row["ece"], row["accuracy_low"], row["accuracy_high"], color=look["color"], linewidth=1.1)
        axes.vlines(row["accuracy"], row["ece_low"], row["ece_high"], color=look["color"], linewidth=1.1)
        axes.plot(row["accuracy"], row["ece"], markersize=7, **look)
        axes.plot(row["accuracy"], row["ece_floor"], "_", color=look["color"], markersize=13, markeredgewidth=2)
    axes.set(xlabel=say("accuracy (%)"), ylabel=say("ECE in 15 bins (%; dash: by chance alone)"))
    axes.set_ylim(0, None)
    for axis in (axes.xaxis, axes.yaxis):
        plots.percent_axis(axis)
    axes.grid(True)
    looks.legend(figure, list(table["run"]))
    return figure


@plots.use_style()
def confidence(table: pd.DataFrame, looks: Looks) -> Figure:
    """Draw the mean confidence of each run's right answers (filled) and wrong ones (hollow), with intervals."""
    labels = [label for label in looks.labels if label in set(table["run"])]
    figure = plots.new_figure(6.4, 1.5 + 0.34 * len(labels))
    axes = figure.subplots()
    for row, label in enumerate(labels):
        own = table[table["run"] == label]
        axes.plot(own["value"], [row] * len(own), color=plots.GREY, linewidth=0.8, zorder=1)
        for _, about in own.iterrows():
            wrong = about["metric"] == "mean_confidence_wrong"
            _mark(axes, row, about, looks, markerfacecolor="white" if wrong else None)
    axes.set_yticks(range(len(labels)), [plots.short(label, 34) for label in labels])
    axes.set(ylim=(len(labels) - 0.4, -0.6), xlabel=say("mean confidence (%; filled: right answers, hollow: wrong)"))
    plots.percent_axis(axes.xaxis)
    axes.grid(axis="x")
    return figure


@plots.use_style()
def ood_shares(table: pd.DataFrame, looks: Looks) -> Figure:
    """Draw the share of each predicted class by run, a panel a set."""
    kinds = dict(zip(table["set"], table["kind"], strict=True))
    panels = {
        f"{plots.short(str(name), 20)}\n{kind_words(str(kinds[name]))}": table["set"] == name
        for name in list(kinds)[:_MOST_SETS]
    }
    table = table.rename(columns={"share": "value"})
    return _heatmap(table, panels, looks, say("share of answers (%)"), "Blues", (0, 1))


@plots.use_style()
def bias(table: pd.DataFrame, looks: Looks) -> Figure:
    """Draw how much more often each class is predicted than it is there, by run, a panel a kind of pictures."""
    words = {
        "domain": say("pictures of the set"),
        "ood": say("pictures of no class"),
        "corrupted": say("corrupted pictures"),
    }
    panels = {word: table["on"] == kind for kind, word in words.items() if (table["on"] == kind).any()}
    most = max(0.05, float(table["excess"].abs().max()))
    label = say("predicted too often (points)")
    return _heatmap(table.rename(columns={"excess": "value"}), panels, looks, label, "PuOr_r", (-most, most))


@plots.use_style()
def speed_size(table: pd.DataFrame, looks: Looks) -> Figure:
    """Draw pictures a second, with intervals, against millions of parameters."""
    figure = plots.new_figure(5.6, 3.6 + looks.height(5.6))
    axes = figure.subplots()
    for _, row in table.iterrows():
        look = looks.of(str(row["run"]))
        low, high = row["images_per_second_low"], row["images_per_second_high"]
        axes.vlines(row["params_m"], low, high, color=look["color"], linewidth=1.4)
        axes.plot(row["params_m"], row["images_per_second"], markersize=7, **look)
    axes.set(xlabel=say("parameters (millions)"), ylabel=say("pictures a second, one at a time"))
    log_axis(axes, "x", table["params_m"])
    log_axis(axes, "y", table["images_per_second"])
    axes.grid(True)
    looks.legend(figure, list(table["run"]))
    return figure


@plots.use_style()
def history(table: pd.DataFrame, looks: Looks) -> Figure:
    """Draw loss and macro-F1 on val, and dashed on train, over the epochs; a ring is the best epoch of each run."""
    figure = plots.new_figure(8.4, 3.4 + looks.height(8.4))
    titles = {"loss": say("Loss (nats)"), "macro_f1": say("Macro-F1 (%)")}
    for axes, (metric, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for label, part in table.groupby("run", sort=False):
            look = looks.of(str(label))
            for column, style in ((f"train/{metric}", {"linestyle": "--", "marker": ""}), (f"val/{metric}", {})):
                known = part.dropna(subset=column)
                axes.plot(known["step"], known[column], markersize=4, linewidth=1.1, **look | style)
            best = part[part["best"]]
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "", "clip_on": False}
            axes.plot(best["step"], best[f"val/{metric}"], **look | ring)
        lines = say("solid: val, dashed: train, ring: best epoch")
        axes.set(title=title, xlabel=f"{say('epoch')}\n{lines}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(True)
    axes.set_ylim(0, 1.02)
    plots.percent_axis(axes.yaxis)
    looks.legend(figure, list(table["run"]), linestyle="-")
    return figure


def _figure_of_dots(width: float, groups: int, looks: Looks) -> Figure:
    a_group = 0.16 + 0.13 * len(looks.labels)
    return plots.new_figure(width, 1.0 + groups * max(0.36, a_group) + looks.height(width))


def _dots(axes: Axes, table: pd.DataFrame, words: Mapping[str, str], looks: Looks) -> None:
    """Draw a value with its interval for each run, one below the other, in groups by the column `of`."""
    n = len(looks.labels)
    offsets = (np.arange(n) - (n - 1) / 2) * min(0.28, 0.78 / max(1, n - 1))
    for place, name in enumerate(words):
        for _, about in table[table["of"] == name].iterrows():
            _mark(axes, place + float(offsets[looks.labels.index(str(about["run"]))]), about, looks)
        if place:
            axes.axhline(place - 0.5, color=plots.GREY, linewidth=0.6)
    axes.set_yticks(range(len(words)), list(words.values()))
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(words) - 0.5, -0.5), xlim=(min(1.0, float(table["low"].min())) - 0.03, 1.01))
    plots.percent_axis(axes.xaxis)
    axes.grid(axis="x")


def _mark(axes: Axes, place: float, about: pd.Series, looks: Looks, **style: Any) -> None:
    look = looks.of(str(about["run"]))
    axes.hlines(place, about["low"], about["high"], color=look["color"], linewidth=1.4)
    axes.plot(about["value"], place, markersize=5, **look, **style)


def _heatmap(
    table: pd.DataFrame,
    panels: Mapping[str, pd.Series],
    looks: Looks,
    label: str,
    cmap: str,
    limits: tuple[float, float],
) -> Figure:
    """Draw the column `value` by run and class, a panel for each part of the table."""
    labels = [name for name in looks.labels if name in set(table["run"])]
    classes = list(dict.fromkeys(table["class"]))
    figure = plots.new_figure(3.6 + 0.44 * len(classes) * len(panels), 2.1 + 0.3 * len(labels))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(grid, panels.items(), strict=True):
        shown = table[rows].pivot(index="run", columns="class", values="value").reindex(index=labels, columns=classes)
        image = axes.imshow(
            np.ma.masked_invalid(shown.to_numpy()), vmin=limits[0], vmax=limits[1], aspect="auto", cmap=cmap
        )
        for (row, column), value in np.ndenumerate(shown.to_numpy()):
            _number(axes, row, column, float(value), limits)
        axes.set_xticks(range(len(classes)), [plots.short(name, 14) for name in classes], rotation=40, ha="right")
        axes.set_yticks(range(len(labels)), [plots.short(name, 34) for name in labels])
        axes.set_title(title, fontsize=8.5)
        axes.spines[:].set_visible(False)
    figure.colorbar(image, ax=list(grid), shrink=0.9, format=PercentFormatter(1.0, decimals=0), label=label)
    return figure


def _number(axes: Axes, row: int, column: int, value: float, limits: tuple[float, float]) -> None:
    low, high = limits
    strong = abs(value) > 0.6 * high
    points = 0 if np.isnan(value) else round(100 * value)
    text = "–" if np.isnan(value) else f"{points:+}" if low < 0 and points else f"{points}"
    axes.text(column, row, text, ha="center", va="center", color="white" if strong else "black", fontsize=7.5)


DRAW: dict[str, Callable[[pd.DataFrame, Looks], Figure]] = {
    "by_class": by_class,
    "robustness": robustness,
    "calibration": calibration,
    "confidence": confidence,
    "ood_shares": ood_shares,
    "bias": bias,
    "speed_size": speed_size,
    "history": history,
}
