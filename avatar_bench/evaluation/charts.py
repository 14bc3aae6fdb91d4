"""Figures that the about.yaml of a block declares: the house's kinds of charts, and parts that other figures share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from textwrap import fill
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from avatar_bench.evaluation.chart_data import ChartData, Panel, Unit, read_charts
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.metrics.stats import ratio
from avatar_bench.results.declaration import find_heading
from avatar_bench.results.result import Result

_BINS = 20  # of a histogram
_MOST_ACROSS = 4  # panels side by side
_MOST_BANDS = 6  # legible bands in one panel
_FEW_POINTS = 8  # of a line: their intervals are bars, those of more a band
_LINE = 36  # characters of a label below a panel
_PALE = 0.3  # opacity
_NEAR = 0.25  # levels whose names would overlap
_MIN_RATIO = 6.0  # of the ends of a logarithmic axis, so that it has two or three ticks
_LEVEL: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
_TICK: dict[str, Any] = {"marker": "|", "color": "black", "linestyle": "", "markersize": 14}
_DIAMOND: dict[str, Any] = {
    "marker": "D",
    "color": "white",
    "markeredgecolor": "black",
    "linestyle": "",
    "markersize": 4,
}


def draw_charts(result: Result) -> dict[str, Figure]:
    """Draw the charts that the block of a result declares, without those that it lacks the rows for."""
    charts = {name: ChartData(name, spec, result) for name, spec in read_charts(result.block).items()}
    return {name: draw_chart(data) for name, data in charts.items() if len(data.table)}


@plots.use_style()
def draw_chart(data: ChartData, *others: Line2D) -> Figure:
    """Draw a chart, with `others` at the end of its legend."""
    drawers = {"lines": _draw_lines, "cells": _draw_cells, "crosses": _draw_crosses, "images": _draw_images}
    drawers["histograms"] = _draw_histograms
    return drawers.get(data.spec.chart, _draw_rows)(data, others)


def _draw_rows(data: ChartData, others: Sequence[Line2D]) -> Figure:
    """Draw dots or bars with their intervals in rows; those of several colours are spread within a row."""
    panels, names, is_bar = data.list_panels(), data.name_rows(), data.spec.chart == "bars"
    rows = list(names)
    is_spread = (data.table.groupby("row", sort=False)["colour"].nunique() > 1).any()
    n = len(data.colours) if is_spread else 1
    mark_style = _DIAMOND if is_bar else _TICK
    marked = {column: name for column, name in data.spec.marks.items() if name in data.table}
    labels = [find_heading(name.rpartition(".")[2], data.result.block) for name in marked.values()]
    others = [*others, *(Line2D([], [], label=label, **mark_style) for label in labels)]
    lines = 1 + max(name.count("\n") for name in names.values())
    height = max(0.13 + 0.14 * lines, 0.17 + 0.07 * n)
    width, line = (2.4, _LINE - 4) if len(panels) > 1 else (4.4, 50)
    longest = max(len(part) for name in names.values() for part in name.split("\n"))
    size = width, 0.75 + height * len(rows), max(1.6, 0.8 + 0.065 * longest)
    figure, grid = _create_grid(data, len(panels), size, others, sharex=bool(data.spec.panels), sharey=True)
    for axes, panel in zip(grid, panels, strict=False):
        colours = [colour for colour in data.colours if (panel.table["colour"] == colour).any()] if is_spread else []
        for mark in panel.marks:
            aside = colours.index(mark["colour"]) - (len(colours) - 1) / 2 if is_spread else 0.0
            y = rows.index(mark["row"]) + aside * min(0.28, 0.78 / n)
            style, numbers = data.style_mark(**mark), (mark["value"], mark["low"], mark["high"])
            if is_bar:
                value, *ends = numbers
                alpha = 0.75 if mark["is_filled"] else _PALE
                axes.barh(y, value, height=0.76 / n, color=style["color"], alpha=alpha)
                axes.hlines(y, *ends, color="black", linewidth=1.1)
                axes.plot(ends, [y, y], "|", color="black", markersize=4)
            else:
                draw_dots(axes, y, numbers, **style)
            if f"{mark['column']}_floor" in mark and panel.table["floor"].nunique() > 1:
                axes.plot(mark["floor"], y, "|", color=style["color"], markersize=13, markeredgewidth=2)
            if name := marked.get(mark["column"]):
                axes.plot(mark[name], rows.index(mark["row"]), clip_on=False, **mark_style)
        name_rows(axes, list(names.values()), fill(panel.label, line), panel.unit, fontsize=8)
        axes.set_title(panel.title, fontsize=9, pad=14)  # above the names of levels
        _mark_levels(axes, panel, data.list_lines() if axes is grid[0] else [])
        if n > 1:
            axes.tick_params(axis="y", length=0)
            borders, transform = np.arange(1, len(rows)) - 0.5, axes.get_yaxis_transform()
            axes.hlines(borders, 0, 1, plots.GREY, linewidth=0.6, transform=transform)
    for axes, panel in zip(grid, panels, strict=False):  # once all are drawn: they may share their axis
        if panel.unit == "%":
            left, right = (0, 1) if is_bar else axes.get_xlim()
            axes.set_xlim(max(left, -0.01), min(right, 1.01))
        elif not panel.unit and (data if data.spec.panels else panel).table[["value", "low"]].min().min() >= 0:
            # amounts, such as milliseconds, are compared by their ratios
            axes.set_xlim(left=0 if is_bar else -0.01 * axes.get_xlim()[1])
    return figure


def _mark_levels(axes: Axes, panel: Panel, lines: Sequence[tuple[float, str]]) -> None:
    """Mark the zero of differences; of proportions, what guessing reaches in all rows, and the reference values."""
    floors = panel.table["floor"].dropna().unique()
    levels = sorted([*lines, *((floor, _("chance")) for floor in floors if len(floors) == 1)])
    if panel.unit == "points" and panel.table[["value", "low"]].min().min() < 0:
        axes.axvline(0, color=plots.GREY, linewidth=1, zorder=1)
    for index, (value, text) in enumerate(levels if panel.unit == "%" else ()):
        above = 12 if index and value - levels[index - 1][0] < _NEAR else 3
        axes.axvline(value, **_LEVEL)
        axes.annotate(
            text, (value, 1), (0, above), axes.get_xaxis_transform(), "offset points", ha="center", fontsize=8
        )


def _draw_lines(data: ChartData, others: Sequence[Line2D]) -> Figure:
    """Draw lines, from 0, with bands or with bars of few points, and what guessing reaches."""
    x, panels, is_log = data.other, data.list_panels(), bool(data.spec.log)
    numbers = sorted(set(data.table[x]))
    is_few = len(numbers) <= _FEW_POINTS
    look: dict[str, Any] = {"linestyle": "-", "markersize": 4.5}
    look |= {} if is_few or data.hue == "run" else {"marker": ""}
    size = 3.4 if len(panels) > 1 else 5.0, 3.6, 1.4
    figure, grid = _create_grid(data, len(panels), size, others, look, sharey=bool(data.spec.panels))
    for axes, panel in zip(grid, panels, strict=False):
        for index, (colour, part) in enumerate(panel.table.groupby("colour", sort=False)):
            style = data.style_mark(colour) | look
            aside = is_few * (index - (len(data.colours) - 1) / 2)  # so that bars do not hide each other
            across = part[x] * (1 + 0.03 * aside) if is_log else part[x] + 0.01 * aside * np.ptp(numbers)
            axes.plot(across, part["value"], linewidth=1.3, **style)
            if is_few:
                axes.vlines(across, part["low"], part["high"], color=style["color"], linewidth=1.2)
            elif len(data.colours) <= _MOST_BANDS:
                axes.fill_between(across, part["low"], part["high"], color=style["color"], alpha=0.18, linewidth=0)
        for floor in panel.table["floor"].dropna().unique()[:1]:
            axes.axhline(floor, **_LEVEL)
        label, unit = data.label_other()
        label_axis(axes.xaxis, label, unit)
        label_axis(axes.yaxis, fill(panel.label, _LINE), panel.unit)
        axes.set_title(panel.title, fontsize=9)
        if is_log:
            set_log_axis(axes, "x", numbers)
        if is_few and not unit:
            axes.set_xticks(numbers, [f"{number:g}" for number in numbers])
        elif not is_few:
            axes.set_xlim(min(0, numbers[0]), 1.01 * numbers[-1])
        first = panel.table[panel.table["column"] == panel.table["column"].iloc[0]]
        late = first[first[x] >= numbers[0] + 0.25 * np.ptp(numbers)]  # the first have wide intervals
        top = 1.1 * max(first["value"].max(), np.nan_to_num(late["high"].max()), 0.02)
        axes.set_ylim(0, min(1.02, top) if panel.unit == "%" else top)
    return figure


def _draw_crosses(data: ChartData, others: Sequence[Line2D]) -> Figure:
    """Draw points with intervals in both directions, a panel for each x."""
    y, panels, log = data.other, data.list_panels(), data.spec.log
    figure, grid = _create_grid(data, len(panels), (3.1, 3.4, 1.2), others, sharey=True)
    for axes, panel in zip(grid, panels, strict=False):
        for mark in panel.marks:
            style = data.style_mark(**mark)
            axes.vlines(mark["value"], mark.get(f"{y}_low"), mark.get(f"{y}_high"), color=style["color"], linewidth=1.4)
            axes.hlines(mark[y], mark["low"], mark["high"], color=style["color"], linewidth=1.1)
            axes.plot(mark["value"], mark[y], **{"markersize": 7, "linestyle": "", **style})
        label_axis(axes.xaxis, panel.label, panel.unit)
        label, unit = data.label_other()
        label_axis(axes.yaxis, fill(label, _LINE) if axes is grid[0] else "", unit)
        if panel.table["column"].iloc[0] in log:
            set_log_axis(axes, "x", panel.table["value"])
        if y in log:
            set_log_axis(axes, "y", data.table[y])
    return figure


def _draw_histograms(data: ChartData, others: Sequence[Line2D]) -> Figure:
    """Draw the proportion of the rows of each colour by value, with their means as dashed lines."""
    panels = data.list_panels()
    figure, grid = _create_grid(data, len(panels), (3.2, 3.0, 1.2), others, sharex=True, sharey=True)
    edges = np.linspace(data.table["value"].min(), data.table["value"].max(), _BINS + 1)
    for axes, panel in zip(grid, panels, strict=False):
        for colour, rows in panel.table.groupby("colour", sort=False):
            style: dict[str, Any] = {"color": data.style_mark(colour)["color"]}
            draw_histogram(axes, rows["value"], edges, alpha=0.6, edgecolor="white", **style)
            axes.axvline(rows["value"].mean(), linestyle="--", linewidth=1.4, **style)
        label_axis(axes.xaxis, panel.label, panel.unit)
        label_axis(axes.yaxis, _("share within each group (%)") if axes is grid[0] else "")
        axes.set_title(panel.title, fontsize=9)
    return figure


def _draw_cells(data: ChartData, __: Sequence[Line2D]) -> Figure:
    """Draw coloured cells with their values; values of unlike signs have unlike colours."""
    x, panels, names, share = data.other, data.list_panels(), data.name_rows(), data.spec.share
    rows, across, unit = list(names), data.list_values(x), panels[0].unit
    heads = list(data.name_values(x, across, 26).values())
    counts = [_arrange_cells(panel.table, rows, x, across) for panel in panels]
    values = [
        ratio(cells, np.nansum(cells, axis=int(share == "row"), keepdims=True)) if share else cells for cells in counts
    ]
    most = max(0.05, float(np.nanmax(np.abs(values))))
    is_signed = unit == "points" or np.nanmin(values) < 0
    is_index = not unit and most <= 1  # such as a correlation: a scale that follows the data would exaggerate
    most = 1.0 if is_index else most
    low, high = (-most, most) if is_signed else (0 if unit or is_index else np.nanmin(values), most)
    cell = 0.75 if len(across) * len(panels) < 6 else 0.48
    turned: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    longest, is_flat = max(map(len, heads)), max(map(len, heads)) * 0.08 < cell
    width = 1.8 + 0.08 * max(map(len, names.values())) + cell * len(across) * len(panels)
    height = 1.4 + 0.05 * longest * (not is_flat) + (0.36 if share else 0.3) * len(rows)
    figure = plots.create_figure(width, max(2.4, height))
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, panel, cells, raw in zip(grid, panels, values, counts, strict=True):
        pattern = {"%": "%.0f%%", "points": "%+.1f", "": "%.2f"}[unit]
        texts: Any = plots.format_cells(pattern, 100 * cells if unit else cells)
        if unit == "points":
            texts = np.where(np.abs(cells) < 0.0005, "0", texts)
        colours: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": "PuOr_r" if is_signed else "Blues"}
        if data.spec.filled:
            stars = _arrange_cells(panel.table.assign(value=panel.table["is_filled"].astype(float)), rows, x, across)
            texts = np.where(stars == 1, np.char.add(texts, " *"), texts)
            colours["alpha"] = np.where(stars == 1, 1.0, _PALE)
        if share:
            texts = np.where(raw == 0, "", np.char.add(np.char.mod("%.0f\n", raw), texts))
        is_stated = ~np.isnan(_arrange_cells(panel.table.assign(value=1.0), rows, x, across))
        image = plots.draw_cells(axes, cells, np.where(is_stated, texts, ""), 7, **colours)
        axes.set_xticks(range(len(across)), heads, **{} if is_flat else turned)
        axes.set_xlabel(data.label_other()[0])
        axes.set_title("\n".join(fill(line, 18) for line in panel.title.split("\n")), fontsize=8.5)
    grid[0].set_yticks(range(len(rows)), names.values(), fontsize=8)
    grid[0].set_ylabel(" · ".join(_(label) for label in data.spec.y.values() if label))
    targets = data.table.drop_duplicates("row").get("target")
    if targets is not None and set(across) == set(data.result.classes):
        plots.frame_true_classes(grid[0], [across.index(target) for target in targets])
    bar = figure.colorbar(image, ax=list(grid), shrink=0.9)
    label_axis(bar.ax.yaxis, fill(panels[0].label, 22), unit)
    return figure


def _arrange_cells(table: pd.DataFrame, rows: Sequence[Any], x: str, across: Sequence[Any]) -> NDArray[np.float64]:
    """Return the mean value of each cell, (R, C), NaN for none."""
    places = table.assign(row=table["row"].map(rows.index), across=table[x].map(across.index))
    cells = places.pivot_table("value", "row", "across", aggfunc="mean")
    return cells.reindex(index=range(len(rows)), columns=range(len(across))).to_numpy(dtype=float)


def _draw_images(data: ChartData, __: Sequence[Line2D]) -> Figure:
    images = plots.list_thumbnails(data.result.arrays[data.spec.images])
    titles = []
    for row in data.table.astype(object).fillna("").to_dict("records"):
        texts = {
            str(column): value if isinstance(value, float) else data.translate(str(column), value) or _("not known")
            for column, value in row.items()
        }
        titles.append("\n".join(_(line, **texts) for line in data.spec.text))
    return plots.draw_gallery([images[index] for index in data.table.index], titles)


def _create_grid(
    data: ChartData, n: int, size: tuple[float, ...], handles: Sequence[Line2D], look: Any = None, **shared: Any
) -> tuple[Figure, Any]:
    """Create n panels, their width, height and left margin in inches, above the legend of the colours and handles."""
    across = 2 if n == _MOST_ACROSS else min(n, _MOST_ACROSS)
    down, width = math.ceil(n / across), size[2] + size[0] * across
    plain: dict[str, Any] = {"linestyle": "", "markersize": 5.5}
    styles = {name: plain | style | (look or {}) for name, style in data.name_colours().items()}
    handles = [*(Line2D([], [], label=name, **style) for name, style in styles.items()), *handles]
    columns = plots.fit_legend(width, [str(handle.get_label()) for handle in handles])
    figure = plots.create_figure(width, 0.4 + size[1] * down + 0.2 * math.ceil(len(handles) / columns))
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    grid = figure.subplots(down, across, squeeze=False, **shared).ravel()
    for axes in grid[n:]:
        axes.set_axis_off()
    return figure, grid


def draw_dots(axes: Axes, rows: ArrayLike, numbers: Iterable[Any], **style: Any) -> None:
    """Draw dots in rows with their intervals; `numbers` are the values and both ends, `style` is that of the dots."""
    values, lows, highs = numbers
    style = {"marker": "o", "markersize": 5, "linestyle": "", **style}
    axes.hlines(rows, lows, highs, color=style["color"], linewidth=1.3)
    axes.plot(np.atleast_1d(values), np.atleast_1d(rows), **style)


def name_rows(axes: Axes, names: Sequence[str], label: str = "", unit: Unit = "%", **style: Any) -> None:
    """Name the rows of a chart, the first at the top, and label the values below it; `style` is that of the names."""
    axes.set_yticks(range(len(names)), names, **style)
    axes.set_ylim(len(names) - 0.5, -0.5)
    label_axis(axes.xaxis, label, unit)


def label_axis(axis: Axis, label: str = "", unit: Unit = "%") -> None:
    """Label an axis, with grid lines; values with a unit are proportions or their differences."""
    axis.set_label_text(label)
    if unit:
        plots.format_percent_axis(axis)
    if unit == "points":
        axis.set_major_formatter(lambda share, __: f"{round(100 * share, 6) + 0.0:g}")
    axis.grid(True)


def set_log_axis(axes: Axes, which: Literal["x", "y"], values: Iterable[float]) -> None:
    """Make an axis logarithmic, with ticks at 1, 2 and 5 and room for several of them."""
    known = list(values)
    low, high = min(known), max(known)
    spread = max(1.25, (_MIN_RATIO * low / high) ** 0.5)
    axis = axes.xaxis if which == "x" else axes.yaxis
    axes.set(**{f"{which}scale": "log", f"{which}lim": (low / spread, high * spread)})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_locator(NullLocator())


def draw_band(axes: Axes, table: pd.DataFrame, x: str, y: str, *, color: str, alpha: float = 0.18, **line: Any) -> None:
    """Draw a curve with the band of its intervals; `line` has options of `Axes.plot`."""
    axes.plot(table[x], table[y], color=color, **line)
    axes.fill_between(table[x], table["low"], table["high"], color=color, alpha=alpha, linewidth=0)


def draw_histogram(axes: Axes, values: ArrayLike, edges: NDArray[np.float64], **style: Any) -> None:
    """Draw the proportion of the values in each bin; those beyond the outer edges count in the outer bins."""
    inside = np.clip(values, edges[0], edges[-1])
    axes.hist(inside, edges.tolist(), weights=np.full(len(inside), 1 / max(1, len(inside))), **style)
