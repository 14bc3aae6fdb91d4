"""Figures of blind_test."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw the confusion matrix, the accuracy by source and the most confident errors; nothing without decisions."""
    if "confusion" not in result.tables:
        return {}
    confusion = result.tables["confusion"].iloc[:, 1:].to_numpy()
    drawn = {
        "confusion": plots.draw_confusion_matrix(confusion, result.classes),
        "per_source": _draw_per_source(result.tables["per_source"], len(result.classes)),
    }
    if "gallery" in result.arrays:
        drawn["gallery_of_errors"] = _draw_gallery(result.tables["predictions"], result.arrays["gallery"])
    return drawn


def _draw_per_source(table: pd.DataFrame, classes: int) -> Figure:
    shown = table.nlargest(plots.MAX_BARS, "n").sort_values(["target", "accuracy"])
    return plots.draw_interval_bars(
        [source or _("(not known)") for source in shown["source"].fillna("")],
        shown["accuracy"],
        shown["low"],
        shown["high"],
        shown["n"],
        label=_("accuracy on the source's images (%)"),
        kinds=list(shown["target"]),
        chance=1 / classes,
    )


def _draw_gallery(predictions: pd.DataFrame, gallery: Mapping[str, np.ndarray]) -> Figure:
    titles = []
    for row in predictions.iloc[gallery["rows"]].fillna({"source": ""}).itertuples():
        true, predicted = _("true: {name}", name=row.target), _("predicted: {name}", name=row.prediction)
        titles.append(f"{true}\n{predicted}, {row.confidence:.1%}\n{str(row.source) or _('source not known')}")
    return plots.draw_gallery(plots.list_thumbnails(gallery), titles)
