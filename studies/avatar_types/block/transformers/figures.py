"""Figures of transformers: accuracy by recipe and by training time, pairwise differences, published accuracies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation.charts import set_log_axis
from avatar_bench.evaluation.starting_weights import PUBLISHED, SCRATCH
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result

from .recipe_traits import SAM, SAM_AT_COST, START

FAMILIES = ("convolutional", "transformer", "hybrid", "other")
_MARKERS = dict(zip(FAMILIES, "osD^", strict=True))
_SHADE = "#E0E0E0"


def draw(result: Result) -> dict[str, Figure]:
    """Draw each figure for which there are numbers."""
    recipes, pairs, study = (result.tables[name] for name in ("recipes", "pairs", "study"))
    drawn = {"accuracy": draw_accuracy(recipes), "history": draw_history(result.tables["history"])}
    if recipes["train_seconds"].notna().any():
        drawn["cost"] = draw_cost(recipes)
    if study["recipe"].notna().any():
        drawn["study"] = draw_study(study)
    if len(pairs):
        drawn["differences"] = draw_differences(pairs, result.tables["interactions"], recipes)
    return drawn


def sort_by_family(table: pd.DataFrame) -> pd.DataFrame:
    """Sort the recipes by family and then by decreasing accuracy."""
    table = table.sort_values("accuracy", ascending=False, kind="stable")
    return table.sort_values("family", key=lambda column: column.map(FAMILIES.index), kind="stable")


@plots.use_style()
def draw_accuracy(table: pd.DataFrame) -> Figure:
    """Draw the accuracy of each recipe with its interval, grouped by family; hollow with SAM."""
    rows = sort_by_family(table)
    figure, axes = plots.create_axes(7.0, 1.4 + 0.42 * len(rows))
    for index, (__, row) in enumerate(rows.iterrows()):
        style = _style(row["family"], row["sam"])
        axes.hlines(index, row["accuracy_low"], row["accuracy_high"], color=style["color"], linewidth=1.6)
        axes.plot(row["accuracy"], index, **style)
    families = rows["family"].to_numpy()
    for last in np.flatnonzero(families[1:] != families[:-1]):
        axes.axhline(last + 0.5, color=plots.GREY, linewidth=0.8)
    names = []
    for __, row in rows.iterrows():
        seeds = "" if row["seeds"] == 1 else ", " + _("{n} seeds", n=row["seeds"])
        names.append(_format_recipe(row, "\n", 34, 24) + ", SAM" * bool(row["sam"]) + seeds)
    names = _disambiguate(names, rows["recipe"])
    axes.set_yticks(range(len(rows)), [f"{number}  {name}" for number, name in enumerate(names, 1)])
    axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=_("accuracy (%)"))
    plots.format_percent_axis(axes.xaxis)
    axes.grid(axis="x")
    _draw_legend(figure, rows["family"], _("with SAM") if rows["sam"].any() else "")
    return figure


@plots.use_style()
def draw_cost(table: pd.DataFrame) -> Figure:
    """Draw accuracy against training time in seconds, numbered as in `draw_accuracy`; hollow with SAM."""
    rows = sort_by_family(table).assign(number=range(1, len(table) + 1))
    figure, axes = plots.create_axes(6.4, 3.8)
    known = rows[rows["train_seconds"].notna()]
    for __, row in known.iterrows():
        at, style = row["train_seconds"], _style(row["family"], row["sam"])
        axes.vlines(at, row["accuracy_low"], row["accuracy_high"], color=style["color"], linewidth=1.2)
        axes.plot(at, row["accuracy"], **style)
    set_log_axis(axes, "x", known["train_seconds"])
    axes.set(xlabel=_("seconds of training (log scale)"), ylabel=_("accuracy (%)"))
    plots.format_percent_axis(axes.yaxis)
    axes.grid(True)
    _draw_legend(figure, known["family"], _("with SAM") if known["sam"].any() else "")
    columns = {"train_seconds": "x", "accuracy": "y", "accuracy_low": "low", "accuracy_high": "high"}
    plots.number_points(figure, axes, known.rename(columns=columns))
    return figure


@plots.use_style()
def draw_differences(pairs: pd.DataFrame, interactions: pd.DataFrame, recipes: pd.DataFrame) -> Figure:
    """Draw the difference in accuracy of each pair with its interval, and in grey the undetectable range.

    Diamonds below are differences between two gains from SAM.
    """
    about, columns = recipes.set_index("recipe"), ["difference", "low", "high", "significant"]
    shown = 100 * pd.concat([pairs[columns], interactions.assign(significant=False)[columns]]).to_numpy(float)
    figure, axes = plots.create_axes(7.0, 1.5 + 0.46 * len(shown))
    for index, width in enumerate(100 * pairs["detectable"]):
        if np.isnan(width):  # no difference is detectable
            axes.axhspan(index - 0.35, index + 0.35, color=_SHADE, linewidth=0)
        else:
            axes.barh(index, 2 * width, left=-width, height=0.7, color=_SHADE)
    for index, (difference, low, high, significant) in enumerate(shown):
        mark: dict[str, Any] = {"marker": "o"} if index < len(pairs) else {"marker": "D", "markersize": 5}
        axes.hlines(index, low, high, color="black", linewidth=1.6 if significant else 1.0)
        axes.plot(difference, index, color="black", fillstyle="full" if significant else "none", **mark)
    axes.axvline(0, color=plots.GREY, linestyle="--", linewidth=1)
    grey = 100 * pairs["detectable"].max()
    # at least 2 points each way, so that a tiny difference does not fill the figure
    ends = np.array([*shown[:, 1:3].ravel(), -grey, grey, -2, 2])
    low, high = np.nanmin(ends), np.nanmax(ends)
    axes.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
    names = _disambiguate([_format_pair(row, about) for __, row in pairs.iterrows()], pairs["a"])
    gains = []
    for __, row in interactions.iterrows():
        a, b = (_format_recipe(about.loc[row[side]], network=24, start=16) for side in ("a", "b"))
        gains.append(_("gain from SAM: {a}", a=a) + f"\n− {b}")
    axes.set_yticks(range(len(shown)), names + _disambiguate(gains, interactions["a_sam"]))
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel=_("difference in accuracy (points)"))
    axes.grid(axis="x")
    handles = [
        Line2D([], [], color="black", marker="o", label=_("significantly different")),
        Line2D([], [], color="black", marker="o", fillstyle="none", label=_("statistically tied")),
        Line2D([], [], color=_SHADE, linewidth=7, label=_("likely undetectable")),
    ]
    if len(interactions):
        axes.axhline(len(pairs) - 0.5, color=plots.GREY, linewidth=0.8)
        label = _("difference of two gains, not tested")
        handles.append(Line2D([], [], color="black", marker="D", fillstyle="none", label=label))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if len(interactions) else 3)
    return figure


@plots.use_style()
def draw_history(table: pd.DataFrame) -> Figure:
    """Draw published top-1 accuracies on ImageNet-1k, a row per network by year; hollow if self-supervised."""
    figure, axes = plots.create_axes(7.2, 1.5 + 0.24 * len(table))
    for index, (__, row) in enumerate(table.iterrows()):
        style = _style(row["family"], row["training"].startswith("self-supervised"))
        axes.plot(row["published_top1"], index, **style)
        millions, beside = _("{number} M", number=f"{row['published_params_m']:g}"), axes.get_yaxis_transform()
        axes.text(1.02, index, millions, transform=beside, va="center", fontsize=8, color="#404040")
    years = table["year"].to_numpy()
    for last in np.flatnonzero(years[1:] != years[:-1]):
        axes.axhline(last + 0.5, color="#E3E3E3", linewidth=0.6)
    axes.set_yticks(range(len(table)), [f"{row['network']}  {row['year']}" for __, row in table.iterrows()])
    axes.set(xlim=(0.6, 0.92), ylim=(len(table) - 0.4, -0.6), xlabel=_("published top-1 accuracy on ImageNet-1k (%)"))
    axes.set_title(_("Published accuracies, not measured here; right: parameters"), loc="left", fontsize=9)
    plots.format_percent_axis(axes.xaxis)
    axes.grid(axis="x")
    _draw_legend(figure, table["family"], _("self-supervised"))
    return figure


@plots.use_style()
def draw_study(table: pd.DataFrame) -> Figure:
    """Draw the accuracies that the study reported as crosses, and those measured here on avatars with intervals.

    Accuracies reported for an unnamed data set have their own panel: they cannot be compared with avatars.
    """
    figure = plots.create_figure(8.2, 1.8 + 0.36 * len(table))
    unnamed, avatars = figure.subplots(1, 2, sharey=True)
    places = np.arange(len(table))
    on_avatars = table["reported_on"] == "avatars"
    typed = {"color": plots.GREY, "label": _("reported by the study")}
    for axes, own in ((unnamed, ~on_avatars), (avatars, on_avatars)):
        axes.plot(table["reported_accuracy"].where(own), places, "x", **typed)
        plots.format_percent_axis(axes.xaxis)
        axes.grid(axis="x")
    avatars.hlines(places, table["accuracy_low"], table["accuracy_high"], color="black", linewidth=1.6)
    avatars.plot(table["accuracy"], places, "o", color="black", label=_("measured here, with interval"))
    reasons = map(Reason.parse_cell, table["reason"])
    pairs = zip(table["recipe"], reasons, strict=True)
    recipes = plots.shorten_names((format_reason(why, "transformers") if why else name for name, why in pairs), 40)
    names = [
        _("{network} (block {number} of the study)", network=network, number=number) + f"\n{recipe}"
        for network, number, recipe in zip(table["network"], table["block"], recipes, strict=True)
    ]
    avatars.set_yticks(places, names)
    unnamed.set(ylim=(len(table) - 0.4, -0.6), xlabel=_("top-1 accuracy (%)"), title=_("Unnamed data set"))
    avatars.set(xlabel=_("accuracy (%)"), title=_("Avatars"))
    figure.suptitle(_("The study published no code that computes its numbers"), fontsize=9)
    plots.draw_legend(figure, 2)
    return figure


def _style(family: str, hollow: bool) -> dict[str, Any]:
    colour = plots.get_colour(FAMILIES.index(family))
    fill = "white" if hollow else colour
    return {"marker": _MARKERS[family], "color": colour, "markerfacecolor": fill, "markersize": 6}


def _draw_legend(figure: Figure, families: pd.Series, hollow: str) -> None:
    words = {
        "convolutional": _("convolutions"),
        "transformer": _("transformer"),
        "hybrid": _("convolutions and attention"),
        "other": _("neither convolutions nor attention"),
    }
    there = [family for family in FAMILIES if family in set(families)]
    handles = [Line2D([], [], linestyle="", label=words[family], **_style(family, False)) for family in there]
    if hollow:
        handles.append(Line2D([], [], linestyle="", label=hollow, **_style(there[0], True)))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))


def _disambiguate(names: list[str], recipes: Iterable[str]) -> list[str]:
    """Add the recipe to names that occur several times: such recipes differ in their settings."""
    pairs = zip(names, plots.shorten_names(recipes, 40), strict=True)
    return [f"{name}\n{recipe}" if names.count(name) > 1 else name for name, recipe in pairs]


def _format_recipe(row: pd.Series, separator: str = ", ", network: int = 30, start: int = 20) -> str:
    """Format the network and initial weights of a recipe in at most so many characters each."""
    name = plots.shorten_name(row["architecture"], network)
    return f"{name}{separator}{plots.shorten_name(_format_start(row), start)}"


def _format_start(row: pd.Series) -> str:
    """Return the initial weights of a recipe; published weights by their tag, which names their training."""
    if row["start"] == SCRATCH:
        return _("from scratch")
    if row["start"] == PUBLISHED:
        return str(row["start_detail"]).removesuffix(" by package")
    return f"{row['start']} {row['start_detail']}"


def _format_pair(row: pd.Series, about: pd.DataFrame) -> str:
    a, b = about.loc[row["a"]], about.loc[row["b"]]
    sam = ", SAM" if a["sam"] else ""
    if row["changed"] == SAM:
        return f"{_format_recipe(a)}\n" + _("with SAM minus without")
    if row["changed"] == SAM_AT_COST:
        return f"{_format_recipe(a)}\n" + _("with SAM minus without, with equal passes")
    if row["changed"] == START:
        return _format_recipe(a, sam + "\n") + f" − {plots.shorten_name(_format_start(b), 20)}"
    return f"{_format_recipe(a)}{sam}\n− {_format_recipe(b)}{sam}"
