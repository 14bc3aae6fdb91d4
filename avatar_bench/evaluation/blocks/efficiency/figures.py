"""Figure of efficiency: latency and images per second by batch size."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from avatar_bench.evaluation.blocks.efficiency.latency import CPU
from avatar_bench.evaluation.charts import set_log_axis
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw the median latency by batch size with a bar up to its 95th percentile, and throughput with intervals."""
    table, end_to_end = result.tables["latency"], result.tables["end_to_end"]
    figure = plots.create_figure(8.4, 3.9)
    left, right = figure.subplots(1, 2)
    kinds = list(table.groupby(["network", "runtime", "threads"], sort=False))
    for index, (kind, part) in enumerate(kinds):
        shift = 1.03 ** (index - (len(kinds) - 1) / 2)  # side by side, so that bars do not hide each other
        style: dict[str, Any] = {"color": plots.get_colour(index), "marker": "o", "markersize": 3.5, "linewidth": 1.1}
        style |= {"label": _label_line(part.iloc[0]), "linestyle": "--" if "copy" in kind else "-"}
        _draw_bars(left, part, shift, "latency_ms", ("latency_ms", "latency_ms_p95"), **style)
        _draw_bars(right, part, shift, **style)
    for index in range(len(end_to_end)):
        part = end_to_end.iloc[[index]]
        style = {"marker": "D", "linestyle": "", "color": plots.get_colour(len(kinds) + index), "markersize": 5}
        _draw_bars(right, part, 1.06 ** (index + 1), **style, label=_label_files(part.iloc[0]))
    left.set(title=_("Latency: median, and bar to p95"), ylabel=_("milliseconds per batch"))
    set_log_axis(left, "y", [*table["latency_ms"], *table["latency_ms_p95"]])
    right.set(title=_("Throughput, with intervals"), ylabel=_("images per second"), ylim=(0, None))
    batches = sorted({*table["batch"], *end_to_end["batch"]})
    for axes in (left, right):
        axes.set(xscale="log", xlim=(batches[0] / 1.5, 1.5 * batches[-1]), xlabel=_("images per batch"))
        axes.set_xticks(batches, [str(batch) for batch in batches])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(True)
    plots.draw_legend(figure, 2)
    return {"latency": figure}


def _label_line(row: pd.Series) -> str:
    runtime = "torch" if row["runtime"] == CPU else row["runtime"]
    on_cpu = _("{runtime}, threads: {threads}", runtime=runtime, threads=row["threads"])
    setting = on_cpu if row["device"] == "cpu" else _("{runtime} on the GPU", runtime=runtime)
    return _("{setting}, copy", setting=setting) if row["network"] == "copy" else setting


def _label_files(row: pd.Series) -> str:
    setting = _(
        "real files, {runtime} {precision}, threads: {threads}, workers: {workers}",
        runtime=row["runtime"],
        precision=row["precision"],
        threads=f"{row['threads']:.0f}",
        workers=f"{row['workers']:.0f}",
    )
    return _("predict: {setting}", setting=setting) if row.get("command") == "predict" else setting


def _draw_bars(
    axes: Axes,
    part: pd.DataFrame,
    shift: float,
    name: str = "images_per_second",
    ends: tuple[str, str] = ("images_per_second_low", "images_per_second_high"),
    **style: Any,
) -> None:
    below, above = part[name] - part[ends[0]], part[ends[1]] - part[name]
    lengths = [length.clip(lower=0).fillna(0) for length in (below, above)]
    axes.errorbar(part["batch"] * shift, part[name], lengths, capsize=2, **style)
