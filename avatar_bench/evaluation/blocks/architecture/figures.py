"""Figures of architecture: stages of a network from the image to the classes, first filters and feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy.typing import NDArray

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.models.inspection import HEAD, STEM, FeatureMaps
from avatar_bench.results.result import Result

_BOX_HEIGHT = 0.68  # height of a stage's box; a row has height 1
_MAX_FILTERS, _FILTERS_PER_ROW = 64, 16  # filters in the figure
_STAGE_COLOURS = {STEM: plots.get_colour(5), HEAD: plots.get_colour(1)}


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw the diagram, and the filters and feature maps where there are some."""
    size, depth = (int(result.metrics[name].value or 0) for name in ("input_size", "depth"))
    stages, backbone = result.tables["stages"], result.provenance["backbone"]
    drawn = {"diagram": draw_diagram(stages, backbone, depth, size, len(result.classes))}
    if filters := result.arrays.get("filters"):
        drawn["filters"] = draw_filters(filters["weights"], str(filters["layer"]))
    if saved := result.arrays.get("feature_maps"):
        layers = enumerate(saved["layers"].tolist())
        maps = [FeatureMaps(layer, saved[f"channels_{index}"], saved[f"maps_{index}"]) for index, layer in layers]
        drawn["feature_maps"] = draw_feature_maps(saved["images"], saved["labels"].tolist(), maps)
    return drawn


def draw_diagram(stages: pd.DataFrame, name: str, depth: int, size: int, classes: int) -> Figure:
    """Draw a box per stage, from the image of `size` pixels down to the classes, with its proportion of the cost."""
    count = len(stages)
    figure = plots.create_figure(8.6, 1.2 + 0.56 * (count + 0.8))
    left, middle, right = figure.subplots(1, 3, width_ratios=[3.4, 1, 1], sharey=True)
    left.set(xlim=(0, 1), ylim=(count - 0.5, -1.3))
    left.set_axis_off()
    left.text(0.5, -1, _("image: 3 x {size} x {size}", size=size), ha="center", va="center", fontsize=8.5)
    arrow = {"arrowstyle": "-|>", "color": plots.GREY, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    for row, (__, stage) in enumerate(stages.iterrows()):
        _draw_box(left, row, stage.fillna(""))
        left.annotate("", (0.5, row - _BOX_HEIGHT / 2), (0.5, row - 1 + _BOX_HEIGHT / 2), arrowprops=arrow)
    for axes, column, title in ((middle, "params", _("parameters")), (right, "macs", _("multiply-adds"))):
        _draw_proportions(axes, stages, column, title)
    sizes = {unit: f"{stages[unit].sum() / scale:.2f}" for unit, scale in (("params", 1e6), ("macs", 1e9))}
    about = _("{name}: {depth} layers deep, {params} M parameters, {macs} G multiply-adds, {classes} classes")
    name = plots.shorten_name(name, 30)
    figure.suptitle(about.format(name=name, depth=depth, classes=classes, **sizes), fontsize=9)
    return figure


def draw_filters(weights: NDArray[np.float32], layer: str) -> Figure:
    """Draw filters (K, 3, h, w) in colour, those of the largest norm first, each scaled to its largest weight."""
    norms = np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
    order = np.argsort(-norms, kind="stable")[:_MAX_FILTERS]
    rows = math.ceil(len(order) / _FILTERS_PER_ROW)
    figure, grid = _create_tiles([1.0] * _FILTERS_PER_ROW, rows, side=0.46, left=0.1, top=0.32)
    for axes, number in zip(grid.ravel(), order, strict=False):
        scaled = weights[number] / max(float(np.abs(weights[number]).max()), np.finfo(np.float32).tiny)
        axes.imshow((0.5 + scaled.transpose(1, 2, 0) / 2).clip(0, 1), interpolation="nearest")
    height, width = weights.shape[2:]
    counted = _("{n} of {all} filters", n=len(order), all=len(weights))
    about = _("{height} × {width} pixels; grey is 0, colours show what a filter responds to")
    about = about.format(height=height, width=width)
    figure.suptitle(f"{plots.shorten_name(layer, 40)}, {counted}, {about}", fontsize=8.5)
    return figure


def draw_feature_maps(images: NDArray[np.uint8], labels: Sequence[str], maps: Sequence[FeatureMaps]) -> Figure:
    """Draw one row per image (N, S, S, 3): the image, then the feature maps of each layer, one column per channel."""
    widths = [1.0]
    for layer in maps:
        widths += [0.15, *[1.0] * len(layer.channels)]  # a gap before each layer
    figure, grid = _create_tiles(widths, len(images), side=0.78, left=0.3, top=0.45)
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        grid[row, 0].imshow(image)
        name, style = plots.shorten_name(label, 13), {"rotation": 90, "va": "center", "ha": "right", "fontsize": 7.5}
        grid[row, 0].annotate(name, (0, 0.5), (-5, 0), "axes fraction", "offset points", **style)
    column = 2
    for layer in maps:
        for channel, number in enumerate(layer.channels):
            low, high = layer.maps[:, channel].min(), layer.maps[:, channel].max()
            for row, pixels in enumerate(layer.maps[:, channel]):
                grid[row, column + channel].imshow(pixels, cmap="viridis", vmin=low, vmax=high, interpolation="nearest")
            grid[0, column + channel].set_title(f"{number}", fontsize=7, pad=2)
        height, width = layer.maps.shape[2:]
        words = f"{plots.shorten_name(layer.layer, 22)}, {height} × {width}"
        grid[0, column].annotate(words, (0, 1), (0, 14), "axes fraction", "offset points", fontsize=8)
        column += len(layer.channels) + 1
    return figure


def _create_tiles(widths: Sequence[float], rows: int, *, side: float, left: float, top: float) -> tuple[Figure, Any]:
    """Create a figure with a tight grid of bare axes `side` inches high, and margins in inches."""
    gap, margin = 0.05, 0.1
    width = left + margin + side * sum(widths) + gap * (len(widths) - 1)
    height = top + margin + (side + gap) * rows - gap
    figure = plots.create_figure(width, height)
    figure.set_layout_engine("none")
    margins = {"left": left / width, "right": 1 - margin / width, "top": 1 - top / height, "bottom": margin / height}
    space = {"wspace": gap * len(widths) / (side * sum(widths)), "hspace": gap / side}
    grid = figure.subplots(rows, len(widths), width_ratios=widths, squeeze=False, gridspec_kw={**margins, **space})
    for axes in grid.ravel():
        axes.set_axis_off()
    return figure, grid


def _draw_box(axes: Axes, row: int, stage: pd.Series) -> None:
    ink = _STAGE_COLOURS.get(stage["stage"], plots.get_colour(0))
    style = "round,pad=0,rounding_size=0.02"
    fill: dict[str, Any] = {"facecolor": ink, "alpha": 0.18, "edgecolor": "none", "clip_on": False}
    axes.add_patch(FancyBboxPatch((0, row - _BOX_HEIGHT / 2), 1, _BOX_HEIGHT, style, **fill))
    kind = stage["block_type"]
    times = f"{stage['blocks']} × {kind}" if stage["blocks"] else kind
    extras = ", ".join(text for text in (stage["normalisation"], stage["activation"]) if text)
    ends = {STEM: _("stem"), HEAD: _("head")}
    title = ends.get(stage["stage"]) or _("stage {number}", number=stage["stage"])
    small = {"fontsize": 7, "color": "#404040"}
    words: list[tuple[float, float, str, dict[str, Any]]] = [
        (0.02, -0.16, title, {"fontweight": "bold"}),
        (0.17, -0.16, plots.shorten_name(times, 46), {}),
        (0.98, -0.16, stage["output"], {"ha": "right"}),
        (0.17, 0.17, plots.shorten_name(extras, 56), small),
        (0.98, 0.17, plots.shorten_name(stage["module"].replace(" to ", " … "), 30), {"ha": "right", **small}),
    ]
    for x, y, text, options in words:
        axes.text(x, row + y, text, va="center", **{"fontsize": 8.5, **options})


def _draw_proportions(axes: Axes, stages: pd.DataFrame, column: str, title: str) -> None:
    share = stages[column] / max(1, stages[column].sum())
    inks = [_STAGE_COLOURS.get(stage, plots.get_colour(0)) for stage in stages["stage"]]
    axes.barh(range(len(stages)), share, color=inks, alpha=0.75, height=0.5)
    for row, (value, part) in enumerate(zip(stages[column], share, strict=True)):
        axes.annotate(_format_number(value), (part, row), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set(xlim=(0, 1.3 * share.max()), title=title, xlabel=_("proportion (%)"))
    plots.format_percent_axis(axes.xaxis)
    axes.tick_params(left=False, labelleft=False)
    axes.grid(axis="x")


def _format_number(value: float) -> str:
    for unit, text in ((1e9, _("{number} G")), (1e6, _("{number} M")), (1e3, _("{number} k"))):
        if value >= unit:
            return text.format(number=f"{value / unit:.3g}")
    return f"{value:.0f}"
