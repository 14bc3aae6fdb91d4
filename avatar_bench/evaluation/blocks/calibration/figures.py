"""Figures of the block calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy.special import softmax

from avatar_bench.evaluation.chart_data import Chart, ChartData
from avatar_bench.evaluation.charts import draw_chart
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw reliability and confidence before and after scaling."""
    tables, saved = result.tables, result.arrays["predictions"]
    logits, temperature = saved["logits"].astype(np.float64), result.metrics["temperature"].value or 1.0
    temperatures = [1.0] if temperature == 1 else [1.0, temperature]  # without a fitted one, nothing is compared
    correct = logits.argmax(axis=1) == saved["targets"]
    reliability = [tables["reliability"], tables["reliability_scaled"]][: len(temperatures)]
    titles = (_("before scaling"), _("after scaling")) if temperature != 1 else (_("no temperature is applied"),)
    words = {True: _("correct"), False: _("incorrect")}
    parts = []
    for title, divisor in zip(titles, temperatures, strict=True):
        confidence = softmax(logits / divisor, axis=1).max(axis=1)
        parts.append(pd.DataFrame({"confidence": confidence, "correct": correct, "scaling": title}))
    table = pd.concat(parts, ignore_index=True).sort_values("correct", ascending=False, kind="stable")
    named = replace(result, tables={"images": table.assign(correct=table["correct"].map(words))})
    label = {"confidence": _("confidence (%; dashed: mean)")}
    spec = Chart("histograms", "images", label, hue="correct", panels="scaling")
    return {
        "reliability": draw_reliability(dict(zip(titles, reliability, strict=True)), result),
        "confidence": draw_chart(ChartData("confidence", spec, named)),
    }


def draw_reliability(tables: Mapping[str, pd.DataFrame], result: Result) -> Figure:
    """Draw reliability diagrams by title with intervals and counts, of the raw probabilities, then of the scaled."""
    figure = plots.create_figure(2.4 + 2.6 * len(tables), 5.0)
    grid = figure.subplots(2, len(tables), height_ratios=(3, 1), sharex=True, sharey="row", squeeze=False)
    for (upper, lower), (title, table), prefix in zip(grid.T, tables.items(), ("", "scaled/"), strict=False):
        shown = table[table["count"] > 0]
        width = shown["high"] - shown["low"]
        bars: dict[str, Any] = {"align": "edge", "edgecolor": "white"}
        label = _("accuracy of these predictions")
        upper.bar(shown["low"], shown["accuracy"], width, color=plots.get_colour(5), alpha=0.6, label=label, **bars)
        label = _("the same at their mean confidence, with {level:.0%} interval", level=result.provenance["level"])
        ends = [shown["accuracy"] - shown["accuracy_low"], shown["accuracy_high"] - shown["accuracy"]]
        points: dict[str, Any] = {"color": "black", "markersize": 3, "elinewidth": 1.1, "label": label}
        upper.errorbar(shown["confidence"], shown["accuracy"], np.maximum(0, ends), fmt="o", **points)
        upper.plot([0, 1], [0, 1], "--", color=plots.GREY, linewidth=1, label=_("perfect calibration"))
        error, floor = (result.metrics[prefix + name].value or 0.0 for name in ("ece_15", "ece_floor_p95"))
        text = _("ECE {error}, chance alone up to {floor}", error=f"{error:.1%}", floor=f"{floor:.1%}")
        more = f":\n{_('not distinguishable from calibrated')}" if error <= floor else ""
        upper.set_title(f"{title}\n{text}{more}")
        lower.bar(shown["low"], shown["count"], width, color=plots.GREY, **bars)
        lower.set(xlabel=_("confidence (%)"), xlim=(0, 1))
        lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3))
        for axes in (upper, lower):
            axes.grid(True)
            plots.format_percent_axis(axes.xaxis)
        upper.set_ylim(0, 1.02)
        plots.format_percent_axis(upper.yaxis)
    grid[0, 0].set_ylabel(_("accuracy (%)"))
    grid[1, 0].set_ylabel(_("number of images"))
    plots.draw_legend(figure, len(tables))
    return figure
