"""overview: the main metrics of several runs in one table, and charts that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import pandas as pd

from avatar_bench.config.entries import find_entries
from avatar_bench.config.options import Options, option
from avatar_bench.evaluation.blocks.overview import overview_tables as tables
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

_CONFIDENCE = ("mean_confidence_correct", "mean_confidence_incorrect")
_COSTS = ("latency_ms", "weights_mb", "peak_memory_mb")


@dataclass(kw_only=True)
class Overview(Options):
    """Comparison of the saved results of several runs."""

    version: ClassVar[int] = 3
    reads_results: ClassVar[bool] = True
    takes_ensembles: ClassVar[bool] = True

    ood_score: str = option("decision", help="score for the AUROC", choices=lambda: list(find_entries("ood_score")))

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Build the table of main metrics, the list of missing ones, and each chart for which a run has results."""
        name, patterns = datasets[0].name, tables.list_main_metrics(self.ood_score)
        saved = [{block: run.saved(block, name) for block in patterns} for run in runs]
        result = Result("overview", name, len(datasets[0]), tuple(runs[0].classes))
        absent = Metric(None, 0, reason=Reason("no_result", block="blind_test"))
        for run, results in zip(runs, saved, strict=True):
            result.metrics[f"accuracy/{run.label}"] = tables.get_metric(results, "blind_test", "accuracy") or absent
        charts = {
            "by_class": tables.tabulate_classes(runs, saved),
            "robustness": tables.tabulate_robustness(runs, saved),
            "robustness_bias": tables.tabulate_robustness_bias(runs, saved),
            "calibration": tables.tabulate_calibration(runs, saved),
            "risk_coverage": tables.tabulate_risk_coverage(runs, saved),
            "confidence": tables.tabulate_metrics(runs, saved, "error_bias", _CONFIDENCE),
            "ood_confidence": tables.tabulate_ood_confidence(runs, saved),
            "ood_shares": tables.tabulate_ood_shares(runs, saved),
            "bias": tables.tabulate_bias(runs, saved),
            "architectures": tables.tabulate_architectures(runs, saved),
            "speed_size": tables.tabulate_speed_size(runs, saved),
            "costs": tables.tabulate_devices(runs, saved, _COSTS),
            "history": tables.tabulate_history(runs),
        }
        result.tables = {
            "runs": tables.build_runs_table(runs, saved, patterns),
            "missing": tables.list_missing(runs, saved, patterns),
            **{chart: table for chart, table in charts.items() if len(table)},
        }
        result.warnings = _collect_warnings(result.tables["runs"], result.tables["missing"])
        if empty := [chart for chart, table in charts.items() if not len(table)]:
            result.warnings.append(Reason("charts_left_out", charts=empty))
        return result


def _collect_warnings(table: pd.DataFrame, missing: pd.DataFrame) -> list[Reason]:
    found = []
    groups = table[table["data_fingerprint"] != ""].groupby("data_fingerprint", sort=False)["run"].agg(", ".join)
    if len(groups) > 1:
        found.append(Reason("different_images", groups=" | ".join(groups)))
    mixed = table.loc[table["data_fingerprint"].str.contains("|", regex=False), "run"]
    if len(mixed):
        found.append(Reason("mixed_images", runs=list(mixed)))
    networks = table.loc[table["kind"] != "ensemble", "run"]  # an ensemble has no single network to inspect or time
    absent = missing[(missing["metric"] == "") & missing["run"].isin(networks)]
    blocks: dict[tuple[str, ...], list[str]] = {}  # by the runs that lack them
    for block, rows in absent.groupby("block", sort=False):
        blocks.setdefault(tuple(rows["run"]), []).append(str(block))
    return found + [Reason("not_evaluated", runs=runs, blocks=lacking) for runs, lacking in blocks.items()]
