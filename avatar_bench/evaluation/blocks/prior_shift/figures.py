"""Figures of prior_shift: accuracy and macro-F1 under other class proportions, with and without correction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation import charts
from avatar_bench.evaluation.chart_data import Chart, ChartData
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
    drawn = {"mixes": _draw_mixes(result, table[table["frequent"].isna()])}
    if table["frequent"].notna().any():
        training = result.tables["priors"].drop_duplicates("class").set_index("class")["training"]
        drawn["shares"] = _draw_shares(table, result.classes, training)
    return drawn


def _draw_mixes(result: Result, table: pd.DataFrame) -> Figure:
    """Draw accuracy and macro-F1 under each mix with intervals, and those of always predicting the majority class.

    The proportions of the classes follow the name of a mix, to show which class is the 50 of 50-25-25.
    """
    shares = [column for column in map(str, table) if column.startswith("share_")][:_MOST]
    for column in shares:
        name = plots.shorten_name(column.removeprefix("share_"), 14)
        table = table.assign(**{column: [f"{name}\N{NO-BREAK SPACE}{100 * share:.3g}" for share in table[column]]})
    measures = _name_measures()
    plain = {f"{name}{end}": f"uncorrected_{name}{end}" for name in measures for end in ("", "_low", "_high")}
    values = {f"*_{name}": title for name, title in measures.items()}
    spec = Chart("dots", "mixes", values, dict.fromkeys(["mix", *shares], ""), hue="column")
    return charts.draw_chart(ChartData("mixes", spec, replace(result, tables={"mixes": table.rename(columns=plain)})))


def _draw_shares(table: pd.DataFrame, classes: Sequence[str], training: pd.Series) -> Figure:
    """Draw accuracy, and below it macro-F1, over the proportion of each class, with the rest split equally."""
    shown = list(classes)[:_MOST]
    figure = plots.create_figure(max(5.4, 2.4 * len(shown) + 0.5), 5.6)
    grid = figure.subplots(2, len(shown), sharex=True, sharey=True, squeeze=False)
    grid_shares = np.linspace(0.01, 0.99, 99)  # at 0 and 1 a class is absent, so macro-F1 would have fewer classes
    for row, (measure, title) in zip(grid, _name_measures().items(), strict=True):
        for index, (axes, name) in enumerate(zip(row, shown, strict=True)):
            of_mix = table[table["frequent"] == name].sort_values(f"share_{name}")
            for way in PRIOR_PREFIXES:
                curve = _read_columns(of_mix, way, measure).assign(share=of_mix[f"share_{name}"])
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
    handles = [*_build_handles(), share]
    figure.legend(handles=handles, loc="outside lower center", ncols=3 if len(shown) > 2 else 2)
    return figure


def _name_measures() -> dict[str, str]:
    return {"accuracy": _("accuracy (%)"), "macro_f1": _("macro-F1 (%)")}


def _read_columns(table: pd.DataFrame, way: str, measure: str) -> pd.DataFrame:
    """Return value, low and high of a measure; both ends are equal to the value if there is no interval."""
    name = f"{way}{measure}".replace("/", "_")
    columns = {name: "value", f"{name}_low": "low", f"{name}_high": "high"}
    renamed = table[list(columns)].rename(columns=columns).astype(float)
    return renamed.assign(**{end: renamed[end].fillna(renamed["value"]) for end in ("low", "high")})


def _build_handles() -> list[Line2D]:
    words = _("uncorrected"), _("corrected, known proportions"), _("corrected, estimated proportions")
    handles = []
    for (way, style), label in zip(_STYLES.items(), words, strict=True):
        colour = plots.GREY if way == PRIOR_PREFIXES[0] else "black"
        handles.append(Line2D([], [], markersize=4, color=colour, label=label, **style))
    return [*handles, Line2D([], [], color="black", linewidth=1, ls="--", label=_("always the majority class"))]
