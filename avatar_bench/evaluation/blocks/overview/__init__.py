"""overview: the main metrics of several runs in one table, and charts that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from avatar_bench.config.entries import find_entries
from avatar_bench.config.options import Options
from avatar_bench.evaluation.blocks.overview import figures
from avatar_bench.evaluation.blocks.overview import overview_tables as tables
from avatar_bench.evaluation.model_scatter import RunStyles
from avatar_bench.i18n import _
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run


@dataclass(kw_only=True)
class Overview(Options):
    """Comparison of the saved results of several runs; `ood_score` is the score whose AUROC is listed."""

    reads_results: ClassVar[bool] = True
    takes_ensembles: ClassVar[bool] = True

    ood_score: str = "energy"

    def __post_init__(self) -> None:
        known = find_entries("ood_score")
        self.require("ood_score", self.ood_score in known, f"one of {', '.join(known)}")

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Build the table of main metrics, the list of missing ones, and each chart for which a run has results."""
        name = datasets[0].name
        saved = [{block: run.saved(block, name) for block in tables.MAIN_METRICS} for run in runs]
        result = Result("overview", name, len(datasets[0]), tuple(runs[0].classes))
        result.metrics = {f"accuracy/{run.label}": _get_accuracy(one) for run, one in zip(runs, saved, strict=True)}
        result.tables = {
            "runs": tables.build_runs_table(runs, saved, self.ood_score),
            "missing": tables.list_missing(runs, saved, self.ood_score),
        }
        result.warnings = _list_warnings(result)
        charts = {
            "by_class": tables.tabulate_classes(runs, saved),
            "robustness": tables.tabulate_robustness(runs, saved),
            "robustness_bias": tables.tabulate_robustness_bias(runs, saved),
            "calibration": tables.tabulate_calibration(runs, saved),
            "confidence": tables.tabulate_confidence(runs, saved),
            "ood_confidence": tables.tabulate_ood_confidence(runs, saved),
            "ood_shares": tables.tabulate_ood_shares(runs, saved),
            "bias": tables.tabulate_bias(runs, saved),
            "architectures": tables.tabulate_architectures(runs, saved),
            "speed_size": tables.tabulate_speed_size(runs, saved),
            "costs": tables.tabulate_costs(runs, saved),
            "history": tables.tabulate_history(runs),
        }
        looks = RunStyles(runs)
        for chart, table in charts.items():
            if len(table):
                result.tables[chart] = table
                result.figures[chart] = figures.DRAW[chart](table, looks)
            else:
                result.warnings.append(
                    _("The chart {chart} is left out: no run has the results that it needs.", chart=chart)
                )
        return result


def _get_accuracy(results: tables.Saved) -> Metric:
    found = results["blind_test"]
    if found is None or "accuracy" not in found.metrics:
        return Metric(None, 0, reason=_("no usable Result of {block}", block="blind_test"))
    return found.metrics["accuracy"]


def _list_warnings(result: Result) -> list[str]:
    messages = []
    table, lacking = result.tables["runs"], result.tables["missing"]
    groups = table.groupby("data_fingerprint", sort=False)["run"].agg(", ".join)
    if len(groups := groups[groups.index != ""]) > 1:
        messages.append(_("The runs were evaluated on different images: {groups}.", groups=" | ".join(groups)))
    mixed = table.loc[table["data_fingerprint"].str.contains("|", regex=False), "run"]
    if len(mixed):
        messages.append(_("The results of one run come from different images: {names}.", names=", ".join(mixed)))
    networks = table.loc[table["kind"] != "ensemble", "run"]  # an ensemble has no single network to inspect or time
    absent = lacking[(lacking["metric"] == "") & lacking["run"].isin(networks)]
    for name, rows in absent.groupby("run", sort=False):
        blocks = ", ".join(rows["block"])
        messages.append(_("{name} has no usable Result of {blocks}.", name=name, blocks=blocks))
    return messages
