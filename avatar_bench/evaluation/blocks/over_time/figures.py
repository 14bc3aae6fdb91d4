"""Figure of over_time: accuracy, recall and false alarms by period."""

from __future__ import annotations

from textwrap import fill
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from avatar_bench.evaluation.blocks.over_time import locate_cut
from avatar_bench.evaluation.charts import label_axis
from avatar_bench.i18n import _
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

_MOST_NAMES = 16  # below an axis
_LINE = 28  # characters of a label beside an axis


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw a dot with its interval for each measure and period, not joined, and where training ended."""
    periods = result.tables["periods"].dropna(subset="position")
    target, cut = result.provenance["target"], result.provenance.get("training_cut")
    columns = {"accuracy": _("accuracy (%)"), "recall": _("recall of {name} (%)", name=target)}
    columns["false_alarms"] = _("false alarms of {name} (%)", name=target)
    stated = {name: label for name, label in columns.items() if periods[name].notna().any()}
    figure = plots.create_figure(0.6 + 3.4 * len(stated), 3.9)
    line: dict[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.4}
    ticks = periods[:: -(-len(periods) // _MOST_NAMES)]
    names = [f"{name} ({n})" for name, n in zip(ticks["period"], ticks["n"], strict=True)]
    for axes, (name, label) in zip(figure.subplots(1, len(stated), squeeze=False)[0], stated.items(), strict=True):
        axes.vlines(periods["position"], periods[f"{name}_low"], periods[f"{name}_high"], plots.get_colour(0), lw=1.3)
        axes.plot(periods["position"], periods[name], "o", color=plots.get_colour(0), markersize=5)
        axes.set_xticks(ticks["position"], names, rotation=90 if len(names) > 4 else 0, fontsize=7)
        axes.set(xlim=(-0.6, len(periods) - 0.4), ylim=(-0.03, 1.03), xlabel=_("period (images)"))
        label_axis(axes.yaxis, fill(label, _LINE))
        if cut:
            axes.axvline(locate_cut(periods, cut), **line)
    if cut:
        ended = Line2D([], [], label=_("end of training: {date}", date=cut), **line)
        figure.legend(handles=[ended], loc="outside lower center")
    return {"periods": figure}
