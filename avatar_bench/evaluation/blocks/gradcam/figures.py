"""Figures of gradcam: maps over images, curves, maps of random weights, and walls of the maps of several runs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.gradcam import SANITY_METRIC
from avatar_bench.evaluation.blocks.gradcam.map_overlays import EVIDENCE_COLORMAP, Arrays, draw_overlay
from avatar_bench.evaluation.chart_data import Chart, ChartData
from avatar_bench.evaluation.charts import draw_chart
from avatar_bench.files.paths import make_folder_name
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

Images = Mapping[int, NDArray[np.uint8]]  # (S, S, 3), by row of the maps
_SIGNED_COLORMAP = "coolwarm"
_DPI = 140  # a cell has 130 pixels; at the usual 300 dpi a wall of nine runs would take 10 MB
_CELL, _COLUMN, _ROW = 0.86, 0.93, 1.22  # inches: size of an image, horizontal and vertical distance between images
_CORRECT_COLOUR, _INCORRECT_COLOUR = "#404040", "#D55E00"

DrawMap = Callable[[Axes, NDArray[np.uint8], NDArray[np.float32]], None]


def draw(result: Result) -> dict[str, Figure]:
    """Draw the figures of a comparison of runs; or, of one run, its curves, sanity check and images with their maps."""
    if "curves" not in result.arrays:
        return draw_comparison(result)
    maps, shown, floor = result.arrays["maps"], result.arrays["shown"], result.metrics[SANITY_METRIC].floor
    images = dict(zip(shown["rows"].tolist(), shown["images"], strict=True))
    drawn = {
        "curves": draw_curves(result),
        "sanity": draw_sanity(images, result.arrays["sanity"], shown["sanity"], result.tables["sanity"], floor),
    }
    if len(shown["panels"]):
        confidence = result.tables["images"]["confidence"].to_numpy()
        drawn["panels"] = draw_panels(images, confidence, maps, shown["panels"])
    return drawn


@plots.use_style()
def draw_panels(images: Images, confidence: NDArray[np.float64], maps: Arrays, pairs: NDArray[np.intp]) -> Figure:
    """Draw a correct and an incorrect image (S, S, 3) in each line, each followed by its maps (h, w) over it.

    `images` are given by row of `maps`; `pairs` (L, 2) are rows, -1 for none. A correct image has one map, that of its
    class; an incorrect one has those of the predicted and of the true class. The attention rollout comes last if there
    is one.
    """
    more = int("rollout" in maps)
    figure = plots.create_figure(1.52 * (5 + 2 * more), 0.55 + 1.72 * len(pairs))
    grid = figure.subplots(len(pairs), 5 + 2 * more, squeeze=False)
    for axes in grid.ravel():
        axes.set_axis_off()
    names = plots.shorten_names(maps["classes"].tolist(), 20)
    for line, (correct, incorrect) in zip(grid, pairs.tolist(), strict=True):
        for row, cells in ((correct, line[: 2 + more]), (incorrect, line[2 + more :])):
            if row >= 0:
                _draw_explanation(cells, images[row], row, confidence[row], maps, names)
    scale = ScalarMappable(Normalize(0, 1), EVIDENCE_COLORMAP)
    label = _("evidence for the class (% of the map's maximum)")
    figure.colorbar(scale, ax=grid, location="bottom", aspect=50, shrink=0.6, label=label, format=PercentFormatter(1.0))
    return figure


def draw_curves(result: Result) -> Figure:
    """Draw the mean probability of the predicted class by proportion of pixels, by map, for deletion and insertion."""
    named = result.tables["curves"]["curve"].str.partition("_")
    maps = {"": "Grad-CAM", "rollout": _("attention rollout"), "random": _("random maps")}
    table = result.tables["curves"].assign(kind=named[0], map=named[2].map(maps))
    spec = Chart(
        *("lines", "curves", {"share": _("pixels replaced, most important first (%)")}),
        {"probability": _("mean probability of the predicted class (%)")},
        hue="map",
        panels="kind",
    )
    return draw_chart(ChartData("curves", spec, replace(result, tables={"curves": table})))


@plots.use_style()
def draw_sanity(
    images: Images, maps: Arrays, rows: Sequence[int] | NDArray[np.intp], table: pd.DataFrame, floor: float | None
) -> Figure:
    """Draw the similarity of the run's maps to those of random weights: mean correlation, and maps of some images."""
    steps = len(table)
    figure = plots.create_figure(1.5 + 1.35 * (steps + 2), 2.7 + 1.3 * len(rows))
    grid = figure.add_gridspec(1 + len(rows), steps + 2, height_ratios=[1.5, *[1] * len(rows)])
    _draw_correlations(figure.add_subplot(grid[0, 2:]), table, floor)
    for line, row in enumerate(rows, start=1):
        cells = [figure.add_subplot(grid[line, column]) for column in range(steps + 2)]
        cells[0].imshow(images[row])
        for axes, shown in zip(cells[1:], [maps["trained"][row], *maps["randomised"][:, row]], strict=True):
            draw_overlay(axes, images[row], shown, _SIGNED_COLORMAP, signed=True)
        for axes in cells:
            axes.set_axis_off()
        if line == 1:
            for axes, title in zip(cells, [_("image"), _("trained")], strict=False):
                axes.set_title(title, fontsize=8)
    scale = ScalarMappable(Normalize(-1, 1), _SIGNED_COLORMAP)
    label = _("evidence against and for the class (% of the map's maximum)")
    label = textwrap.fill(label, round(12 * figure.get_figwidth()))
    bar: dict[str, Any] = {"location": "bottom", "aspect": 50, "shrink": 0.6, "ticks": [-1, -0.5, 0, 0.5, 1]}
    figure.colorbar(scale, ax=figure.axes, label=label, format=PercentFormatter(1.0), **bar)
    return figure


def _draw_explanation(
    cells: Sequence[Axes], image: NDArray[np.uint8], row: int, share: float, maps: Arrays, names: Sequence[str]
) -> None:
    target, guess = names[maps["targets"][row]], names[maps["predictions"][row]]
    text = _("correct, {share:.0%}", share=share) if target == guess else _("incorrect, {share:.0%}", share=share)
    cells[0].imshow(image)
    cells[0].set_title(f"{target}\n{text}", fontsize=7.5)
    if "rollout" in maps:
        *cells, last = cells
        draw_overlay(last, image, maps["rollout"][row])
        last.set_title(_("attention\nrollout"), fontsize=7.5)
    draw_overlay(cells[1], image, maps["predicted"][row])
    cells[1].set_title(_("predicted:\n{name}", name=guess), fontsize=7.5)
    if len(cells) > 2:
        draw_overlay(cells[2], image, maps["true"][row])
        cells[2].set_title(_("true:\n{name}", name=target), fontsize=7.5)


def _draw_correlations(axes: Axes, table: pd.DataFrame, floor: float | None) -> None:
    """Draw the mean correlation of each network, one point above each column of maps."""
    places = np.arange(len(table))
    axes.vlines(places, table["low"], table["high"], color=plots.get_colour(0), linewidth=1.4)
    axes.plot(places, table["correlation"], "o", color=plots.get_colour(0), markersize=4)
    if floor is not None:
        axes.axhline(floor, color="black", linestyle="--", linewidth=1, label=_("random maps"))
        axes.legend(loc="upper right", fontsize=8)
    names = [_("{k} of {n}", k=row.groups_randomised, n=row.groups) for row in table.itertuples()]
    axes.set_xticks(places, names, fontsize=8)
    axes.set(xlim=(-0.5, len(table) - 0.5), ylim=(0, 1.02))
    axes.set_ylabel(textwrap.fill(_("mean |Spearman's ρ|"), 15), fontsize=8)
    label = _("layer groups with random weights, starting from the head")
    axes.set_xlabel(textwrap.fill(label, 8 + 17 * len(table)), fontsize=8)
    axes.grid(axis="y")


def draw_comparison(result: Result) -> dict[str, Figure]:
    """Draw raw maps of images from the least to the most overlap; the first images of all classes; those of each."""
    drawn: dict[str, Figure] = {}
    if "gallery" in result.arrays:
        maps = {**result.arrays["maps"], **result.arrays["gallery"]}
        names = maps["classes"][maps["targets"][maps["rows"]]]
        titles = [f"{name}\n{_('IoU {value:.2f}', value=iou)}" for name, iou in zip(names, maps["iou"], strict=True)]
        about = _("image, its true class, and the IoU of the top 20 %, mean over pairs")
        drawn["maps"] = draw_wall(maps, range(len(titles)), titles, _draw_cells, about)
    if "wall" in result.arrays:  # of an earlier version, its maps are apart
        maps = {**result.arrays.get("maps", {}), **result.arrays["wall"]}
        rows = {"wall": maps["of_all_classes"]}
        for k, name in enumerate(result.classes):
            rows[f"class_{k + 1}_{make_folder_name(name)}"] = np.flatnonzero(maps["targets"] == k)
        names, about = maps["classes"][maps["targets"]], _("image and its true class")
        for figure, shown in rows.items():
            if len(shown):
                drawn[figure] = draw_wall(maps, shown.tolist(), names[shown].tolist(), draw_overlay, about)
    return drawn


@plots.use_style()
def draw_wall(maps: Arrays, columns: Sequence[int], titles: Sequence[str], draw_map: DrawMap, about: str) -> Figure:
    """Draw runs by images: the titled images at the top, then one row of maps per run, each with its prediction."""
    inputs = [maps[f"images_{number}"] for number in maps["input"]]
    names = plots.shorten_names(maps["runs"][: len(inputs)].tolist(), 54)
    figure, grid = _create_wall(len(names) + 1, len(columns))
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
    for axes, column, title in zip(grid[0], columns, titles, strict=True):
        axes.imshow(inputs[0][column])
        axes.spines[:].set_visible(False)
        axes.set_title("\n".join(plots.shorten_name(line, 16) for line in title.split("\n")), fontsize=7.5)
    _label_row(grid[0, 0], about)
    for run, (line, name) in enumerate(zip(grid[1:], names, strict=True)):
        _label_row(line[0], name)
        style = {"color": plots.get_colour(maps["places"][run]), "marker": plots.get_marker(maps["places"][run])}
        line[0].plot(-0.13, 0.5, transform=line[0].transAxes, markersize=6, clip_on=False, **style)
        for axes, column in zip(line, columns, strict=True):
            row = maps["rows"][column]
            draw_map(axes, inputs[run][column], maps[f"maps_{run}"][row])
            predicted, share = maps["predictions"][run, row], maps["confidence"][run, row]
            correct = bool(predicted == maps["targets"][row])
            sign, ink = ("✓", _CORRECT_COLOUR) if correct else ("✗", _INCORRECT_COLOUR)
            predicted_name = plots.shorten_name(str(maps["classes"][predicted]), 12)
            axes.set_xlabel(f"{sign} {predicted_name}\n{share:.0%}", fontsize=7, color=ink, labelpad=2)
            frame = {"linewidth": 0.8, "linestyle": "-"} if correct else {"linewidth": 2.2, "linestyle": "--"}
            axes.spines[:].set(visible=True, color=ink, **frame)
    _draw_colour_bar(figure, str(maps["of"]))
    return figure


def _draw_cells(axes: Axes, __: NDArray[np.uint8], shown: NDArray[np.float32]) -> None:
    axes.imshow(shown / (float(shown.max()) or 1.0), cmap=EVIDENCE_COLORMAP, vmin=0, vmax=1)


def _create_wall(rows: int, columns: int) -> tuple[Figure, NDArray[np.object_]]:
    """Create a figure of square cells laid out in inches; a layout engine takes half a minute for hundreds of axes."""
    left, right, top, bottom = 1.65, 0.1, 0.45, 0.8
    width, height = left + _COLUMN * columns + right, top + _ROW * rows + bottom
    with mpl.rc_context({"figure.dpi": _DPI}):
        figure = plots.create_figure(width, height)
    figure.set_layout_engine(None)
    grid = figure.subplots(rows, columns, squeeze=False)
    # the last row needs room for its labels below; the other rows have it between them
    edges = {"left": left / width, "right": 1 - right / width, "top": 1 - top / height}
    bottom += _ROW - _CELL
    figure.subplots_adjust(**edges, bottom=bottom / height, wspace=_COLUMN / _CELL - 1, hspace=_ROW / _CELL - 1)
    return figure, grid


def _draw_colour_bar(figure: Figure, of: str) -> None:
    width, height = figure.get_size_inches()
    long = min(4.5, 0.8 * width)
    axes = figure.add_axes(((width - long) / 2 / width, 0.62 / height, long / width, 0.09 / height))
    label = {
        "target": _("evidence for the true class (% of the map's maximum)"),
        "prediction": _("evidence for the predicted class (% of the map's maximum)"),
    }[of]
    scale = ScalarMappable(Normalize(0, 1), EVIDENCE_COLORMAP)
    figure.colorbar(scale, cax=axes, orientation="horizontal", format=PercentFormatter(1.0))
    axes.tick_params(labelsize=8)
    axes.set_xlabel(textwrap.fill(label, round(14 * width)), fontsize=8)


def _label_row(axes: Axes, text: str) -> None:
    words = text.replace("_", "_ ")  # recipe names have few other places to break
    label = "\n".join(line.replace("_ ", "_") for line in textwrap.wrap(words, 19))
    axes.set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8, labelpad=16)
