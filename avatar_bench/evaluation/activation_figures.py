"""Class activation maps over images, and walls of runs by images."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.metrics.faithfulness import upsample

EVIDENCE_COLORMAP = "inferno"
_MAP_OPACITY = 0.55  # of a map over its image
_DPI = 140  # a cell has 130 pixels; at the usual 300 dpi a wall of nine runs would take 10 MB
_CELL, _COLUMN, _ROW = 0.86, 0.93, 1.22  # inches: size of an image, horizontal and vertical distance between images
_CORRECT_COLOUR, _INCORRECT_COLOUR = "#404040", "#D55E00"

DrawMap = Callable[[Axes, NDArray[np.uint8], NDArray[np.float32]], None]
Arrays = Mapping[str, NDArray[Any]]


def draw_overlay(
    axes: Axes, image: NDArray[np.uint8], shown: NDArray[np.float32], colours: str, signed: bool = False
) -> None:
    """Draw a map (h, w), scaled to its largest value, over a grey image (S, S, 3)."""
    side = image.shape[0]
    axes.imshow(image.mean(axis=2), cmap="gray", vmin=0, vmax=255)
    largest = float(np.abs(shown).max()) or 1.0
    share = upsample(shown[None] / largest, side)[0]
    axes.imshow(share, cmap=colours, vmin=-1 if signed else 0, vmax=1, alpha=_MAP_OPACITY)
    if not shown.any():
        axes.text(0.5, 0.04, _("no evidence"), transform=axes.transAxes, ha="center", color="white", fontsize=7)


def draw_map_over_image(axes: Axes, image: NDArray[np.uint8], shown: NDArray[np.float32]) -> None:
    """Draw a map over its image."""
    draw_overlay(axes, image, shown, EVIDENCE_COLORMAP)


def draw_map_cells(axes: Axes, image: NDArray[np.uint8], shown: NDArray[np.float32]) -> None:
    """Draw a raw map cell by cell."""
    axes.imshow(shown / (float(shown.max()) or 1.0), cmap=EVIDENCE_COLORMAP, vmin=0, vmax=1)


def render_overlay(image: NDArray[np.uint8], shown: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a map (h, w), scaled to its largest value, over a grey image (S, S, 3), at most 360 pixels a side."""
    share = upsample(shown[None] / (float(shown.max()) or 1.0), image.shape[0])[0]
    colours = 255 * colormaps[EVIDENCE_COLORMAP](share)[..., :3]
    grey = image.mean(axis=2, keepdims=True)
    return plots.make_thumbnail((_MAP_OPACITY * colours + (1 - _MAP_OPACITY) * grey).round().astype(np.uint8))


@plots.use_style()
def draw_wall(
    maps: Arrays, thumbnails: Arrays, columns: Sequence[int], titles: Sequence[str], draw: DrawMap, about: str
) -> Figure:
    """Draw runs by images: the titled images at the top, then one row of maps per run, each with its prediction.

    `maps` and `thumbnails` are the arrays that `class_activation` collects, `columns` the positions of the images in
    `thumbnails`; `about` describes the titles.
    """
    inputs = [thumbnails[f"images_{number}"] for number in thumbnails["input"]]
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
        own = {"color": plots.get_colour(maps["places"][run]), "marker": plots.get_marker(maps["places"][run])}
        line[0].plot(-0.13, 0.5, transform=line[0].transAxes, markersize=6, clip_on=False, **own)
        for axes, column in zip(line, columns, strict=True):
            row = thumbnails["rows"][column]
            draw(axes, inputs[run][column], maps[f"maps_{run}"][row])
            _draw_prediction(axes, maps, run, row)
    _draw_colour_bar(figure, str(thumbnails["of"]))
    return figure


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


def _draw_prediction(axes: Axes, maps: Arrays, run: int, row: int) -> None:
    predicted, share = maps["predictions"][run, row], maps["confidence"][run, row]
    correct = bool(predicted == maps["targets"][row])
    sign, ink = ("✓", _CORRECT_COLOUR) if correct else ("✗", _INCORRECT_COLOUR)
    name = plots.shorten_name(str(maps["classes"][predicted]), 12)
    axes.set_xlabel(f"{sign} {name}\n{share:.0%}", fontsize=7, color=ink, labelpad=2)
    axes.spines[:].set(visible=True, color=ink, linewidth=0.8 if correct else 2.2, linestyle="-" if correct else "--")
