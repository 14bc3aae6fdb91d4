"""Figure of shots: accuracy and macro-F1 over the number of images."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation.chart_data import Chart, ChartData
from avatar_bench.evaluation.charts import draw_chart
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw accuracy and macro-F1 over shots, a line per recipe with intervals, and a dot per run."""
    measures = {"accuracy": _("accuracy (%)"), "macro_f1": _("macro-F1 (%)")}
    shots = {"shots": _("images per class (log scale)")}
    data = ChartData("curve", Chart("lines", "curve", shots, measures, hue="recipe", log=("shots",)), result)
    dots: dict[str, Any] = {"linestyle": "", "marker": ".", "markersize": 4}
    chance: dict[str, Any] = {"color": "black", "linestyle": "--", "linewidth": 1}
    labels = (
        Line2D([], [], label=_("single seeds"), color=plots.GREY, **dots),
        Line2D([], [], label=_("chance"), **chance),
    )
    figure = draw_chart(data, *labels)
    floors = {name.partition("/")[0]: metric.floor for name, metric in result.metrics.items()}
    for axes, measure in zip(figure.axes, measures, strict=True):
        axes.axhline(floors[measure] or 0.0, **chance)
        for recipe, runs in result.tables["runs"].groupby("recipe", sort=False):
            axes.plot(runs["shots"], runs[measure], **dots, color=data.style_mark(recipe)["color"], alpha=0.6)
    return {"curve": figure}
