"""Figure of out_of_domain: distributions of scores."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from avatar_bench.evaluation import charts
from avatar_bench.i18n import _, get_title
from avatar_bench.metrics import plots
from avatar_bench.results.result import Result

OOD_COLOUR = plots.get_colour(4)
_MOST_PANELS = 6  # legible sets side by side
_BINS = 30
_WIDE = 50  # ratio of scores from which the axis is logarithmic


@plots.use_style()
def draw(result: Result) -> dict[str, Figure]:
    """Draw the distribution of each score in the domain and in each set outside, where there are some."""
    about, table = result.tables["sets"], result.tables["scores"]
    columns = list(map(str, table))
    scores = columns[columns.index("confidence") + 1 :]
    sets = about.loc[about["kind"].isin(["near", "far"]), "set"].tolist()
    if not sets or not scores:
        return {}
    shown = sets[:_MOST_PANELS]
    figure = plots.create_figure(max(4.0, 0.9 + 1.9 * len(shown)), 0.9 + 1.15 * len(scores))
    grid = figure.subplots(len(scores), len(shown), squeeze=False, sharex="row", sharey="row")
    domain = table[table["kind"] == "in_domain"]
    for line, score in zip(grid, scores, strict=True):
        values = table.loc[(table["kind"] == "in_domain") | table["set"].isin(shown), score]
        low, high = np.quantile(values, [0.005, 0.995])
        wide = low > 0 and high > _WIDE * low
        edges = (np.geomspace if wide else np.linspace)(low, high if high > low else low + 1, _BINS + 1)
        for axes, name in zip(line, shown, strict=True):
            rows = table[(table["set"] == name) & (table["kind"] != "in_domain")]
            style = {"color": OOD_COLOUR, "histtype": "step", "label": _("out of domain")}
            charts.draw_histogram(axes, domain[score], edges, color=plots.GREY, alpha=0.6, label=_("in domain"))
            charts.draw_histogram(axes, rows[score], edges, **style)
            axes.tick_params(labelsize=7)
            if wide:
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter("{x:g}")
                axes.xaxis.set_minor_formatter(NullFormatter())
        line[0].set_ylabel(get_title("ood_score", score))
        plots.format_percent_axis(line[0].yaxis)
    for axes, name in zip(grid[0], shown, strict=True):
        axes.set_title(plots.shorten_name(name, 20))
    left_out = _("{n} of {all} sets", n=len(shown), all=len(sets)) if len(sets) > len(shown) else ""
    figure.supylabel(_("share of the set's images (%)"), fontsize=9)
    figure.supxlabel(_("score (higher: more likely out of domain)"), fontsize=9)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2, title=left_out)
    return {"scores": figure}
