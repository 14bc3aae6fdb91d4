"""Figures that compare the maps of runs: walls of the same images."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.gradcam.map_overlays import EVIDENCE_COLORMAP, Arrays, draw_overlay
from avatar_bench.files.paths import make_folder_name
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

_DPI = 140  # a cell has 130 pixels; at the usual 300 dpi a wall of nine runs would take 10 MB
_CELL, _COLUMN, _ROW = 0.86, 0.93, 1.22  # inches: size of an image, horizontal and vertical distance between images
_CORRECT_COLOUR, _INCORRECT_COLOUR = "#404040", "#D55E00"

DrawMap = Callable[[Axes, NDArray[np.uint8], NDArray[np.float32]], None]


def draw(result: Result) -> dict[str, Figure]:
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
    """Draw runs by images: the titled images at the top, then one row of maps per run, each with its prediction.

    `maps` are the arrays that `run_comparison` collects, `columns` the positions of the images in its thumbnails;
    `about` describes the titles.
    """
    inputs = [maps[f"images_{number}"] for number in maps["input"]]
    names = plots.shorten_names(maps["runs"][: len(inputs)].tolist(), 54)
    figure, grid = _create_grid(len(names) + 1, len(columns))
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
            own = plots.shorten_name(str(maps["classes"][predicted]), 12)
            axes.set_xlabel(f"{sign} {own}\n{share:.0%}", fontsize=7, color=ink, labelpad=2)
            frame = {"linewidth": 0.8, "linestyle": "-"} if correct else {"linewidth": 2.2, "linestyle": "--"}
            axes.spines[:].set(visible=True, color=ink, **frame)
    _draw_colour_bar(figure, str(maps["of"]))
    return figure


def _draw_cells(axes: Axes, __: NDArray[np.uint8], shown: NDArray[np.float32]) -> None:
    axes.imshow(shown / (float(shown.max()) or 1.0), cmap=EVIDENCE_COLORMAP, vmin=0, vmax=1)


def _create_grid(rows: int, columns: int) -> tuple[Figure, NDArray[np.object_]]:
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
