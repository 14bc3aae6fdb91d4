"""The figure of architecture: a network's stages from the picture down to the classes."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from avatar_bench import plots
from avatar_bench.messages import say
from avatar_bench.models.anatomy import HEAD, STEM, Anatomy

_BOX = 0.68  # height of a stage's box, of the 1 that a row has
_INKS = {STEM: plots.color(5), HEAD: plots.color(1)}


@plots.use_style()
def diagram(anatomy: Anatomy, name: str, size: int, classes: int) -> Figure:
    """Draw a box per stage, from the picture of `size` pixels down to the classes; beside it, its share of the cost."""
    stages = anatomy.stages
    count = len(stages)
    figure = plots.new_figure(8.6, 1.2 + 0.56 * (count + 0.8))
    left, middle, right = figure.subplots(1, 3, width_ratios=[3.4, 1, 1], sharey=True)
    left.set(xlim=(0, 1), ylim=(count - 0.5, -1.3))
    left.set_axis_off()
    _terminal(left, -1, say("picture: 3 x {size} x {size}", size=size))
    for row, (_, stage) in enumerate(stages.iterrows()):
        _box(left, row, stage)
        _arrow(left, row - 1)
    for axes, column, title in ((middle, "params", say("parameters")), (right, "macs", say("multiply-adds"))):
        _shares(axes, stages, column, title)
    figure.suptitle(
        say(
            "{name}: {depth} layers deep, {params} M parameters, {macs} G multiply-adds, {classes} classes",
            name=plots.short(name, 30),
            depth=anatomy.depth,
            params=f"{stages['params'].sum() / 1e6:.2f}",
            macs=f"{stages['macs'].sum() / 1e9:.2f}",
            classes=classes,
        ),
        fontsize=9,
    )
    return figure


def _box(axes: Axes, row: int, stage: pd.Series) -> None:
    ink = _INKS.get(stage["stage"], plots.color(0))
    style = "round,pad=0,rounding_size=0.02"
    axes.add_patch(
        FancyBboxPatch(
            (0.0, row - _BOX / 2), 1, _BOX, style, facecolor=ink, alpha=0.18, edgecolor="none", clip_on=False
        )
    )
    kind = stage["block_type"]
    times = f"{stage['blocks']} × {kind}" if stage["blocks"] else kind
    extras = ", ".join(text for text in (stage["normalisation"], stage["activation"]) if text)
    ends = {STEM: say("stem"), HEAD: say("head")}
    title = ends.get(stage["stage"]) or say("stage {number}", number=stage["stage"])
    small = {"fontsize": 7, "color": "#404040"}
    words: list[tuple[float, float, str, dict[str, Any]]] = [
        (0.02, -0.16, title, {"fontweight": "bold"}),
        (0.17, -0.16, plots.short(times, 46), {}),
        (0.98, -0.16, stage["output"], {"ha": "right"}),
        (0.17, 0.17, plots.short(extras, 56), small),
        (0.98, 0.17, plots.short(stage["module"].replace(" to ", " … "), 30), {"ha": "right", **small}),
    ]
    for x, y, text, options in words:
        axes.text(x, row + y, text, va="center", **{"fontsize": 8.5, **options})


def _terminal(axes: Axes, row: int, text: str) -> None:
    axes.text(0.5, row, text, ha="center", va="center", fontsize=8.5)


def _arrow(axes: Axes, row: int) -> None:
    gap = (1 - _BOX) / 2
    style = {"arrowstyle": "-|>", "color": plots.GREY, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (0.5, row + 1 - _BOX / 2), (0.5, row + 1 - _BOX / 2 - 2 * gap), arrowprops=style)


def _shares(axes: Axes, stages: pd.DataFrame, column: str, title: str) -> None:
    share = stages[column] / max(1, stages[column].sum())
    inks = [_INKS.get(stage, plots.color(0)) for stage in stages["stage"]]
    axes.barh(range(len(stages)), share, color=inks, alpha=0.75, height=0.5)
    for row, (value, part) in enumerate(zip(stages[column], share, strict=True)):
        axes.annotate(_short_number(value), (part, row), (3, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.set(xlim=(0, 1.3 * share.max()), title=title, xlabel=say("share (%)"))
    plots.percent_axis(axes.xaxis)
    axes.tick_params(left=False, labelleft=False)
    axes.grid(axis="x")


def _short_number(value: float) -> str:
    if value >= 1e9:
        return say("{number} G", number=f"{value / 1e9:.3g}")
    if value >= 1e6:
        return say("{number} M", number=f"{value / 1e6:.3g}")
    if value >= 1e3:
        return say("{number} k", number=f"{value / 1e3:.3g}")
    return f"{value:.0f}"
