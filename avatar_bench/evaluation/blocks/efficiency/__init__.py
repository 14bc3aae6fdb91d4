"""Block efficiency: size, operations, memory and speed of a run's network, on synthetic input and on real files."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
import torch

from avatar_bench.config.options import option
from avatar_bench.data.dataset import list_files
from avatar_bench.data.leakage import refuse_changed_files
from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import make_columns
from avatar_bench.evaluation.blocks.efficiency import latency as timing
from avatar_bench.evaluation.intervals import LOSS, IntervalOptions, bootstrap_metrics, metric_with_interval
from avatar_bench.inference.runtimes import list_runtimes, refuse_missing_package
from avatar_bench.metrics.stats import Floats, quantiles
from avatar_bench.models import profiling
from avatar_bench.models.inspection import inspect_network
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.runs.run import Run

MIN_PROCESSOR_SHARE = 0.9  # of the time of one thread, or others use the processor
RUNTIME_TOLERANCE = 1e-4  # between a runtime's logits and torch's: absolute below 1, relative above
_END_TO_END = "end_to_end_images_per_second"
_LAYER_COUNTS = ("params", "bytes", "macs")
_TIMES = {"latency_ms": False, "latency_ms_p95": False, "images_per_second": True}  # metric -> higher is better


@dataclass(kw_only=True)
class Efficiency(IntervalOptions):
    """Measurement of the cost of a run's network on this machine, in all combinations of batches, threads and runtimes.

    The settings take turns in each round. The machine is too noisy if two identical networks, or two passes of one
    setting over the same files, differ by more than `tolerance`.
    """

    version: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("module",)

    resamples: int = option(2000, help="of the bootstrap, which draws whole rounds", range=(100, None))
    seed: int = option(0, help="of the bootstrap, the images drawn and the order of settings", range=(0, None))
    batches: list[int] = option(
        [1, 8, 32], help="batch sizes; 1 is always included", range=(1, None), expected="numbers of 1 or more"
    )
    threads: list[int] = option(
        [1, 0],
        help="CPU threads, the first entry for metrics.json; 0: the command's setting",
        check=lambda threads: min(threads, default=-1) >= 0,
        expected="one number or more, each 0 or more",
    )
    runtimes: list[str] = option(
        ["torch"],
        help="torch, and any of the others (avatar-bench[export], [openvino])",
        choices=list_runtimes,
        check=lambda runtimes: runtimes[:1] == ["torch"],
        expected="torch first, then any of the others",
    )
    rounds: int = option(10, help="rounds; each setting is timed once per round", range=(2, None))
    seconds: float = option(3.0, help="total time per setting, about", range=(0, None))
    tolerance: float = option(
        0.1,
        help="maximum difference of two identical networks or passes before the machine counts as too noisy",
        check=lambda tolerance: tolerance > 0,
        expected="above 0",
    )
    passes: int = option(5, help="end-to-end passes over files", range=(2, None))
    pass_seconds: float = option(2.0, help="minimum duration of each pass", range=(0, None))
    workers: list[int] = option(
        [0], help="image-loading processes, besides data.workers", range=(0, None), expected="numbers of 0 or more"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.batches = sorted({1, *self.batches})
        for runtime in self.runtimes:
            refuse_missing_package(runtime, f"block.efficiency.runtimes: {runtime}")

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute counts and timings with intervals; reads the dataset's files, not its labels."""
        if len(dataset) == 0:
            raise BlockError(f"{dataset.name} has no images, so the network cannot be timed.")
        refuse_changed_files(dataset)  # one that is gone would end the timing
        result = Result("efficiency", dataset.name, len(dataset), run.classes)
        load = os.getloadavg()[0]
        samples = self._time_network(run, result)
        passes, failure = self._time_files(run, dataset)
        latency, end_to_end = self._tabulate_latency(samples), self._tabulate_end_to_end(passes)
        latency["device"] = [timing.find_device(run, runtime) for runtime in latency["runtime"]]
        # processor time of calls by one thread, which is below their time where other programs take turns on it;
        # several threads also use it while they wait
        on_cpu = set(latency["runtime"][latency["device"] == "cpu"])
        single = samples[samples["runtime"].isin(on_cpu) & (samples["threads"] == 1)]
        share = float(single["processor_seconds"].sum() / single["seconds"].sum()) if len(single) else None
        is_busy = share is not None and share < MIN_PROCESSOR_SHARE
        latency["steady"] = latency["noise"].max() <= self.tolerance and not is_busy
        end_to_end["steady"] &= not is_busy
        network = run.predictor.module
        layers = inspect_network(network.net, run.preprocessing.size).layers[["module", "type", *_LAYER_COUNTS]]
        memory = profiling.trace_memory(network, timing.create_noise_images(run, max(self.batches)))
        params, stored, macs = layers[list(_LAYER_COUNTS)].sum()
        counts = {"params_m": params / 1e6, "macs_g": macs / 1e9, "weights_mb": stored / 1e6}
        counts["peak_memory_mb"] = memory["bytes"].max() / 1e6
        result.metrics = {name: Metric(float(value), 1, higher_is_better=False) for name, value in counts.items()}
        result.metrics = self._build_metrics(latency, end_to_end, is_busy, failure) | result.metrics
        if share is not None:
            result.metrics["processor_share"] = Metric(share, len(samples), higher_is_better=True)
        result.tables = {"latency": latency, "end_to_end": end_to_end, "samples": samples, "passes": passes}
        result.tables |= {"layers": layers, "memory": memory}
        # the load, of the minute before, is no part of the machine, by which times are compared
        result.provenance = {"machine": profiling.describe_machine(run.predictor.device), "load": load}
        if is_busy:
            result.warnings.append(Reason("busy_machine", share=share, least=MIN_PROCESSOR_SHARE))
        result.warnings += [failure] if failure else []
        if (noise := float(latency["noise"].max())) > self.tolerance:
            result.warnings.append(Reason("noisy_machine", noise=noise, tolerance=self.tolerance))
        for row in end_to_end[end_to_end["noise"] > self.tolerance].to_dict("records"):
            about = {"runtime": row["runtime"], "workers": row["workers"], "noise": row["noise"]}
            result.warnings.append(Reason("noisy_files", **about, tolerance=self.tolerance))
        return result

    def _time_files(self, run: Run, dataset: Dataset) -> tuple[pd.DataFrame, Reason | None]:
        """Time predictions on files as `predict` makes them, then as `evaluate` does, by torch."""
        files = np.random.default_rng(self.seed).permutation([str(file) for file in list_files(dataset)])
        workers = list(dict.fromkeys([run.workers, *self.workers]))
        by_torch = timing.time_files(run, files, workers, self.passes, self.pass_seconds)
        by_torch = by_torch.assign(
            command="evaluate", runtime="torch", precision="32", threads=torch.get_num_threads(), batch=run.batch_size
        )
        rate = float((by_torch["images"] / by_torch["seconds"]).max())
        deployed = timing.time_predict(run, files, self.passes, self.pass_seconds, rate)
        if isinstance(deployed, Reason):
            return by_torch[[*timing.SETTING, *timing.PASS_COLUMNS]], deployed
        return pd.concat([deployed, by_torch[deployed.columns]], ignore_index=True), None

    def _time_network(self, run: Run, result: Result) -> pd.DataFrame:
        factories, distances = timing.prepare_runtimes(run, self.runtimes)
        for name, distance in distances.items():
            if not distance <= RUNTIME_TOLERANCE:
                result.warnings.append(Reason("runtime_differs", runtime=name, distance=distance))
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
            statistic = partial(_compute_times, part["seconds"].to_numpy(), row["batch"])
            about = self, [*_TIMES], statistic, part["round"].to_numpy(), _TIMES
            for name, metric in bootstrap_metrics(*about, bounds=LOSS).items():
                row |= make_columns(name, metric, f"{name}_")
            rows.append(row)
        table = pd.DataFrame(rows)
        setting = ["runtime", "batch", "threads"]
        pairs = table.pivot(index=setting, columns="network", values="latency_ms")
        noise = pairs.max(axis=1, skipna=False) / pairs.min(axis=1) - 1
        return table.join(noise.rename("noise"), on=setting)

    def _tabulate_end_to_end(self, passes: pd.DataFrame) -> pd.DataFrame:
        """Return one row per setting: median images per second with its interval, and the noise."""
        rows, name = [], "images_per_second"
        for case, part in passes.groupby(timing.SETTING, sort=False):
            rates = (part["images"] / part["seconds"]).to_numpy()
            about = self, [name], partial(quantiles, rates, (0.5,)), part["round"].to_numpy()
            rate = bootstrap_metrics(*about, bounds=LOSS)[name]
            ends = (rate.value, rate.low, rate.high, rates.max() / rates.min() - 1)
            rows.append((*case, int(part["images"].sum()), len(part), *ends))
        columns = [*timing.SETTING, "images", "passes", name, f"{name}_low", f"{name}_high", "noise"]
        table = pd.DataFrame(rows, columns=columns).astype({f"{name}_low": float, f"{name}_high": float})
        return table.assign(steady=table["noise"] <= self.tolerance)

    def _build_metrics(
        self, latency: pd.DataFrame, end_to_end: pd.DataFrame, is_busy: bool, failure: Reason | None = None
    ) -> dict[str, Metric]:
        """Return the metrics of the files, and those of each runtime's first number of threads."""
        noise, metrics = float(latency["noise"].max()), {}
        reason = None if noise <= self.tolerance else Reason("noisy_timings")
        reason = Reason("busy_timings") if is_busy else reason
        first = latency.groupby("runtime")["threads"].transform("first")
        rows = latency[(latency["network"] == "run") & (latency["threads"] == first)]
        for __, row in rows.iterrows():
            prefix = "" if row["runtime"] == "torch" else f"{row['runtime']}/"
            for name, better in _TIMES.items():
                metrics[f"{prefix}{name}/b{row['batch']}"] = _build_metric(row, name, "round", better, reason)
        of_files = {_END_TO_END: Metric(None, 0, reason=failure)} if failure else {}
        for __, row in end_to_end.drop_duplicates("command").iterrows():
            doubt = reason or (None if row["steady"] else Reason("noisy_passes"))
            prefix = "" if row["command"] == "predict" else "torch/"
            of_files[f"{prefix}{_END_TO_END}"] = _build_metric(row, "images_per_second", "pass", True, doubt)
        rounds = int(latency["rounds"].min())
        noises = {"noise": Metric(noise, rounds, higher_is_better=False, floor=0.0)}
        return of_files | metrics | noises


def _compute_times(seconds: Floats, batch: int, weights: Floats) -> Floats:
    """Return the metrics of _TIMES for weights (B, N), (B, 3)."""
    milliseconds = 1000 * quantiles(seconds, (0.5, 0.95), weights)
    return np.column_stack([milliseconds, 1000 * batch / milliseconds[:, 0]])


def _build_metric(row: pd.Series, name: str, unit: str, better: bool, reason: Reason | None) -> Metric:
    low, high = row[[f"{name}_low", f"{name}_high"]].astype(float)
    units = int(row["rounds" if unit == "round" else "passes"])
    metric = metric_with_interval(row[name], low, high, units, f"bootstrap by {unit}", better)
    return replace(metric, reason=reason or metric.reason)
