"""Figures of clusters: silhouettes by class, and heatmaps of mean distances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw the silhouettes, and the distances between classes and, if several are known, between sources."""
    distances = {name: table for name, table in result.tables.items() if name.endswith("distances")}
    silhouettes = {"silhouettes": _draw_silhouettes(result.tables["images"], result.classes)}
    return silhouettes | {name: _draw_distances(table) for name, table in distances.items()}


@plots.use_style()
def _draw_silhouettes(images: pd.DataFrame, classes: Sequence[str]) -> Figure:
    """Draw the silhouette of each image, sorted within its class, with the mean of each class and of all."""
    value, targets = images["silhouette"].to_numpy(), images["target"].to_numpy()
    present = [index for index, name in enumerate(classes) if (targets == name).any()]
    figure, axes = plots.create_axes(5.6, 1.4 + 0.9 * len(present))
    gap, start = 0.03 * len(value), 0.0
    middles = []
    for index in present:
        own = np.sort(value[targets == classes[index]])[::-1]
        rows = start + np.arange(len(own))
        axes.fill_betweenx(rows, 0, own, color=plots.get_colour(index), alpha=0.75, linewidth=0, step="mid")
        axes.plot([own.mean()] * 2, [rows[0], rows[-1]], color="black", linewidth=1)
        middles.append(rows.mean())
        start = rows[-1] + 1 + gap
    axes.axvline(value.mean(), color="black", linestyle="--", linewidth=1)
    axes.axvline(0, color=plots.GREY, linewidth=0.8)
    shown = plots.shorten_names(classes, 18)
    names = [f"{shown[index]}\nn = {(targets == classes[index]).sum()}" for index in present]
    axes.set_yticks(middles, names)
    axes.set(ylim=(start, -gap), xlabel=_("silhouette (line: mean of the class, dashed: of all)"))
    axes.grid(axis="x")
    return figure


@plots.use_style()
def _draw_distances(table: pd.DataFrame) -> Figure:
    """Draw the mean distance of each two classes or sources, `of` and one column each; a dash marks a missing value."""
    names = plots.shorten_names(table["of"].astype(str), 30)
    value = table[table.columns[1:]].to_numpy(dtype=np.float64)
    few = len(names) < 6
    side = 1.8 + (0.75 if few else 0.36) * len(names)
    decimals = max(0, 2 - int(np.floor(np.log10(np.nanmax(value)))))
    figure, axes = plots.create_axes(side + 1.6, side)
    texts = plots.format_cells(f"%.{decimals}f", value)
    image = plots.draw_cells(axes, value, texts, 8 if few else 6, cmap="Blues_r", aspect="equal")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=axes, shrink=0.8, label=_("mean distance of two embeddings"))
    return figure
