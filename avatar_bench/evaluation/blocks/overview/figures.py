"""Figures of overview, with one colour and marker for each recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from avatar_bench.evaluation.model_scatter import RunStyles, set_log_axis
from avatar_bench.evaluation.ood_sets import name_kind
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.headings import find_heading, find_word
from avatar_bench.results.result import Result

_MOST_SETS = 8  # legible sets side by side
_WINDOWS = "windows of "  # prefix of the trait of windowed attention
_LINE = 36  # characters of a label beside an axis
# columns of the table of architectures that its figure shows in words
_COMPONENTS = (
    *("core_block", "squeeze_excitation", "depthwise", "attention"),
    *("patch", "normalisation", "activation", "pretraining"),
)
_HIGHEST = 7.0  # inches of dots below each other
_FEW = 6  # models whose names fit below a narrow figure


def draw(result: Result) -> dict[str, Figure]:
    """Draw each chart that has a table, with the styles of the runs in the order of the table of runs."""
    looks = RunStyles(result.tables["runs"])
    charts: dict[str, Callable[[pd.DataFrame, RunStyles], Figure]] = {
        "by_class": draw_classes,
        "robustness": draw_robustness,
        "robustness_bias": draw_robustness_bias,
        "calibration": draw_calibration,
        "risk_coverage": draw_risk_coverage,
        "confidence": draw_confidence,
        "ood_confidence": draw_ood_confidence,
        "ood_shares": draw_ood_shares,
        "bias": draw_bias,
        "architectures": draw_architectures,
        "speed_size": draw_speed_size,
        "costs": draw_costs,
        "history": draw_history,
    }
    tables = {name: result.tables[name].astype({"run": str}) for name in charts if name in result.tables}
    return {name: charts[name](table, looks) for name, table in tables.items()}


@plots.use_style()
def draw_classes(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw the recall, precision and F1 of each class, with intervals."""
    table = table.astype({"class": object}).fillna({"class": ""})
    classes = ["", *dict.fromkeys(table.loc[table["class"] != "", "class"])]
    words = {name: plots.shorten_name(name, 18) or _("all classes") for name in classes}
    figure = _create_dot_figure(10.2, len(classes), looks)
    titles = {
        "recall": _("Recall; all classes: accuracy (%)"),
        "precision": _("Precision; all classes: mean (%)"),
        "f1": _("F1; all classes: mean (%)"),
    }
    for axes, (kind, title) in zip(figure.subplots(1, 3, sharey=True), titles.items(), strict=True):
        part = table[table["kind"] == kind]
        _draw_dots(axes, part.assign(of=part["class"]), words, looks)
        axes.set_title(title)
    looks.legend(figure, list(table["run"]))
    return figure


@plots.use_style()
def draw_robustness(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw clean accuracy, accuracy under each corruption and their mean, with intervals; chance is marked.

    Many corruptions are divided between panels side by side, so that the figure is not many times higher than wide.
    """
    means = {"clean": _("clean"), "robustness": _("mean of the five")}
    words = {name: means.get(name) or find_heading(name, "overview") for name in dict.fromkeys(table["metric"])}
    columns = math.ceil(len(words) * _measure_group(looks) / _HIGHEST)
    tallest, names = math.ceil(len(words) / columns), list(words)
    width = 5.0 * columns if columns > 1 else 6.4 if len(looks.models) <= _FEW else 8.4
    figure = _create_dot_figure(width, tallest, looks)
    chance = table["floor"].dropna().unique()
    panels = figure.subplots(1, columns, sharex=True, squeeze=False)[0]
    for place, axes in enumerate(panels):
        own = names[place * tallest : (place + 1) * tallest]
        _draw_dots(axes, table.assign(of=table["metric"]), {name: words[name] for name in own}, looks)
        axes.set(xlabel=_("accuracy at severity 3 (%)"), ylim=(tallest - 0.5, -0.5))
        if len(chance) == 1:
            axes.axvline(chance[0], color="black", linestyle="--", linewidth=1)
            axes.annotate(_("chance"), (chance[0], 1), (0, 3), axes.get_xaxis_transform(), "offset points", ha="center")
    lowest = min(1.0, float(table["low"].min()), *chance[:1].tolist())
    panels[0].set_xlim(left=lowest - 0.03)
    looks.legend(figure, list(table["run"]))
    return figure


@plots.use_style()
def draw_robustness_bias(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw robustness beside `unbias`, both with intervals; dashed lines mark random guessing."""
    titles = {
        "robustness": _("mean accuracy under corruption (%)"),
        "unbias": _("1 − largest share of a class on out-of-domain images (%)"),
    }
    figure = _draw_rows(table, looks, titles)
    for axes, name in zip(figure.axes, titles, strict=True):
        chance = table[f"{name}_floor"].min()
        axes.axvline(chance, color="black", linestyle="--", linewidth=1)
        axes.annotate(_("chance"), (chance, 1), (0, 3), axes.get_xaxis_transform(), "offset points", ha="center")
    return figure


@plots.use_style()
def draw_calibration(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw the calibration error beside accuracy, both with intervals.

    A dash is the error expected by chance, a hollow mark the raw error, before the temperature.
    """
    text = _("ECE in 15 bins (%; hollow: raw; dash: expected by chance)")
    figure = _draw_rows(table, looks, {"ece": text, "accuracy": _("accuracy (%)")})
    axes = figure.axes[0]
    for row, (run, chance, raw) in enumerate(table[["run", "ece_floor", "raw_ece"]].itertuples(index=False)):
        axes.plot(chance, row, "|", color=looks.of(run)["color"], markersize=13, markeredgewidth=2)
        axes.plot(raw, row, markersize=8, zorder=1.5, **looks.of(run) | {"markerfacecolor": "white"})
    axes.set_xlim(left=0)
    return figure


@plots.use_style()
def draw_risk_coverage(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw the error rate among the answered images of each run by coverage, with bands if there are few runs."""
    figure, axes = plots.create_axes(6.4, 4.0 + looks.height(6.4))
    names = list(dict.fromkeys(table["run"]))
    for name in names:
        own, style = table[table["run"] == name], looks.of(name)
        axes.plot(own["coverage"], own["error"], markersize=4, linewidth=1.2, **style)
        if len(names) <= _FEW:
            axes.fill_between(own["coverage"], own["low"], own["high"], color=style["color"], alpha=0.12, linewidth=0)
    axes.set_xlim(0, 1.01)
    plots.frame_risk_coverage(axes, table)
    looks.legend(figure, names, linestyle="-")
    return figure


@plots.use_style()
def draw_confidence(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw the mean confidence of each run's correct (filled) and incorrect (hollow) predictions, with intervals."""
    labels = [label for label in looks.labels if label in set(table["run"])]
    figure, axes = plots.create_axes(6.4, 1.5 + 0.34 * len(labels))
    for row, label in enumerate(labels):
        own = table[table["run"] == label]
        axes.plot(own["value"], [row] * len(own), color=plots.GREY, linewidth=0.8, zorder=1)
        for __, about in own.iterrows():
            wrong = about["metric"] == "mean_confidence_incorrect"
            _draw_mark(axes, row, about, looks, markerfacecolor="white" if wrong else None)
    axes.set_yticks(range(len(labels)), [looks.word(label) for label in labels])
    axes.set_ylim(len(labels) - 0.4, -0.6)
    figure.supxlabel(_("mean confidence (%; filled: correct predictions, hollow: incorrect)"), fontsize=9)
    plots.format_percent_axis(axes.xaxis)
    axes.grid(axis="x")
    return figure


@plots.use_style()
def draw_ood_confidence(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw the mean confidence on the evaluated set (filled) and on each other set (hollow), with intervals."""
    labels = [label for label in looks.labels if label in set(table["run"])]
    inside = table[table["kind"] == "in_domain"]
    outside = table[table["kind"] != "in_domain"]
    kinds = dict(zip(outside["set"], outside["kind"], strict=True))
    shown = list(kinds)[:_MOST_SETS]
    figure = plots.create_figure(2.6 + 2.0 * len(shown), 1.7 + 0.3 * len(labels))
    panels = figure.subplots(1, len(shown), sharey=True, sharex=True, squeeze=False)[0]
    for axes, name in zip(panels, shown, strict=True):
        for row, label in enumerate(labels):
            both = pd.concat([part[part["run"] == label] for part in (inside, table[table["set"] == name])])
            axes.plot(both["value"], [row] * len(both), color=plots.GREY, linewidth=0.8, zorder=1)
            for __, about in both.iterrows():
                _draw_mark(axes, row, about, looks, markerfacecolor=None if about["kind"] == "in_domain" else "white")
        axes.set_title(f"{plots.shorten_name(name, 22)}\n{name_kind(kinds[name])}", fontsize=8.5)
        plots.format_percent_axis(axes.xaxis)
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(labels)), [looks.word(label) for label in labels])
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    figure.supxlabel(_("mean confidence (%; filled: evaluated set, hollow: set named above)"), fontsize=9)
    return figure


@plots.use_style()
def draw_ood_shares(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw the share of each predicted class by run, one panel per set."""
    kinds = dict(zip(table["set"], table["kind"], strict=True))
    panels = {
        f"{plots.shorten_name(str(name), 20)}\n{name_kind(str(kinds[name]))}": table["set"] == name
        for name in list(kinds)[:_MOST_SETS]
    }
    return _draw_heatmap(table, "share", panels, looks, _("share of predictions (%)"), 0, 1)


@plots.use_style()
def draw_bias(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw by how much each class is predicted too often, by run, one panel per kind of images."""
    panels = {find_word(kind, "overview"): table["on"] == kind for kind in dict.fromkeys(table["on"])}
    most = max(0.05, float(table["excess"].abs().max()))
    return _draw_heatmap(table, "excess", panels, looks, _("predicted too often (points)"), -most, most)


@plots.use_style()
def draw_architectures(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw the components of each network, a row per model, beside bars of its parameters and multiply-adds."""
    table = table.drop_duplicates("recipe").set_index("run")  # runs that differ only in the seed share one network
    labels = list(table.index)
    shown = table.astype(object).fillna("")
    columns = {
        find_heading(name, "overview"): [_format_trait(name, each) for each in shown[name]] for name in _COMPONENTS
    }
    lines = {head: "\n".join([fill(head, 14), *cells]).split("\n") for head, cells in columns.items()}
    widths = [3 + max(map(len, own)) for own in lines.values()]
    tallest = 1 + max(text.count("\n") for cells in columns.values() for text in cells)
    width = 0.062 * sum(widths)
    figure = plots.create_figure(width + 5.2, 1.1 + (0.14 + 0.14 * tallest) * len(labels))
    left, *bars = figure.subplots(1, 3, sharey=True, width_ratios=[width, 1.3, 1.3])
    places = 0.01 + np.cumsum([0, *widths[:-1]]) / sum(widths)
    for place, (head, cells) in zip(places, columns.items(), strict=True):
        above = (place, 1), (0, 4), left.get_xaxis_transform(), "offset points"
        left.annotate(fill(head, 14), *above, va="bottom", fontsize=7.5)
        for row, text in enumerate(cells):
            left.text(place, row, text, va="center", fontsize=7.5)
        left.axhline(-0.5, color=plots.GREY, linewidth=0.8)
    left.set_yticks(range(len(labels)), [looks.word(label) for label in labels])
    left.set(xlim=(0, 1), ylim=(len(labels) - 0.5, -0.5), xticks=[])
    left.tick_params(axis="y", length=0)
    left.spines[:].set_visible(False)
    titles = {"params_m": _("parameters (millions)"), "macs_g": _("multiply-adds (billions)")}
    for axes, (name, title) in zip(bars, titles.items(), strict=True):
        _draw_bars(axes, table[name], looks, title)
    return figure


@plots.use_style()
def draw_speed_size(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw images per second, with intervals, against parameters, multiply-adds and accuracy; hollow on a GPU."""
    titles = {
        "params_m": _("parameters (millions)"),
        "macs_g": _("multiply-adds (billions)"),
        "accuracy": _("accuracy (%)"),
    }
    titles = {name: title for name, title in titles.items() if table[name].notna().any()}
    width = 0.8 + 3.0 * len(titles)
    figure = plots.create_figure(width, 3.4 + looks.height(width))
    panels, hollow = figure.subplots(1, len(titles), sharey=True), {"markerfacecolor": "white"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for __, row in table.dropna(subset=name).iterrows():
            look, speed = looks.of(str(row["run"])), "images_per_second"
            axes.vlines(row[name], row[f"{speed}_low"], row[f"{speed}_high"], color=look["color"], linewidth=1.4)
            if name == "accuracy":
                axes.hlines(row[speed], row[f"{name}_low"], row[f"{name}_high"], color=look["color"], linewidth=1.1)
            axes.plot(row[name], row[speed], markersize=7, **look, **hollow if row["device"] != "cpu" else {})
        axes.set_xlabel(title)
        axes.grid(True)
        if name == "accuracy":
            plots.format_percent_axis(axes.xaxis)
        else:
            set_log_axis(axes, "x", table[name])
    set_log_axis(panels[0], "y", table["images_per_second"])
    both = set(table["device"]) != {"cpu"}
    text = _("images per second, batch size 1 (hollow: GPU)") if both else _("images per second, batch size 1")
    panels[0].set_ylabel(fill(text, _LINE))
    looks.legend(figure, list(table["run"]))
    return figure


@plots.use_style()
def draw_costs(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw bars of time per image on each device, with intervals, of weights and of peak memory."""
    labels = [label for label in looks.labels if label in set(table["run"])]
    devices = [device for device in ("cpu", *sorted({*table["device"]} - {"cpu"})) if device in set(table["device"])]
    figure = plots.create_figure(10.2, 1.2 + (0.18 + 0.16 * len(devices)) * len(labels))
    times, *sizes = figure.subplots(1, 3, sharey=True)
    title = _("milliseconds per image (hollow: GPU)") if devices != ["cpu"] else _("milliseconds per image")
    _draw_bars(times, table.set_index("run")["latency_ms"], looks, title, table, devices)
    titles = {"weights_mb": _("weights (MB)"), "peak_memory_mb": _("peak memory (MB)")}
    for axes, (name, title) in zip(sizes, titles.items(), strict=True):
        _draw_bars(axes, table.drop_duplicates("run").set_index("run")[name].loc[labels], looks, title)
    times.set_yticks(range(len(labels)), [looks.word(label) for label in labels])
    times.set_ylim(len(labels) - 0.5, -0.5)
    return figure


@plots.use_style()
def draw_history(table: pd.DataFrame, looks: RunStyles) -> Figure:
    """Draw loss and macro-F1 on val, and dashed on train, over the epochs; a ring marks the best epoch of each run."""
    figure = plots.create_figure(8.4, 3.4 + looks.height(8.4))
    titles = {"loss": _("Loss (nats)"), "macro_f1": _("Macro-F1 (%)")}
    for axes, (metric, title) in zip(figure.subplots(1, 2), titles.items(), strict=True):
        for label, part in table.groupby("run", sort=False):
            look = looks.of(str(label))
            for column, style in ((f"train/{metric}", {"linestyle": "--", "marker": ""}), (f"val/{metric}", {})):
                known = part.dropna(subset=column)
                axes.plot(known["step"], known[column], markersize=4, linewidth=1.1, **look | style)
            best = part[part["best"]]
            ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "linestyle": "", "clip_on": False}
            axes.plot(best["step"], best[f"val/{metric}"], **look | ring)
        lines = _("solid: val, dashed: train, ring: best epoch")
        axes.set(title=title, xlabel=f"{_('epoch')}\n{lines}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(True)
    axes.set_ylim(0, 1.02)
    plots.format_percent_axis(axes.yaxis)
    looks.legend(figure, list(table["run"]), linestyle="-")
    return figure


def _draw_rows(table: pd.DataFrame, looks: RunStyles, titles: Mapping[str, str]) -> Figure:
    """Draw proportions with their intervals, a row for each run and a panel for each titled column.

    Crosses of one against the other would lie on each other where runs are alike.
    """
    figure = plots.create_figure(8.4, 1.3 + 0.34 * len(table))
    panels = figure.subplots(1, len(titles), sharey=True)
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        for row, (__, about) in enumerate(table.iterrows()):
            own = about.rename({name: "value", f"{name}_low": "low", f"{name}_high": "high"})
            _draw_mark(axes, row, own, looks)
        axes.set_xlabel(fill(title, _LINE))
        plots.format_percent_axis(axes.xaxis)
        axes.grid(axis="x")
    panels[0].set_yticks(range(len(table)), [looks.word(str(name)) for name in table["run"]])
    panels[0].set_ylim(len(table) - 0.4, -0.6)
    return figure


def _create_dot_figure(width: float, groups: int, looks: RunStyles) -> Figure:
    return plots.create_figure(width, 1.0 + groups * _measure_group(looks) + looks.height(width))


def _measure_group(looks: RunStyles) -> float:
    """Return the height in inches of a group of dots, one for each run."""
    return max(0.36, 0.16 + 0.13 * len(looks.labels))


def _draw_dots(axes: Axes, table: pd.DataFrame, words: Mapping[str, str], looks: RunStyles) -> None:
    """Draw the value and interval of each run, one below the other, grouped by the column `of`."""
    n = len(looks.labels)
    offsets = (np.arange(n) - (n - 1) / 2) * min(0.28, 0.78 / max(1, n - 1))
    for place, name in enumerate(words):
        for __, about in table[table["of"] == name].iterrows():
            _draw_mark(axes, place + float(offsets[looks.labels.index(str(about["run"]))]), about, looks)
        if place:
            axes.axhline(place - 0.5, color=plots.GREY, linewidth=0.6)
    axes.set_yticks(range(len(words)), list(words.values()))
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(len(words) - 0.5, -0.5), xlim=(min(1.0, float(table["low"].min())) - 0.03, 1.01))
    plots.format_percent_axis(axes.xaxis)
    axes.grid(axis="x")


def _draw_mark(axes: Axes, place: float, about: pd.Series, looks: RunStyles, **style: Any) -> None:
    look = looks.of(str(about["run"]))
    axes.hlines(place, about["low"], about["high"], color=look["color"], linewidth=1.4)
    axes.plot(about["value"], place, markersize=5, **look, **style)


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


def _draw_bars(
    axes: Axes,
    values: pd.Series,
    looks: RunStyles,
    title: str,
    table: pd.DataFrame | None = None,
    devices: Sequence[str] = ("cpu",),
) -> None:
    """Draw one bar per run with its number; with `table`, one per device with the interval of `latency_ms`."""
    labels, height = list(dict.fromkeys(values.index)), 0.7 / len(devices)
    for row, label in enumerate(labels):
        for place, device in enumerate(devices):
            value, y = values.loc[label], row + (place - (len(devices) - 1) / 2) * height
            if table is not None:
                own = table[(table["run"] == label) & (table["device"] == device)]
                if own.empty:
                    continue
                value = own["latency_ms"].iat[0]
                axes.hlines(y, own["latency_ms_low"], own["latency_ms_high"], color="black", linewidth=1.1, zorder=3)
            ink = looks.of(str(label))["color"]
            face = ink if device == "cpu" else "white"
            axes.barh(y, value, 0.86 * height, color=face, edgecolor=ink, alpha=0.75)
            top = value if table is None else max(value, own["latency_ms_high"].fillna(value).iat[0])
            axes.annotate(f"{value:.3g}", (top, y), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set_xlabel(title)
    axes.set_xlim(0, 1.2 * axes.dataLim.xmax)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")


def _draw_heatmap(
    table: pd.DataFrame,
    value: str,
    panels: Mapping[str, pd.Series],
    looks: RunStyles,
    label: str,
    lowest: float,
    most: float,
) -> Figure:
    """Draw a column by run and class, one panel for each part of the table."""
    colours = "PuOr_r" if lowest < 0 else "Blues"
    labels = [name for name in looks.labels if name in set(table["run"])]
    classes = list(dict.fromkeys(table["class"]))
    figure = plots.create_figure(3.6 + 0.48 * len(classes) * len(panels), 2.2 + 0.3 * len(labels))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(grid, panels.items(), strict=True):
        pivoted = table[rows].pivot(index="run", columns="class", values=value)
        shown = pivoted.reindex(index=labels, columns=classes).to_numpy()
        texts = np.vectorize(lambda share: _format_points(share, signed=lowest < 0), otypes=[object])(shown)
        image = plots.draw_cells(axes, shown, texts, vmin=lowest, vmax=most, cmap=colours)
        names = [plots.shorten_name(name, 14) for name in classes]
        axes.set_xticks(range(len(classes)), names, rotation=40, ha="right")
        axes.set_yticks(range(len(labels)), [looks.word(name) for name in labels])
        axes.set_title("\n".join(fill(line, 16) for line in title.split("\n")), fontsize=8)
    bar = figure.colorbar(image, ax=list(grid), shrink=0.9, label=label)
    plots.format_percent_axis(bar.ax.yaxis)
    return figure


def _format_points(share: float, signed: bool) -> str:
    points = 0 if np.isnan(share) else round(100 * share)
    return "–" if np.isnan(share) else f"{points:+}" if signed and points else f"{points}"
