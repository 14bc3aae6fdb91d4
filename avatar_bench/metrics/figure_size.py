"""Fitting of a drawn figure to a size, such as the column of a paper, without overlapping labels."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.text import Text

_FACTORS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)  # of the sizes of text, tried in turn
_GAP = np.array([2.0, 0.0])  # points on both sides of a label: two neighbours are a space apart

Property = tuple[Callable[[Any], object], Any]  # setter and value of a size


def resize_figure(figure: Figure, size: float | tuple[float, float]) -> None:
    """Set the size of a figure in inches: its width and height, or its width alone.

    Text, lines and markers shrink as far as needed for labels not to overlap or leave the figure, at most by as much as
    the figure. If only the width is given, the height shrinks as they do.
    """
    width, height = size if isinstance(size, tuple) else (size, None)
    native = figure.get_size_inches()
    least = min(1.0, width / native[0], 1.0 if height is None else height / native[1])
    before, properties = _count_collisions(figure), list(_list_properties(figure))

    def apply(factor: float) -> float:
        figure.set_size_inches(width, native[1] * factor if height is None else height)
        for change, value in properties:
            change(value * factor)
        return _count_collisions(figure)

    collisions: dict[float, float] = {}
    for factor in [*(factor for factor in _FACTORS if factor > least), least]:
        collisions[factor] = apply(factor)
        if collisions[factor] <= before:
            return
    apply(min(collisions, key=lambda factor: collisions[factor]))


def _list_properties(figure: Figure) -> Iterator[Property]:
    """Yield the sizes of what is drawn; those of tick labels by axis, since layout makes further ticks."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            for label in axis.get_ticklabels()[:1]:
                yield lambda size, axis=axis: axis.set_tick_params(labelsize=size), label.get_fontsize()  # type: ignore[misc]
    for text in figure.findobj(Text):
        yield text.set_fontsize, text.get_fontsize()
    for line in figure.findobj(Line2D):
        yield line.set_linewidth, line.get_linewidth()
        yield line.set_markersize, line.get_markersize()
    if isinstance(engine := figure.get_layout_engine(), ConstrainedLayoutEngine):
        for pad in ("w_pad", "h_pad"):
            yield lambda size, pad=pad: engine.set(**{pad: size}), engine.get()[pad]  # type: ignore[misc]
    for collection in figure.findobj(Collection):
        yield collection.set_linewidth, np.asarray(collection.get_linewidth())


def _count_collisions(figure: Figure) -> float:
    """Count the pairs of labels that overlap, and the labels that leave the figure; infinite without room for axes."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure.draw_without_rendering()
    if any("collapsed" in str(warning.message) for warning in caught):
        return math.inf
    texts = [text for text in _list_texts(figure) if text.get_visible() and text.get_text().strip()]
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # of Agg
    boxes = np.array([text.get_window_extent(renderer).get_points() for text in texts]).reshape(-1, 2, 2)
    boxes = np.unique(boxes[(boxes[:, 1] > boxes[:, 0]).all(axis=1)], axis=0)
    low, high = boxes[:, 0] + 1, boxes[:, 1] - 1  # pixels: edges may touch
    outside = (low < -1) | (high > np.array(figure.bbox.size) + 1)
    low, high = (ends + sign * _GAP * figure.dpi / 72 for ends, sign in ((low, -1), (high, 1)))
    overlapping = ((low[:, None] < high) & (high[:, None] > low)).all(axis=2)
    return float(outside.any(axis=1).sum() + np.triu(overlapping, 1).sum())


def _list_texts(figure: Figure) -> Iterator[Text]:
    """Yield the texts that are drawn: not those of hidden axes, nor of ticks beyond an end of their axis."""
    every_axis = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    undrawn = {text for axis in every_axis for text in axis.findobj(Text)}
    yield from (text for text in figure.findobj(Text) if text not in undrawn)
    for axis in every_axis:
        if axis.axes.axison:
            low, high = sorted(axis.get_view_interval())
            yield axis.label
            yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)
