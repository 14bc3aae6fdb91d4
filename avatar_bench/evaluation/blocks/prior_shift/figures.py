"""Figures of prior_shift: accuracy and macro-F1 under other class proportions, with and without correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation import charts
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.metrics.prior_shift import PRIOR_PREFIXES, guessing_floor, make_prior
from avatar_bench.results.result import Result

_MOST = 6  # classes that get a panel
# uncorrected, corrected by known proportions, corrected by estimated proportions
_LINES = ({"marker": "o", "ls": "-"}, {"marker": "s", "ls": "-"}, {"marker": "^", "ls": "--"})
_STYLES: dict[str, dict[str, Any]] = dict(zip(PRIOR_PREFIXES, _LINES, strict=True))


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw accuracy and macro-F1 under each mix, and against the proportion of each class if it is varied."""
    table = result.tables["mixes"]
    drawn = {"mixes": _draw_mixes(table[table["frequent"].isna()])}
    if table["frequent"].notna().any():
        training = result.tables["priors"].drop_duplicates("class").set_index("class")["training"]
        drawn["shares"] = _draw_shares(table, result.classes, training)
    return drawn


def _draw_mixes(table: pd.DataFrame) -> Figure:
    """Draw accuracy and macro-F1 under each mix with intervals, and those of always predicting the majority class.

    A row of the table is one of mixes.csv; the proportion of each class is printed below it, in the order of the
    columns.
    """
    panel = max(2.6, 1.0 + 1.05 * len(table))
    named = [column.removeprefix("share_") for column in map(str, table) if column.startswith("share_")]
    figure = plots.create_figure(2 * panel, 3.6 + 0.16 * min(len(named), _MOST))
    place = np.arange(len(table))
    for axes, (measure, title) in zip(figure.subplots(1, 2, sharey=True), _name_measures().items(), strict=True):
        for offset, way in zip((-0.2, 0.0, 0.2), PRIOR_PREFIXES, strict=True):
            own, ink = _read_columns(table, way, measure), plots.GREY if way == PRIOR_PREFIXES[0] else "black"
            axes.vlines(place + offset, own["low"], own["high"], color=ink, linewidth=1.1)
            axes.plot(place + offset, own["value"], **_STYLES[way] | {"ls": ""}, color=ink, markersize=5)
        majority, line = table[f"majority_{measure}"].astype(float), {"linestyle": "--", "linewidth": 1}
        axes.hlines(majority, place - 0.35, place + 0.35, color="black", **line)
        axes.set_xticks(place, [_format_mix(row, named) for __, row in table.iterrows()])
        axes.set(xlim=(-0.5, len(table) - 0.5), xlabel=_("proportion of each class (%)"), ylabel=title, ylim=(0, 1.02))
        plots.format_percent_axis(axes.yaxis)
        axes.tick_params(labelleft=True)
        axes.grid(axis="y")
    figure.legend(handles=_build_handles(lines=False), loc="outside lower center", ncols=2)
    return figure


def _draw_shares(table: pd.DataFrame, classes: Sequence[str], training: pd.Series) -> Figure:
    """Draw accuracy, and below it macro-F1, over the proportion of each class, with the rest split equally.

    Each column is a class.
    """
    shown = list(classes)[:_MOST]
    figure = plots.create_figure(max(5.4, 2.4 * len(shown) + 0.5), 5.6)
    grid = figure.subplots(2, len(shown), sharex=True, sharey=True, squeeze=False)
    grid_shares = np.linspace(0.01, 0.99, 99)  # at 0 and 1 a class is absent, so macro-F1 would have fewer classes
    for row, (measure, title) in zip(grid, _name_measures().items(), strict=True):
        for index, (axes, name) in enumerate(zip(row, shown, strict=True)):
            own = table[table["frequent"] == name].sort_values(f"share_{name}")
            for way in PRIOR_PREFIXES:
                curve = _read_columns(own, way, measure).assign(share=own[f"share_{name}"])
                ink = plots.GREY if way == PRIOR_PREFIXES[0] else plots.get_colour(index)
                alpha = 0 if way == PRIOR_PREFIXES[-1] else 0.18  # a third band would hide the others
                charts.draw_band(axes, curve, "share", "value", color=ink, alpha=alpha, markersize=3.5, **_STYLES[way])
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
            plots.format_percent_axis(axes.xaxis, axes.yaxis)
            axes.grid(True)
            priors = [make_prior(index, share, len(classes)) for share in grid_shares]
            commonest = [guessing_floor(f"corrected/{measure}", prior, prior) for prior in priors]
            axes.plot(grid_shares, commonest, "--", color="black", linewidth=1)
            axes.axvline(training[name], color=plots.GREY, linewidth=1, linestyle=":")
        row[0].set_ylabel(title)
    for axes, name in zip(grid[0], shown, strict=True):
        axes.set_title(plots.shorten_name(name))
    for axes in grid[-1]:
        axes.set_xlabel(_("proportion of the class (%)"))
    share = Line2D([], [], color=plots.GREY, linewidth=1, linestyle=":", label=_("proportion in training"))
    handles = [*_build_handles(lines=True), share]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if len(shown) > 2 else 2)
    return figure


def _name_measures() -> dict[str, str]:
    return {"accuracy": _("accuracy (%)"), "macro_f1": _("macro-F1 (%)")}


def _format_mix(row: pd.Series, classes: Sequence[str]) -> str:
    """Return the name of a mix with a line per class and proportion, to show which class is the 50 of 50-25-25."""
    shares = {name: float(row[f"share_{name}"]) for name in classes if row[f"share_{name}"] > 0}
    lines = [f"{plots.shorten_name(name, 14)} {100 * share:.3g}" for name, share in list(shares.items())[:_MOST]]
    return "\n".join([plots.shorten_name(str(row["mix"]), 16), *lines, *["…"] * (len(shares) > _MOST)])


def _read_columns(table: pd.DataFrame, way: str, measure: str) -> pd.DataFrame:
    """Return value, low and high of a measure; both ends are equal to the value if there is no interval."""
    name = f"{way}{measure}".replace("/", "_")
    columns = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
    found = table[list(columns)].rename(columns=columns).astype(float)
    return found.assign(**{end: found[end].fillna(found["value"]) for end in ("low", "high")})


def _build_handles(lines: bool) -> list[Line2D]:
    words = _("uncorrected"), _("corrected, known proportions"), _("corrected, estimated proportions")
    handles = []
    for (way, style), label in zip(_STYLES.items(), words, strict=True):
        own = style | {"color": plots.GREY if way == PRIOR_PREFIXES[0] else "black", "label": label}
        handles.append(Line2D([], [], markersize=4, **own if lines else own | {"ls": ""}))
    commonest = Line2D([], [], color="black", linewidth=1, ls="--", label=_("always the majority class"))
    return [*handles, commonest]
