"""Tables of overview: main metrics of each run, missing ones, and the data of each chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from avatar_bench.config.catalogue import list_blocks
from avatar_bench.data.corruptions import STANDARD_CORRUPTIONS
from avatar_bench.evaluation.model_scatter import tabulate_runs
from avatar_bench.results.declaration import declare_block
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

Saved = Mapping[str, Result | None]  # saved results of a run by block
Patterns = Mapping[str, Sequence[str]]  # of the main metrics, by block
_MISSING = Metric(None, 0, reason=Reason("missing"))
_CURVES = ("train/loss", "train/accuracy", "train/macro_f1", "val/loss", "val/accuracy", "val/macro_f1")
_HISTORY = ("epoch", "stage", *_CURVES)


def list_main_metrics(score: str) -> dict[str, list[str]]:
    """Return the patterns of the main metrics that each block of one run declares, with the name of the OOD score."""
    declared = {block: declare_block(block).overview for block in list_blocks(("run",))}
    return {block: [pattern.format(score=score) for pattern in patterns] for block, patterns in declared.items()}


def build_runs_table(runs: Sequence[Run], saved: Sequence[Saved], patterns: Patterns) -> pd.DataFrame:
    """Return recipe, seed, data and main metrics of each run, with the ends of their intervals."""
    table = tabulate_runs(runs).assign(seed=[run.seed for run in runs])
    table["data_fingerprint"] = [join_fingerprints(results) for results in saved]
    rows = []
    for results in saved:
        row: dict[str, object] = {}
        for block, names in patterns.items():
            # a column even if every run lacks it
            found = {name: _MISSING for name in names if "*" not in name} | dict(_match_metrics(results[block], names))
            for name, metric in found.items():
                row |= {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}
        rows.append(row)
    return table.join(pd.DataFrame(rows))


def list_missing(runs: Sequence[Run], saved: Sequence[Saved], patterns: Patterns) -> pd.DataFrame:
    """Return a row for each missing result of a run, and for each main metric without a value, with the reason."""
    rows = []
    for run, results in zip(runs, saved, strict=True):
        for block, names in patterns.items():
            if results[block] is None:
                rows.append((run.label, block, "", str(Reason("missing"))))
            for name, metric in _match_metrics(results[block], names):
                if metric.value is None:
                    rows.append((run.label, block, name, str(Reason("of_block", block=block, reason=metric.reason))))
    return pd.DataFrame(rows, columns=["run", "block", "metric", "reason"])


def join_fingerprints(results: Saved) -> str:
    """Return the data fingerprint of a run's results; if they differ, all of them joined by |."""
    known = (result.provenance.get("data_fingerprint") for result in results.values() if result is not None)
    return "|".join(sorted({str(each) for each in known if each}))


def tabulate_classes(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return recall, precision and F1 of each class, and for class "" the accuracy and the macro means."""
    names = ("accuracy", "recall/*", "macro_precision", "precision/*", "macro_f1", "f1/*")
    table = tabulate_metrics(runs, saved, "blind_test", names)
    parts = table["metric"].astype(str).str.extract("([^/]*)/?(.*)")
    kinds = parts[0].replace("accuracy", "recall").str.removeprefix("macro_")
    return table.assign(kind=kinds, **{"class": parts[1]})


def tabulate_robustness(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return the accuracy on clean images, under each corruption at severity 3, and the mean of the standard five."""
    main = ("clean", *STANDARD_CORRUPTIONS, "robustness")
    found = (name for __, result in _iterate_results(runs, saved, "robustness") for name in result.metrics)
    others = [name for name in dict.fromkeys(found) if "/" not in name and name not in (*main, "mean_over_severities")]
    return tabulate_metrics(runs, saved, "robustness", (*main, *others))


def tabulate_calibration(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return accuracy and ECE in 15 bins of each run with intervals, the floor of the ECE, and the raw ECE."""
    ece = ("calibration", "scaled/ece_15")
    table = _join_metrics(runs, saved, {"accuracy": ("blind_test", "accuracy"), "ece": ece})
    own = {run.label: one for run, one in zip(runs, saved, strict=True)}
    found, raw = (
        [get_metric(own[name], "calibration", metric) or _MISSING for name in table["run"]]
        for metric in (ece[1], "ece_15")
    )
    floors, errors = (np.array(numbers, dtype=float) for numbers in ([m.floor for m in found], [m.value for m in raw]))
    return table.assign(ece_floor=floors, raw_ece=errors)


def tabulate_risk_coverage(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return the error rate among answered images of each run by coverage, with intervals."""
    columns = ["coverage", "answered", "error", "low", "high"]
    parts = []
    for run, result in _iterate_results(runs, saved, "decision"):
        table = result.tables["risk_coverage"]
        parts.append(table.loc[table["set"] == result.set, columns].assign(run=run.label))
    return pd.concat(parts, ignore_index=True)[["run", *columns]] if parts else pd.DataFrame(columns=["run", *columns])


def tabulate_robustness_bias(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return robustness and `unbias` of each run with intervals, and the values of random guessing."""
    names = {"robustness": ("robustness", "robustness"), "unbias": ("error_bias", "unbias")}
    table = _join_metrics(runs, saved, names)
    chance = 1 / len(runs[0].classes)
    return table.assign(robustness_floor=chance, unbias_floor=1 - chance)


def tabulate_ood_confidence(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return mean and standard deviation of confidence in each set of out_of_domain, the evaluated one first."""
    rows = []
    for run, result in _iterate_results(runs, saved, "out_of_domain"):
        for __, about in result.tables["sets"].iterrows():
            row: dict[str, object] = {"run": run.label, "set": about["set"], "kind": about["kind"], "n": about["n"]}
            for column, name in {"value": "mean_confidence", "std": "std_confidence"}.items():
                found = result.metrics.get(f"{name}/{about['set']}", _MISSING)
                before = "" if column == "value" else "std_"
                row |= {column: found.value, f"{before}low": found.low, f"{before}high": found.high}
            rows.append(row)
    numbers = ["value", "low", "high", "std", "std_low", "std_high"]
    table = pd.DataFrame(rows, columns=["run", "set", "kind", "n", *numbers]).astype(dict.fromkeys(numbers, float))
    outside = table.loc[table["value"].notna() & (table["kind"] != "in_domain"), "run"]
    return table[table["run"].isin(outside)].dropna(subset="value").reset_index(drop=True)


def tabulate_architectures(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return the traits of each network as the block architecture reports them, and its size."""
    rows = []
    for run, result in _iterate_results(runs, saved, "architecture"):
        traits = {str(name): each for name, each in result.tables["traits"].astype(object).fillna("").iloc[0].items()}
        sizes = {name: result.metrics[name].value for name in ("params_m", "macs_g", "depth", "input_size")}
        rows.append({"run": run.label, "recipe": run.recipe} | traits | sizes)
    return pd.DataFrame(rows)


def tabulate_speed_size(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return size, images per second at batch size 1 and accuracy by run and device, with intervals."""
    table = tabulate_devices(runs, saved, ("params_m", "macs_g", "images_per_second"))
    return table.merge(_join_metrics(runs, saved, {"accuracy": ("blind_test", "accuracy")}), on="run", how="left")


def tabulate_ood_shares(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return the share of each predicted class in each set of out_of_domain, the evaluated one included."""
    rows = []
    for run, result in _iterate_results(runs, saved, "out_of_domain"):
        for __, about in result.tables["sets"].iterrows():
            for name in result.classes:
                share = result.metrics.get(f"share/{about['set']}/{name}")
                ends = (share.low, share.high) if share else (None, None)
                rows.append((run.label, about["set"], about["kind"], about["n"], name, about[f"share_{name}"], *ends))
    return pd.DataFrame(rows, columns=["run", "set", "kind", "n", "class", "share", "low", "high"])


def tabulate_bias(runs: Sequence[Run], saved: Sequence[Saved]) -> pd.DataFrame:
    """Return by how much each class is predicted too often, 0 for an unbiased network.

    On "domain", labelled images: the predicted share minus the true one. On "ood", images outside all classes: the
    predicted share minus that of a uniform prediction. On "corrupted": the share that corruptions add.
    """
    rows: list[tuple[str, str, str, float | None]] = []
    for run, result in _iterate_results(runs, saved, "blind_test"):
        confusion = result.tables["confusion"].drop(columns="target").to_numpy(dtype=float)
        excess = (confusion.sum(axis=0) - confusion.sum(axis=1)) / confusion.sum()
        rows += [(run.label, "domain", *each) for each in zip(result.classes, excess.tolist(), strict=True)]
    for run, result in _iterate_results(runs, saved, "out_of_domain"):
        sets = result.tables["sets"]
        outside = sets[sets["kind"].isin(["near", "far"])]
        for name in result.classes if len(outside) else ():
            share = float(np.average(outside[f"share_{name}"], weights=outside["n"]))
            rows.append((run.label, "ood", name, share - 1 / len(result.classes)))
    for run, result in _iterate_results(runs, saved, "robustness"):
        for name, metric in _match_metrics(result, ["bias/*"]):
            rows.append((run.label, "corrupted", name.partition("/")[2], metric.value))
    return pd.DataFrame(rows, columns=["run", "on", "class", "excess"]).astype({"excess": float})


def tabulate_history(runs: Sequence[Run]) -> pd.DataFrame:
    """Return a row for each run and epoch: `step` counts epochs over all stages, `best` marks the saved one."""
    columns, tables = ["run", "step", *_HISTORY, "best"], []
    for run in runs:
        table = getattr(run, "history", None)
        if table is not None and "epoch" in table and len(table):  # a probe has no epochs
            best, step = table["epoch"] == run.record.get("best_epoch"), np.arange(1, len(table) + 1)
            tables.append(table.assign(run=run.label, step=step, best=best).reindex(columns=columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)


def _iterate_results(runs: Sequence[Run], saved: Sequence[Saved], block: str) -> Iterator[tuple[Run, Result]]:
    for run, results in zip(runs, saved, strict=True):
        if (result := results[block]) is not None:
            yield run, result


def _match_metrics(result: Result | None, patterns: Sequence[str]) -> list[tuple[str, Metric]]:
    metrics = result.metrics if result else {}
    return [(name, metric) for pattern in patterns for name, metric in metrics.items() if fnmatchcase(name, pattern)]


def get_metric(results: Saved, block: str, name: str) -> Metric | None:
    """Return a metric of a run's saved results, None if it is missing."""
    result = results[block]
    return result.metrics.get(name) if result else None


def tabulate_metrics(runs: Sequence[Run], saved: Sequence[Saved], block: str, patterns: Sequence[str]) -> pd.DataFrame:
    """Return a row for each run and metric with a value: value, ends of its interval, n, floor."""
    rows = [
        (run.label, name, metric.value, metric.low, metric.high, metric.n, metric.floor)
        for run, result in _iterate_results(runs, saved, block)
        for name, metric in _match_metrics(result, patterns)
        if metric.value is not None
    ]
    table = pd.DataFrame(rows, columns=["run", "metric", "value", "low", "high", "n", "floor"])
    return table.astype({"value": float, "low": float, "high": float, "floor": float})


def tabulate_devices(runs: Sequence[Run], saved: Sequence[Saved], names: Sequence[str]) -> pd.DataFrame:
    """Return metrics of efficiency by run and device; those of time have intervals."""
    rows = []
    for run, result in _iterate_results(runs, saved, "efficiency"):
        own = str(result.tables["latency"]["device"].iloc[0])
        for device, before in {own: "", "cpu": "" if own == "cpu" else "cpu/"}.items():
            row: dict[str, object] = {"run": run.label, "device": device}
            for name in names:
                timed = name in ("latency_ms", "images_per_second")
                found = result.metrics.get(f"{before}{name}/b1" if timed else name, _MISSING)
                row |= {name: found.value} | ({f"{name}_low": found.low, f"{name}_high": found.high} if timed else {})
            if all(row[name] is not None for name in names):
                rows.append(row)
    table = pd.DataFrame(rows or None, columns=None if rows else ["run", "device"])
    return table.astype(dict.fromkeys(table.columns[2:], float))


def _join_metrics(runs: Sequence[Run], saved: Sequence[Saved], names: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Return a row for each run that has all the metrics, one column each, with the ends of their intervals."""
    rows = []
    for run, results in zip(runs, saved, strict=True):
        found = [get_metric(results, *where) or _MISSING for where in names.values()]
        rows.append((run.label, *(end for metric in found for end in (metric.value, metric.low, metric.high))))
    ends = [f"{column}{end}" for column in names for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=["run", *ends]).astype(dict.fromkeys(ends, float))
    return table.dropna(subset=list(names)).reset_index(drop=True)
