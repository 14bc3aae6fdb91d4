"""overview: the main metrics of several runs in one table, and charts that compare them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.config.entries import find_entries, find_entry
from avatar_bench.config.options import Options, option
from avatar_bench.data.corruptions import STANDARD_CORRUPTIONS
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import make_columns, tabulate_runs
from avatar_bench.results.declaration import declare_block
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

Results = Mapping[str, Result | None]  # saved results of a run by block
Saved = Sequence[tuple["Run", Results]]
Patterns = Mapping[str, Sequence[str]]  # of the main metrics, by block
_MISSING = Metric(None, 0, reason=Reason("missing"))
_ACCURACY = ("blind_test", "accuracy")
_HISTORY = ("train/loss", "train/accuracy", "train/macro_f1", "val/loss", "val/accuracy", "val/macro_f1")


@dataclass(kw_only=True)
class Overview(Options):
    """Comparison of the saved results of several runs."""

    version: ClassVar[int] = 4
    reads_results: ClassVar[bool] = True
    takes_ensembles: ClassVar[bool] = True

    ood_score: str = option("decision", help="score for the AUROC", choices=lambda: list(find_entries("ood_score")))

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Build the table of main metrics, the list of missing ones, and each chart for which a run has results."""
        name = datasets[0].name
        declared = {block: declare_block(block).overview for block in list_blocks(("run",))}
        patterns = {
            block: [main.format(score=self.ood_score) for main in mains]
            for block, mains in declared.items()
            if _has_columns(block, datasets[0])
        }
        saved: Saved = [(run, {block: run.saved(block, name) for block in patterns}) for run in runs]
        if not any(any(results.values()) for __, results in saved):
            raise BlockError(
                f"{name}: there are no saved results, which overview compares.",
                "Run other blocks before it, with the same out= if you set it: block=[blind_test,overview]",
            )
        result = Result("overview", name, len(datasets[0]), tuple(runs[0].classes))
        chance, absent = 1 / len(runs[0].classes), Metric(None, 0, reason=Reason("no_result", block="blind_test"))
        for run, results in saved:
            result.metrics[f"accuracy/{run.label}"] = _get_metric(results, *_ACCURACY, absent)
        confidences = ("mean_confidence_correct", "mean_confidence_incorrect")
        biases = {"robustness": ("robustness", "robustness"), "unbias": ("error_bias", "unbias")}
        speeds = _tabulate_devices(saved, ("params_m", "macs_g", "images_per_second"))
        charts = {
            "by_class": _tabulate_classes(saved),
            "robustness": _tabulate_robustness(saved),
            "robustness_bias": _join_metrics(saved, biases).assign(robustness_floor=chance, unbias_floor=1 - chance),
            "calibration": _tabulate_calibration(saved),
            "risk_coverage": _tabulate_risk_coverage(saved),
            "confidence": _tabulate_metrics(saved, "error_bias", confidences),
            "ood_confidence": _tabulate_ood_confidence(saved),
            "ood_shares": _tabulate_ood_shares(saved),
            "bias": _tabulate_bias(saved),
            "architectures": _tabulate_architectures(saved),
            "speed_size": speeds.merge(_join_metrics(saved, {"accuracy": _ACCURACY}), on="run", how="left"),
            "costs": _tabulate_devices(saved, ("latency_ms", "weights_mb", "peak_memory_mb")),
            "history": _tabulate_history(saved),
        }
        result.tables = {
            "runs": _build_runs_table(saved, patterns),
            "missing": _list_missing(saved, patterns),
            **{chart: table for chart, table in charts.items() if len(table)},
        }
        result.warnings = _collect_warnings(result.tables["runs"], result.tables["missing"])
        if empty := [chart for chart, table in charts.items() if not len(table)]:
            result.warnings.append(Reason("charts_left_out", charts=empty))
        return result


def _collect_warnings(table: pd.DataFrame, missing: pd.DataFrame) -> list[Reason]:
    reasons = []
    groups = table[table["data_fingerprint"] != ""].groupby("data_fingerprint", sort=False)["run"].agg(", ".join)
    if len(groups) > 1:
        reasons.append(Reason("different_images", groups=" | ".join(groups)))
    mixed = table.loc[table["data_fingerprint"].str.contains("|", regex=False), "run"]
    if len(mixed):
        reasons.append(Reason("mixed_images", runs=list(mixed)))
    networks = table.loc[table["kind"] != "ensemble", "run"]  # an ensemble has no single network to inspect or time
    absent = missing[(missing["metric"] == "") & missing["run"].isin(networks)]
    blocks: dict[tuple[str, ...], list[str]] = {}  # by the runs that lack them
    for block, rows in absent.groupby("block", sort=False):
        blocks.setdefault(tuple(rows["run"]), []).append(str(block))
    return reasons + [Reason("not_evaluated", runs=runs, blocks=lacking) for runs, lacking in blocks.items()]


def _build_runs_table(saved: Saved, patterns: Patterns) -> pd.DataFrame:
    """Return recipe, seed, data and main metrics of each run, with the ends of their intervals."""
    rows = []
    for run, results in saved:
        known = (result.provenance.get("data_fingerprint") for result in results.values() if result is not None)
        fingerprints = "|".join(sorted({str(text) for text in known if text}))
        row: dict[str, object] = {"seed": run.seed, "data_fingerprint": fingerprints}
        for block, names in patterns.items():
            # a column even if every run lacks it
            cells = {name: _MISSING for name in names if "*" not in name} | dict(_match_metrics(results[block], names))
            for name, metric in cells.items():
                row |= make_columns(name, metric, f"{name}_")
        rows.append(row)
    return tabulate_runs([run for run, __ in saved]).join(pd.DataFrame(rows))


def _has_columns(block: str, dataset: Dataset) -> bool:
    """Return whether a data set has a value in any of the columns that a block needs; True if it needs none."""
    columns = getattr(find_entry("block", block).load_class(), "needs_any_column", ())
    return not columns or any((dataset.frame[name] != "").any() for name in {*columns} & {*dataset.frame})


def _list_missing(saved: Saved, patterns: Patterns) -> pd.DataFrame:
    """Return a row for each missing result of a run, and for each main metric without a value, with the reason."""
    rows = []
    for run, results in saved:
        for block, names in patterns.items():
            if results[block] is None:
                rows.append((run.label, block, "", str(Reason("missing"))))
            for name, metric in _match_metrics(results[block], names):
                if metric.value is None:
                    rows.append((run.label, block, name, str(Reason("of_block", block=block, reason=metric.reason))))
    return pd.DataFrame(rows, columns=["run", "block", "metric", "reason"])


def _tabulate_classes(saved: Saved) -> pd.DataFrame:
    """Return recall, precision and F1 of each class, and for class "" the accuracy and the macro means."""
    names = ("accuracy", "recall/*", "macro_precision", "precision/*", "macro_f1", "f1/*")
    table = _tabulate_metrics(saved, "blind_test", names)
    parts = table["metric"].astype(str).str.extract("([^/]*)/?(.*)")
    kinds = parts[0].replace("accuracy", "recall").str.removeprefix("macro_")
    return table.assign(kind=kinds, **{"class": parts[1]})


def _tabulate_robustness(saved: Saved) -> pd.DataFrame:
    """Return the accuracy on clean images, under each corruption at severity 3, and the mean of the standard five."""
    main = ("clean", *STANDARD_CORRUPTIONS, "robustness")
    names = (name for __, result in _iterate_results(saved, "robustness") for name in result.metrics)
    others = [name for name in dict.fromkeys(names) if "/" not in name and name not in (*main, "mean_over_severities")]
    return _tabulate_metrics(saved, "robustness", (*main, *others))


def _tabulate_calibration(saved: Saved) -> pd.DataFrame:
    """Return accuracy and ECE in 15 bins of each run with intervals, the floor of the ECE, and the raw ECE."""
    table = _join_metrics(saved, {"accuracy": _ACCURACY, "ece": ("calibration", "scaled/ece_15")})
    others = {}
    for run, results in saved:
        scaled, raw = (_get_metric(results, "calibration", name) for name in ("scaled/ece_15", "ece_15"))
        others[run.label] = {"ece_floor": scaled.floor, "raw_ece": raw.value}
    return table.join(pd.DataFrame.from_dict(others, "index", float), on="run")


def _tabulate_risk_coverage(saved: Saved) -> pd.DataFrame:
    """Return the error rate among answered images of each run by coverage, with intervals."""
    columns = ["coverage", "answered", "error", "low", "high"]
    parts = []
    for run, result in _iterate_results(saved, "decision"):
        table = result.tables["risk_coverage"]
        parts.append(table.loc[table["set"] == result.set, columns].assign(run=run.label))
    return pd.concat(parts, ignore_index=True)[["run", *columns]] if parts else pd.DataFrame(columns=["run", *columns])


def _tabulate_ood_confidence(saved: Saved) -> pd.DataFrame:
    """Return mean and standard deviation of confidence in each set of out_of_domain, the evaluated one first."""
    rows = []
    for run, result in _iterate_results(saved, "out_of_domain"):
        for __, about in result.tables["sets"].iterrows():
            mean, std = (result.metrics.get(f"{kind}_confidence/{about['set']}", _MISSING) for kind in ("mean", "std"))
            row = {"run": run.label, "set": about["set"], "kind": about["kind"], "n": about["n"]}
            rows.append(row | make_columns("value", mean) | make_columns("std", std, "std_"))
    numbers = ["value", "low", "high", "std", "std_low", "std_high"]
    table = pd.DataFrame(rows, columns=["run", "set", "kind", "n", *numbers]).astype(dict.fromkeys(numbers, float))
    outside = table.loc[table["value"].notna() & (table["kind"] != "in_domain"), "run"]
    return table[table["run"].isin(outside)].dropna(subset="value").reset_index(drop=True)


def _tabulate_architectures(saved: Saved) -> pd.DataFrame:
    rows = []
    for run, result in _iterate_results(saved, "architecture"):
        traits = {str(name): trait for name, trait in result.tables["traits"].astype(object).fillna("").iloc[0].items()}
        sizes = {name: result.metrics[name].value for name in ("params_m", "macs_g", "depth", "input_size")}
        rows.append({"run": run.label, "recipe": run.recipe} | traits | sizes)
    return pd.DataFrame(rows)


def _tabulate_ood_shares(saved: Saved) -> pd.DataFrame:
    """Return the share of each predicted class in each set of out_of_domain, the evaluated one included."""
    rows = []
    for run, result in _iterate_results(saved, "out_of_domain"):
        for __, about in result.tables["sets"].iterrows():
            for name in result.classes:
                share = result.metrics.get(f"share/{about['set']}/{name}")
                ends = (share.low, share.high) if share else (None, None)
                rows.append((run.label, about["set"], about["kind"], about["n"], name, about[f"share_{name}"], *ends))
    return pd.DataFrame(rows, columns=["run", "set", "kind", "n", "class", "share", "low", "high"])


def _tabulate_bias(saved: Saved) -> pd.DataFrame:
    """Return by how much each class is predicted too often, 0 for an unbiased network.

    On "domain", labelled images: the predicted share minus the true one. On "ood", images outside all classes: the
    predicted share minus that of a uniform prediction. On "corrupted": the share that corruptions add.
    """
    rows: list[tuple[str, str, str, float | None]] = []
    for run, result in _iterate_results(saved, "blind_test"):
        confusion = result.tables["confusion"].drop(columns="target").to_numpy(dtype=float)
        excess = (confusion.sum(axis=0) - confusion.sum(axis=1)) / confusion.sum()
        rows += [(run.label, "domain", *row) for row in zip(result.classes, excess.tolist(), strict=True)]
    for run, result in _iterate_results(saved, "out_of_domain"):
        sets = result.tables["sets"]
        outside = sets[sets["kind"].isin(["near", "far"])]
        for name in result.classes if len(outside) else ():
            share = float(np.average(outside[f"share_{name}"], weights=outside["n"]))
            rows.append((run.label, "ood", name, share - 1 / len(result.classes)))
    for run, result in _iterate_results(saved, "robustness"):
        for name, metric in _match_metrics(result, ["bias/*"]):
            rows.append((run.label, "corrupted", name.partition("/")[2], metric.value))
    return pd.DataFrame(rows, columns=["run", "on", "class", "excess"]).astype({"excess": float})


def _tabulate_history(saved: Saved) -> pd.DataFrame:
    """Return a row for each run and epoch: `step` counts epochs over all stages, `best` marks the saved one."""
    columns, tables = ["run", "step", "epoch", "stage", *_HISTORY, "best"], []
    for run, __ in saved:
        table = run.history
        if table is not None and "epoch" in table and len(table):  # a probe has no epochs
            best, step = table["epoch"] == run.record.best_epoch, np.arange(1, len(table) + 1)
            tables.append(table.assign(run=run.label, step=step, best=best).reindex(columns=columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _iterate_results(saved: Saved, block: str) -> Iterator[tuple[Run, Result]]:
    for run, results in saved:
        if (result := results[block]) is not None:
            yield run, result


def _match_metrics(result: Result | None, patterns: Sequence[str]) -> list[tuple[str, Metric]]:
    metrics = result.metrics if result else {}
    return [(name, metric) for pattern in patterns for name, metric in metrics.items() if fnmatchcase(name, pattern)]


def _get_metric(results: Results, block: str, name: str, absent: Metric = _MISSING) -> Metric:
    result = results[block]
    return result.metrics.get(name, absent) if result else absent


def _tabulate_metrics(saved: Saved, block: str, patterns: Sequence[str]) -> pd.DataFrame:
    """Return a row for each run and metric with a value: value, ends of its interval, n, floor."""
    rows = [
        {"run": run.label, "metric": name, **make_columns("value", metric), "n": metric.n, "floor": metric.floor}
        for run, result in _iterate_results(saved, block)
        for name, metric in _match_metrics(result, patterns)
        if metric.value is not None
    ]
    table = pd.DataFrame(rows, columns=["run", "metric", "value", "low", "high", "n", "floor"])
    return table.astype({"value": float, "low": float, "high": float, "floor": float})


def _tabulate_devices(saved: Saved, names: Sequence[str]) -> pd.DataFrame:
    """Return metrics of efficiency by run and device; those of time have intervals."""
    rows = []
    for run, result in _iterate_results(saved, "efficiency"):
        name_of_device = str(result.tables["latency"]["device"].iloc[0])
        for device, before in {name_of_device: "", "cpu": "" if name_of_device == "cpu" else "cpu/"}.items():
            row: dict[str, object] = {"run": run.label, "device": device}
            for name in names:
                timed = name in ("latency_ms", "images_per_second")
                metric = result.metrics.get(f"{before}{name}/b1" if timed else name, _MISSING)
                row |= make_columns(name, metric, f"{name}_") if timed else {name: metric.value}
            if all(row[name] is not None for name in names):
                rows.append(row)
    table = pd.DataFrame(rows or None, columns=None if rows else ["run", "device"])
    return table.astype(dict.fromkeys(table.columns[2:], float))


def _join_metrics(saved: Saved, names: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Return a row for each run that has all the metrics, one column each, with the ends of their intervals."""
    rows = []
    for run, results in saved:
        row: dict[str, object] = {"run": run.label}
        for column, where in names.items():
            row |= make_columns(column, _get_metric(results, *where), f"{column}_")
        rows.append(row)
    ends = [f"{column}{end}" for column in names for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows).astype(dict.fromkeys(ends, float))
    return table.dropna(subset=list(names)).reset_index(drop=True)
