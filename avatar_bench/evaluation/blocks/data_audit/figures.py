"""Figures of data_audit: distribution of properties over the classes, corners of the images, and visible marks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from avatar_bench.audit.assessment import list_strongest
from avatar_bench.audit.mark_tests import CORNERS
from avatar_bench.evaluation import charts
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.declaration import find_heading
from avatar_bench.results.result import Result

_NUMBERS = (
    *("width", "height", "aspect", "jpeg_quality", "bytes_per_pixel"),
    *("grey", "brightness", "contrast", "saturation", "sharpness"),
)
_CATEGORIES = ("format", "mode", "subsampling")
_FLAGS = ("progressive", "exif", "icc")
_COLUMNS, _BINS, _MAX_CATEGORIES, _MAX_MARKS = 4, 24, 6, 4


def draw(result: Result) -> dict[str, Figure]:
    """Draw the properties and, where they were searched for, the marks."""
    return {"properties": _draw_properties(result)} | ({"marks": _draw_marks(result)} if result.arrays else {})


@plots.use_style()
def _draw_properties(result: Result) -> Figure:
    """Draw a panel per property: the proportion of each class's images by value; numbers are clipped at 1 and 99 %."""
    frame, classes = result.tables["properties"].astype({"label": str}), result.classes
    names = [*_CATEGORIES, "flags", *_NUMBERS]
    rows = -(-len(names) // _COLUMNS)
    figure = plots.create_figure(2.45 * _COLUMNS, 1.85 * rows + 0.4)
    panels = figure.subplots(rows, _COLUMNS).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        axes.set_title(find_heading(name, "data_audit"), fontsize=8)
        axes.tick_params(labelsize=7)
        if name in _NUMBERS:
            _draw_histograms(axes, frame, name, classes)
        else:
            _draw_bars(axes, _compute_proportions(frame, name, classes))
        plots.format_percent_axis(axes.yaxis)
    labels = enumerate(plots.shorten_names(classes))
    handles = [Patch(color=plots.get_colour(index), alpha=0.8, label=name) for index, name in labels]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(6, len(classes)))
    figure.supylabel(_("proportion of the class's images (%)"), fontsize=9)
    return figure


@plots.use_style()
def _draw_marks(result: Result) -> Figure:
    """Draw mean and standard deviation of the corners by class, and the first marks."""
    luma, crops = result.arrays["corners"]["luma"], result.arrays.get("crops", {})
    found = list_strongest(result.tables["marks"]).set_index("mark")
    shown = [name for name in crops if name in found.index][:_MAX_MARKS]
    rows, classes = len(luma) + bool(shown), sorted(set(result.tables["properties"]["label"].astype(str)))
    figure = plots.create_figure(9.8, 1.25 * rows + 0.5 * bool(shown) + 0.3)
    grid = figure.add_gridspec(rows, 2 * len(CORNERS), height_ratios=[1] * len(luma) + [1.5] * bool(shown))
    for row, column in np.ndindex(len(luma), 2 * len(CORNERS)):
        kind, corner = divmod(column, len(CORNERS))
        axes = figure.add_subplot(grid[row, column])
        axes.imshow(luma[row, kind, corner], cmap="gray", vmin=0, vmax=(255, 100)[kind])
        axes.set(xticks=[], yticks=[], ylabel="" if column else plots.shorten_name(classes[row]))
        axes.spines[:].set_visible(False)
        if not row:
            axes.set_title(f"{(_('mean'), _('sd'))[kind]}\n{find_heading(CORNERS[corner], 'data_audit')}", fontsize=7)
    for column, name in enumerate(shown):
        axes, mark = figure.add_subplot(grid[-1, 2 * column : 2 * column + 2]), found.loc[name]
        axes.imshow(crops[name])
        axes.set_axis_off()
        where = find_heading(str(mark["position"]), "data_audit")
        words = _("{n} images, AUROC {value}", n=f"{mark['images']:,}", value=f"{mark['auroc']:.2f}")
        axes.set_title(f"{name}: {plots.shorten_name(str(mark['class']))}, {where}\n{words}", fontsize=7)
    return figure


def _draw_histograms(axes: Axes, frame: pd.DataFrame, name: str, classes: Sequence[str]) -> None:
    low, high = frame[name].quantile([0.01, 0.99])
    edges = np.linspace(low, high, _BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, 4)
    for index, label in enumerate(classes):
        values, ink = frame.loc[frame["label"] == label, name], plots.get_colour(index)
        charts.draw_histogram(axes, values, edges, color=ink, histtype="stepfilled", alpha=0.2)
        charts.draw_histogram(axes, values, edges, color=ink, histtype="step", linewidth=1.1)
    axes.set_ylim(0)


def _draw_bars(axes: Axes, table: pd.DataFrame) -> None:
    """Draw bars side by side: values (rows) by class (columns)."""
    width = 0.8 / max(len(table.columns), 1)
    for index, label in enumerate(table.columns):
        places = np.arange(len(table)) + (index - (len(table.columns) - 1) / 2) * width
        axes.bar(places, table[label], width, color=plots.get_colour(index), alpha=0.8)
    names = plots.shorten_names((str(word) or _("none") for word in table.index), 14)
    axes.set_xticks(range(len(table)), names, rotation=25 if len(names) > 3 else 0)
    axes.set_ylim(0, 1.04)


def _compute_proportions(frame: pd.DataFrame, name: str, classes: Sequence[str]) -> pd.DataFrame:
    if name == "flags":
        means = frame.groupby("label")[list(_FLAGS)].mean().T
        means = means.rename(index=lambda flag: find_heading(flag, "data_audit"))
    else:
        values, others = frame[name].astype(object).fillna(""), _("others")
        common = values.value_counts().index[:_MAX_CATEGORIES]
        words = values.where(values.isin(common), others)
        means = pd.crosstab(words, frame["label"], normalize="columns")
        means = means.reindex([*common, *([others] if others in means.index else [])])
    return means.reindex(columns=list(classes), fill_value=0.0)
