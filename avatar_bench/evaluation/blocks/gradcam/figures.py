"""Figures of gradcam: maps over images, deletion and insertion curves, and maps of networks with random weights."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from avatar_bench.evaluation.blocks.gradcam import SANITY_METRIC, comparison_figures
from avatar_bench.evaluation.blocks.gradcam.map_overlays import EVIDENCE_COLORMAP, Arrays, draw_overlay
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Metric, Result

Images = Mapping[int, NDArray[np.uint8]]  # (S, S, 3), by row of the maps
_SIGNED_COLORMAP = "coolwarm"


def draw(result: Result) -> dict[str, Figure]:
    """Draw the figures of a comparison of runs; or, of one run, its curves, sanity check and images with their maps."""
    if "curves" not in result.arrays:
        return comparison_figures.draw(result)
    maps, shown, floor = result.arrays["maps"], result.arrays["shown"], result.metrics[SANITY_METRIC].floor
    images = dict(zip(shown["rows"].tolist(), shown["images"], strict=True))
    drawn = {
        "curves": draw_curves(result.tables["curves"], result.metrics, result.provenance["level"]),
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


@plots.use_style()
def draw_curves(table: pd.DataFrame, metrics: Mapping[str, Metric], level: float) -> Figure:
    """Draw the mean probability of the predicted class by proportion of pixels, with its interval and its area."""
    figure = plots.create_figure(8.4, 4.0)
    halves = {
        "deletion": (_("Deletion (band: {level:.0%} interval)"), _("pixels deleted, most important first (%)")),
        "insertion": (_("Insertion (band: {level:.0%} interval)"), _("pixels inserted, most important first (%)")),
    }
    for axes, (kind, (title, label)) in zip(figure.subplots(1, 2, sharey=True), halves.items(), strict=True):
        for name, words, colour, dash in (
            (kind, "Grad-CAM", plots.get_colour(0), "-"),
            (f"{kind}_rollout", _("attention rollout"), plots.get_colour(1), "-"),
            (f"{kind}_random", _("random maps"), plots.GREY, "--"),
        ):
            if name not in metrics:
                continue
            one = table[table["curve"] == name]
            area = _("{name}, area {value:.3f}", name=words, value=metrics[name].value)
            axes.plot(one["share"], one["probability"], dash, color=colour, label=area)
            axes.fill_between(one["share"], one["low"], one["high"], color=colour, alpha=0.2, linewidth=0)
        axes.set(xlabel=label, xlim=(0, 1), ylim=(0, 1.02), title=title.format(level=level))
        plots.format_percent_axis(axes.xaxis, axes.yaxis)
        axes.grid(True)
        axes.legend(loc="best", fontsize=8)
    figure.axes[0].set_ylabel(_("mean probability of the predicted class (%)"))
    return figure


@plots.use_style()
def draw_sanity(
    images: Images, maps: Arrays, rows: Sequence[int] | NDArray[np.intp], table: pd.DataFrame, floor: float | None
) -> Figure:
    """Draw the similarity of the run's maps to those of random weights: the mean correlation, and maps of some images.

    `images` (S, S, 3) are given by row of the maps; `floor` is the correlation with random maps.
    """
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
