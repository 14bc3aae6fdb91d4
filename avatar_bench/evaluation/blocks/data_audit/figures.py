"""Figures of data_audit: distribution of properties and sources over the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.headings import find_heading
from avatar_bench.results.result import Metric, Result

_NUMBERS = (
    *("width", "height", "aspect", "jpeg_quality", "bytes_per_pixel"),
    *("grey", "brightness", "contrast", "saturation", "sharpness"),
)
_CATEGORIES = ("format", "mode", "subsampling")
_FLAGS = ("progressive", "exif", "icc")
_COLUMNS, _BINS, _MAX_CATEGORIES = 4, 24, 6


def draw(result: Result) -> dict[str, Figure]:
    """Draw the properties and sources of the classes, and the AUROCs of the probes where there are any."""
    drawn = {
        "properties": draw_properties(result.tables["properties"].astype({"label": str}), result.classes),
        "confounding": draw_sources(result.tables["confounding"], result.classes),
    }
    if result.metrics["metadata_auroc"].value is not None:
        groups = result.metrics["metadata_auroc"].n
        drawn["aurocs"] = draw_aurocs(result.metrics)
        drawn["single_properties"] = draw_property_aurocs(result.tables["single_properties"], groups)
    return drawn


@plots.use_style()
def draw_properties(frame: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw a panel per property: the proportion of each class's images by value; numbers are clipped at 1 and 99 %."""
    names = [*_CATEGORIES, "flags", *_NUMBERS]
    rows = -(-len(names) // _COLUMNS)
    figure = plots.create_figure(2.45 * _COLUMNS, 1.85 * rows + 0.4)
    panels = figure.subplots(rows, _COLUMNS).ravel()
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(panels, names, strict=False):
        axes.set_title(_name_property(name), fontsize=8)
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


def draw_aurocs(found: Mapping[str, Metric]) -> Figure:
    """Draw the AUROC of each probe, as stored and after equalising, with intervals and the chance level."""
    words = {
        "metadata": _("how the file is stored"),
        "appearance": _("overall appearance"),
        "colour": _("colours"),
        "residual": _("noise and frequencies"),
        "source": _("source"),
    }
    states = (("", "", _("as stored")), ("equalised/", _(", equalised"), _("after equalising")))
    rows = [
        {"name": f"{words[name]}{after}", "kind": kind, **vars(found[f"{prefix}{name}_auroc"])}
        for name, (prefix, after, kind) in product(words, states)
        if f"{prefix}{name}_auroc" in found and not (prefix and name == "source")  # which equalising does not change
    ]
    table = pd.DataFrame(rows).dropna(subset="value")
    numbers = (table[column] for column in ("value", "low", "high", "n"))
    label, kinds = _("AUROC of the best separated class (%; n: groups)"), table["kind"].tolist()
    return plots.draw_interval_bars(table["name"].tolist(), *numbers, label=label, kinds=kinds, chance=0.5)


def draw_property_aurocs(table: pd.DataFrame, groups: int) -> Figure:
    """Draw the AUROC of each single property with its interval, the highest at the top."""
    known = table[table["auroc"].notna()].head(plots.MAX_BARS)
    names, ends = [_name_property(name) for name in known["property"]], (known["low"], known["high"])
    label = _("AUROC of the best separated class (%; n: groups)")
    return plots.draw_interval_bars(names, known["auroc"], *ends, [groups] * len(known), label=label, chance=0.5)


@plots.use_style()
def draw_sources(table: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw counts by source (rows, the largest 40) and class as a heatmap of proportions of each class."""
    shown = table.head(plots.MAX_BARS)
    counts = shown[list(classes)].to_numpy(dtype=float)
    shares = counts / np.maximum(table[list(classes)].sum().to_numpy(dtype=float), 1)
    figure, axes = plots.create_axes(3.2 + 0.75 * len(classes), max(2.6, 1.3 + 0.24 * len(shown)))
    texts = np.where(counts == 0, "", np.char.mod("%.0f", counts))
    image = plots.draw_cells(axes, shares, texts, 7, vmin=0, vmax=shares.max())
    axes.set_xticks(range(len(classes)), plots.shorten_names(classes, 18), rotation=30, ha="right")
    sources = (str(name) or _("not known") for name in shown["source"].astype(object).fillna(""))
    axes.set_yticks(range(len(shown)), plots.shorten_names(sources, 30))
    axes.set(xlabel=_("class"), ylabel=_("source"))
    figure.colorbar(image, ax=axes, shrink=0.9, format=PercentFormatter(1.0), label=_("proportion of the class (%)"))
    return figure


def _draw_histograms(axes: Axes, frame: pd.DataFrame, name: str, classes: Sequence[str]) -> None:
    low, high = frame[name].quantile([0.01, 0.99])
    edges = np.linspace(low, high, _BINS + 1) if high > low else np.linspace(low - 0.5, low + 0.5, 4)
    for index, label in enumerate(classes):
        values = np.clip(frame.loc[frame["label"] == label, name], edges[0], edges[-1])
        share = np.histogram(values, edges)[0] / max(len(values), 1)
        axes.stairs(share, edges, color=plots.get_colour(index), fill=True, alpha=0.2)
        axes.stairs(share, edges, color=plots.get_colour(index), linewidth=1.1)
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
        means = frame.groupby("label")[list(_FLAGS)].mean().T.rename(index=_name_property)
    else:
        values, others = frame[name].astype(object).fillna(""), _("others")
        common = values.value_counts().index[:_MAX_CATEGORIES]
        words = values.where(values.isin(common), others)
        means = pd.crosstab(words, frame["label"], normalize="columns")
        means = means.reindex([*common, *([others] if others in means.index else [])])
    return means.reindex(columns=list(classes), fill_value=0.0)


def _name_property(name: str) -> str:
    return find_heading(name, "data_audit")
