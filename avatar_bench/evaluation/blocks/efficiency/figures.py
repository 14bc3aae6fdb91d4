"""Figure of efficiency: latency and images per second by batch size."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, ScalarFormatter

from avatar_bench.evaluation.blocks.efficiency.latency import CPU
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result


def draw(result: Result) -> dict[str, Figure]:
    """Draw latency and images per second."""
    return {"latency": draw_latency(result.tables["latency"], result.tables["end_to_end"])}


@plots.use_style()
def draw_latency(table: pd.DataFrame, end_to_end: pd.DataFrame) -> Figure:
    """Draw the median latency by batch size with a bar up to its 95th percentile, and images per second with intervals.

    There is a line for each runtime and number of threads, and one for a copy of the network, which shows the machine's
    noise. Diamonds are real files, end to end, the first as `predict` makes them.
    """
    figure = plots.create_figure(8.4, 3.9)
    left, right = figure.subplots(1, 2)
    kinds = list(table.groupby(["network", "runtime", "threads"], sort=False))
    for index, (kind, part) in enumerate(kinds):
        shift = 1.03 ** (index - (len(kinds) - 1) / 2)  # side by side, so that bars do not hide each other
        style = {"color": plots.get_colour(index), "marker": "o", "markersize": 3.5, "capsize": 2, "linewidth": 1.1}
        style |= {"label": _label_line(part.iloc[0]), "linestyle": "--" if "copy" in kind else "-"}
        _draw_line(left, part, shift, "latency_ms", part["latency_ms"], part["latency_ms_p95"], style)
        rate = "images_per_second"
        _draw_line(right, part, shift, rate, part[f"{rate}_low"], part[f"{rate}_high"], style)
    _draw_files(right, end_to_end, len(kinds))
    left.set(title=_("Latency: median, and bar to p95"), ylabel=_("milliseconds per batch"), yscale="log")
    left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter(ScalarFormatter())
    left.yaxis.set_minor_locator(NullLocator())
    right.set(title=_("Throughput, with intervals"), ylabel=_("images per second"), ylim=(0, None))
    for axes in (left, right):
        _set_scales(axes, sorted({*table["batch"], *end_to_end["batch"]}))
    plots.draw_legend(figure, 2)
    return figure


def _label_line(row: pd.Series) -> str:
    runtime = "torch" if row["runtime"] == CPU else row["runtime"]
    on_cpu = _("{runtime}, threads: {threads}", runtime=runtime, threads=row["threads"])
    setting = on_cpu if row["device"] == "cpu" else _("{runtime} on the GPU", runtime=runtime)
    return _("{setting}, copy", setting=setting) if row["network"] == "copy" else setting


def _draw_line(
    axes: Axes, part: pd.DataFrame, shift: float, name: str, low: pd.Series, high: pd.Series, style: dict[str, object]
) -> None:
    value = part[name]
    below, above = (value - low).clip(lower=0).fillna(0), (high - value).clip(lower=0).fillna(0)
    axes.errorbar(part["batch"] * shift, value, [below, above], **style)  # type: ignore[arg-type]


def _draw_files(axes: Axes, table: pd.DataFrame, used: int) -> None:
    name = "images_per_second"
    for index, (__, row) in enumerate(table.iterrows()):
        ends = [[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]]
        style: dict[str, Any] = {"fmt": "D", "color": plots.get_colour(used + index), "markersize": 5, "capsize": 2}
        setting = _(
            "real files, {runtime} {precision}, threads: {threads}, workers: {workers}",
            runtime=row["runtime"],
            precision=row["precision"],
            threads=f"{row['threads']:.0f}",
            workers=f"{row['workers']:.0f}",
        )
        style["label"] = _("predict: {setting}", setting=setting) if row.get("command") == "predict" else setting
        axes.errorbar(row["batch"] * 1.06 ** (index + 1), row[name], ends, **style)


def _set_scales(axes: Axes, batches: list[int]) -> None:
    axes.set(xscale="log", xlim=(batches[0] / 1.5, 1.5 * batches[-1]), xlabel=_("images per batch"))
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(True)
