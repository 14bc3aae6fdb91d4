"""Block efficiency: size, operations, memory and speed of a run's network, on synthetic input and on real files."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from avatar_bench.errors import BlockError
from avatar_bench.evaluation.blocks.efficiency import figures
from avatar_bench.evaluation.blocks.efficiency import latency as timing
from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics, metric_with_interval
from avatar_bench.i18n import _
from avatar_bench.inference.runtimes.engines import RUNTIMES, refuse_missing_package
from avatar_bench.metrics.timing import quantiles
from avatar_bench.models import profiling
from avatar_bench.models.inspection import inspect_network
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

RUNTIME_TOLERANCE = 1e-4  # between a runtime's logits and torch's: absolute below 1, relative above
_LAYER_COUNTS = ("params", "bytes", "macs")
_TIMES = {"latency_ms": False, "latency_ms_p95": False, "images_per_second": True}  # metric -> higher is better


@dataclass(kw_only=True)
class Efficiency(IntervalOptions):
    """Measurement of the cost of a run's network on this machine; the bootstrap draws whole rounds.

    `batches` of images (1 is added) and `threads` of the network (0: the current setting) are timed in all
    combinations, in `runtimes`, in turn: `rounds` rounds, about `seconds` in total per setting. `passes` over real
    files take `pass_seconds` or more, decoded by the run's own number of workers and by each of `workers`. The machine
    is too noisy if two identical networks, or two passes of one setting, differ by more than `tolerance`.
    """

    batches: list[int] = field(default_factory=lambda: [1, 8, 32])
    threads: list[int] = field(default_factory=lambda: [1, 0])
    runtimes: list[str] = field(default_factory=lambda: ["torch"])
    rounds: int = 10
    seconds: float = 3.0
    tolerance: float = 0.1
    passes: int = 5
    pass_seconds: float = 2.0
    workers: list[int] = field(default_factory=lambda: [0])

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require("batches", min(self.batches, default=1) > 0, "numbers of 1 or more")
        self.batches = sorted({1, *self.batches})
        self.require("threads", min(self.threads, default=-1) >= 0, "one number or more, each 0 or more")
        known = self.runtimes[:1] == ["torch"] and set(self.runtimes) <= set(RUNTIMES)
        self.require("runtimes", known, f"torch first, then any of {', '.join(RUNTIMES[1:])}")
        self.require("rounds", self.rounds >= 2, "2 or more")
        self.require("seconds", self.seconds >= 0, "0 or more")
        self.require("tolerance", self.tolerance > 0, "above 0")
        self.require("passes", self.passes >= 2, "2 or more")
        self.require("pass_seconds", self.pass_seconds >= 0, "0 or more")
        self.require("workers", min(self.workers, default=0) >= 0, "numbers of 0 or more")
        for runtime in self.runtimes:
            refuse_missing_package(runtime, f"block.efficiency.runtimes: {runtime}")

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute counts, timings with intervals, and a figure; reads the dataset's files, not its labels."""
        if len(dataset) == 0:
            raise BlockError(f"{dataset.name} has no images, so the network cannot be timed.")
        result = Result("efficiency", dataset.name, len(dataset), run.classes)
        samples = self._time_network(run, result)
        workers = list(dict.fromkeys([run.workers, *self.workers]))
        passes = timing.time_files(run, dataset, workers, self.passes, self.pass_seconds, self.seed)
        latency, end_to_end = self._tabulate_latency(samples), self._tabulate_end_to_end(passes)
        latency["steady"] = latency["noise"].max() <= self.tolerance
        latency["device"] = [timing.find_device(run, runtime) for runtime in latency["runtime"]]
        layers = inspect_network(run.classifier.net, run.preprocessing.size).layers[["module", "type", *_LAYER_COUNTS]]
        memory = profiling.trace_memory(run.classifier, timing.create_noise_images(run, max(self.batches)))
        result.metrics = _build_count_metrics(layers, memory) | self._build_metrics(latency, end_to_end)
        result.tables = {"latency": latency, "end_to_end": end_to_end, "samples": samples, "passes": passes}
        result.tables |= {"layers": layers, "memory": memory}
        result.figures = {"latency": figures.draw_latency(latency, end_to_end, run.batch_size)}
        result.provenance = {"machine": profiling.describe_machine(run.device)}
        result.warnings += self._warn_of_noise(latency, end_to_end)
        return result

    def _time_network(self, run: Run, result: Result) -> pd.DataFrame:
        factories, distances = timing.prepare_runtimes(run, self.runtimes)
        for name, distance in distances.items():
            if not distance <= RUNTIME_TOLERANCE:
                result.warnings.append(
                    _(
                        "The runtime {runtime} is not timed: its logits differ from torch's by {distance}.",
                        runtime=name,
                        distance=f"{distance:.2g}",
                    )
                )
                del factories[name]
        threads = [count or torch.get_num_threads() for count in self.threads]
        turns = {"rounds": self.rounds, "seconds": self.seconds, "seed": self.seed}
        return timing.time_network(run, factories, self.batches, list(dict.fromkeys(threads)), turns)

    def _tabulate_latency(self, samples: pd.DataFrame) -> pd.DataFrame:
        """Return one row per setting: quantiles and rate with intervals, and the deviation of a copy of the network."""
        rows = []
        for case, part in samples.groupby(list(timing.TimedSetting._fields), sort=False):
            row: dict[str, Any] = dict(zip(timing.TimedSetting._fields, case, strict=True))
            row |= {"rounds": part["round"].nunique(), "calls": len(part)}
            for name, metric in self._bootstrap_times(part, row["batch"]).items():
                row |= {name: metric.value, f"{name}_low": metric.low, f"{name}_high": metric.high}
            rows.append(row)
        table = pd.DataFrame(rows)
        setting = ["runtime", "batch", "threads"]
        pairs = table.pivot(index=setting, columns="network", values="latency_ms")
        noise = pairs.max(axis=1, skipna=False) / pairs.min(axis=1) - 1
        return table.join(noise.rename("noise"), on=setting)

    def _bootstrap_times(self, part: pd.DataFrame, batch: int) -> dict[str, Metric]:
        seconds = part["seconds"].to_numpy()

        def statistic(weights: Any) -> Any:
            found = 1000 * quantiles(seconds, (0.5, 0.95, 0.5), weights)
            found[:, 2] = 1000 * batch / found[:, 2]
            return found

        return bootstrap_metrics(self, list(_TIMES), statistic, part["round"].to_numpy(), _TIMES)

    def _tabulate_end_to_end(self, passes: pd.DataFrame) -> pd.DataFrame:
        """Return one row per number of workers: median images per second with its interval, and the noise."""
        rows, name = [], "images_per_second"
        for workers, part in passes.groupby("workers", sort=False):
            rates = (part["images"] / part["seconds"]).to_numpy()
            found = bootstrap_metrics(self, [name], partial(quantiles, rates, (0.5,)), part["round"].to_numpy())[name]
            row: dict[str, Any] = {"workers": workers, "images": int(part["images"].sum()), "passes": len(part)}
            row |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
            rows.append(row | {"noise": rates.max() / rates.min() - 1})
        table = pd.DataFrame(rows).astype({f"{name}_low": float, f"{name}_high": float})
        return table.assign(steady=table["noise"] <= self.tolerance)

    def _build_metrics(self, latency: pd.DataFrame, end_to_end: pd.DataFrame) -> dict[str, Metric]:
        """Return the metrics of each runtime's first number of threads, torch's without a prefix, and of the files."""
        noise, found = float(latency["noise"].max()), {}
        reason = None if noise <= self.tolerance else _("timings on this machine are too noisy")
        first = latency.groupby("runtime")["threads"].transform("first")
        rows = latency[(latency["network"] == "run") & (latency["threads"] == first)]
        for __, row in rows.iterrows():
            prefix = "" if row["runtime"] == "torch" else f"{row['runtime']}/"
            for name, better in _TIMES.items():
                found[f"{prefix}{name}/b{row['batch']}"] = _build_metric(row, name, "round", better, reason)
        own = end_to_end.iloc[0]
        if reason is None and not own["steady"]:
            reason = _("passes over the same files differ too much")
        found["end_to_end_images_per_second"] = _build_metric(own, "images_per_second", "pass", True, reason)
        rounds = int(latency["rounds"].min())
        return found | {"noise": Metric(noise, rounds, higher_is_better=False, floor=0.0)}

    def _warn_of_noise(self, latency: pd.DataFrame, end_to_end: pd.DataFrame) -> list[str]:
        noise, allowed, doubts = latency["noise"].max(), f"{self.tolerance:.0%}", []
        if noise > self.tolerance:
            doubts.append(
                _(
                    "The machine is too noisy: two identical networks differ by {noise} ({tolerance} allowed).",
                    noise=f"{noise:.0%}",
                    tolerance=allowed,
                )
            )
        for __, row in end_to_end[~end_to_end["steady"]].iterrows():
            doubts.append(
                _(
                    "End-to-end timing (workers: {workers}) is too noisy: passes differ by {noise} "
                    "({tolerance} allowed).",
                    workers=row["workers"],
                    noise=f"{row['noise']:.0%}",
                    tolerance=allowed,
                )
            )
        return doubts


def _build_count_metrics(layers: pd.DataFrame, memory: pd.DataFrame) -> dict[str, Metric]:
    params, stored, macs = layers[list(_LAYER_COUNTS)].sum()
    counts = {
        "params_m": params / 1e6,
        "macs_g": macs / 1e9,
        "weights_mb": stored / 1e6,
        "peak_memory_mb": memory["bytes"].max() / 1e6,
    }
    return {name: Metric(float(value), 1, higher_is_better=False) for name, value in counts.items()}


def _build_metric(row: pd.Series, name: str, unit: str, better: bool, reason: str | None) -> Metric:
    low, high = row[[f"{name}_low", f"{name}_high"]].astype(float)
    units = int(row["rounds"] if unit == "round" else row["passes"])
    metric = metric_with_interval(row[name], low, high, units, f"bootstrap by {unit}", better)
    return replace(metric, reason=reason or metric.reason)
