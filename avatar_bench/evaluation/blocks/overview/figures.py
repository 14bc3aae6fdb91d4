"""Figures of overview: composition of the networks, and training."""

from __future__ import annotations

from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from avatar_bench.evaluation import charts
from avatar_bench.evaluation.chart_data import Chart, ChartData, RunStyles
from avatar_bench.evaluation.charts import draw_chart
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.declaration import find_heading
from avatar_bench.results.result import Result

_WINDOWS = "windows of "  # prefix of the trait of windowed attention
# columns of the table of architectures that its figure shows in words
_COMPONENTS = (
    *("core_block", "squeeze_excitation", "depthwise", "attention"),
    *("patch", "normalisation", "activation", "pretraining"),
)


def draw(result: Result) -> dict[str, Figure]:
    """Draw the networks and their training, with the styles of the runs in the order of their table."""
    drawn = {}
    if "architectures" in result.tables:
        looks = RunStyles(result.tables["runs"])
        drawn["architectures"] = draw_architectures(result.tables["architectures"].astype({"run": str}), looks)
    if "history" in result.tables:
        drawn["history"] = draw_history(result)
    return drawn


@plots.use_style()
def draw_architectures(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw the components of each network, a row per model, beside bars of its parameters and multiply-adds."""
    table = table.drop_duplicates("recipe")  # runs that differ only in the seed share a network
    labels = list(table["run"])
    shown = table.astype(object).fillna("")
    columns = {
        find_heading(name, "overview"): [_format_trait(name, trait) for trait in shown[name]] for name in _COMPONENTS
    }
    lines = {head: "\n".join([fill(head, 14), *cells]).split("\n") for head, cells in columns.items()}
    widths = [3 + max(map(len, column_lines)) for column_lines in lines.values()]
    tallest = 1 + max(text.count("\n") for cells in columns.values() for text in cells)
    width = 0.062 * sum(widths)
    figure = plots.create_figure(width + 5.2, 1.1 + (0.14 + 0.14 * tallest) * len(labels))
    left, *bars = figure.subplots(1, 3, sharey=True, width_ratios=[width, 1.3, 1.3])
    places = 0.01 + np.cumsum([0, *widths[:-1]]) / sum(widths)
    for position, (head, cells) in zip(places, columns.items(), strict=True):
        above = (position, 1), (0, 4), left.get_xaxis_transform(), "offset points"
        left.annotate(fill(head, 14), *above, va="bottom", fontsize=7.5)
        for row, text in enumerate(cells):
            left.text(position, row, text, va="center", fontsize=7.5)
        left.axhline(-0.5, color=plots.GREY, linewidth=0.8)
    left.set_yticks(range(len(labels)), [looks.word(label) for label in labels])
    left.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5), xticks=[])
    left.tick_params(axis="y", length=0)
    left.spines[:].set_visible(False)
    titles = {"params_m": _("parameters (millions)"), "macs_g": _("multiply-adds (billions)")}
    for axes, (name, title) in zip(bars, titles.items(), strict=True):
        for row, (label, value) in enumerate(zip(labels, table[name], strict=True)):
            axes.barh(row, value, 0.6, color=looks.of(label)["color"], alpha=0.75)
            position = (value, row), (3, 0), "data", "offset points"
            axes.annotate(f"{value:.3g}", *position, va="center", fontsize=7.5)
        charts.label_axis(axes.xaxis, title, unit="")
        axes.set_xlim(0, 1.2 * axes.dataLim.xmax)
        axes.tick_params(axis="y", length=0)
    return figure


def draw_history(result: Result) -> Figure:
    """Draw loss and macro-F1 on val, and dashed on train, over the epochs; a ring marks the best epoch of each run."""
    measures = {"val/loss": _("Loss (nats)"), "val/macro_f1": _("Macro-F1 (%)")}
    epochs = {"step": _("epoch (solid: val, dashed: train, ring: best epoch)")}
    data = ChartData("history", Chart("lines", "history", epochs, measures, hue="run"), result)
    figure = draw_chart(data)
    for axes, column in zip(figure.axes, measures, strict=True):
        top = axes.get_ylim()[1]
        for run, part in result.tables["history"].groupby("run", sort=False):
            colour = data.style_mark(str(run))["color"]
            trained = part.set_index("step")[column.replace("val", "train")].dropna()
            best = part[part["best"]]
            axes.plot(trained.index, trained, "--", color=colour, linewidth=1.1)
            axes.plot(
                best["step"], best[column], "o", color=colour, markersize=11, markerfacecolor="none", clip_on=False
            )
            top = max(top, 1.05 * trained.max())
        axes.set_ylim(0, top)
    return figure


def _format_trait(name: str, value: object) -> str:
    """Format a trait for a table cell: at most two lines, a dash if empty."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    text = "" if name == "squeeze_excitation" and not value else text
    words = {"scratch": _("none"), "self-attention": _("self-attention")}
    if text.startswith(_WINDOWS):
        text = _("windows of {size}", size=text.removeprefix(_WINDOWS))
    text = words.get(text, text.removeprefix("published "))
    parts = text.split(", ")
    return ",\n".join([parts[0], ", ".join(parts[1:])]) if len(parts) > 1 and len(text) > 14 else text or "–"
