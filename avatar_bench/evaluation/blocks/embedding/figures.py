"""Figures of embedding: one map twice, coloured by class and by source."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from avatar_bench.i18n import _
from avatar_bench.metrics import plots

if TYPE_CHECKING:
    from avatar_bench.results.predictions import Predictions

_METHOD_NAMES = {"tsne": "t-SNE", "pca": "PCA", "umap": "UMAP"}
_MARKERS = "s^Dv<>PX"  # without the circle, which marks classes


@plots.use_style()
def draw_maps(points: ArrayLike, drawn: Predictions, method: str, named: int) -> Figure:
    """Draw the positions (N, 2) of images by true class, left, and by source, right, where the largest are named."""
    place = np.asarray(points)
    rows = -(-max(len(drawn.classes), min(named, len(set(drawn.sources.tolist()))) + 1) // 2)
    figure = plots.create_figure(8.6, 4.7 + 0.15 * rows)
    by_class, by_source = figure.subplots(1, 2, sharex=True, sharey=True)
    _draw_classes(by_class, place, drawn)
    _draw_sources(by_source, place, drawn, named)
    by_class.set_title(_("by class"))
    by_source.set_title(_("by source"))
    for axes in (by_class, by_source):
        axes.set(xticks=[], yticks=[], xlabel=_("{method}, first axis", method=_METHOD_NAMES[method]))
        axes.set_box_aspect(1)
        axes.set_anchor("N")  # leaves the room below the square for the legend
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=2, fontsize=7, handletextpad=0.2)
    by_class.set_ylabel(_("{method}, second axis", method=_METHOD_NAMES[method]))
    return figure


def _draw_classes(axes: Axes, place: NDArray[np.floating], drawn: Predictions) -> None:
    _draw_points(axes, place[drawn.targets < 0], plots.GREY, "o", _("not known"))
    for index, name in enumerate(plots.shorten_names(drawn.classes)):
        _draw_points(axes, place[drawn.targets == index], plots.get_colour(index), "o", name)


def _draw_sources(axes: Axes, place: NDArray[np.floating], drawn: Predictions, named: int) -> None:
    names, counts = np.unique(drawn.sources[drawn.sources != ""], return_counts=True)
    largest = names[np.argsort(-counts, kind="stable")][:named]
    rest = ~np.isin(drawn.sources, largest)
    shown = plots.shorten_names(largest.tolist())
    for index, name in enumerate(largest):
        marker = _MARKERS[(index + index // len(plots.PALETTE)) % len(_MARKERS)]
        _draw_points(axes, place[drawn.sources == name], plots.get_colour(index), marker, shown[index])
    others = int(len(names) - len(largest))
    _draw_points(axes, place[rest], "#BBBBBB", ".", _("{n} others", n=others) if others else _("not known"))


def _draw_points(axes: Axes, place: NDArray[np.floating], colour: str, marker: str, name: str) -> None:
    if len(place):
        label = f"{name} ({len(place)})"
        axes.scatter(place[:, 0], place[:, 1], s=11, c=colour, marker=marker, alpha=0.75, linewidths=0, label=label)
