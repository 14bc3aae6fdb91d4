"""Base classes of evaluation blocks, and the helpers that several blocks use."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.i18n import _
from avatar_bench.metrics import class_order, classification, stats
from avatar_bench.results.result import Metric

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.results.result import Result
    from avatar_bench.runs.run import Run


_ROUNDING = 1e-12  # differences between resamples that come from summing in another order


@dataclass(kw_only=True)
class BlockOptions:
    """Options of a block, with checks of their values."""

    def require(self, option: str, valid: bool, expected: str) -> None:
        """Raise ConfigError if an option's value is not valid; `expected` describes the valid values."""
        if not valid:
            name = type(self).__module__.rpartition(".")[2]
            raise ConfigError(f"block.{name}.{option}={getattr(self, option)}: expected {expected}.")


@dataclass(kw_only=True)
class IntervalOptions(BlockOptions):
    """Options of confidence intervals.

    `level` of the intervals, 0 to 1; `resamples` (100 or more) and `seed` of the bootstrap, which draws whole groups.
    """

    level: float = 0.95
    resamples: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        self.require("level", 0 < self.level < 1, "above 0 and below 1")
        self.require("resamples", self.resamples >= 100, "100 or more")
        self.require("seed", self.seed >= 0, "0 or more")

    def share(
        self,
        hits: NDArray[np.bool_],
        groups: NDArray[np.str_],
        unit: str = "group",
        higher_is_better: bool | None = True,
        floor: float | None = None,
    ) -> Metric:
        """Compute the proportion of True in `hits` (N,), N at least 1, with `stats.proportion_interval`."""
        ends = stats.proportion_interval(hits, groups, self.resamples, self.level, self.seed, unit)
        value = float(np.mean(hits))
        return Metric(value, ends.n, ends.low, ends.high, ends.method, higher_is_better, floor=floor)

    def bootstrap(
        self,
        names: Sequence[str],
        statistic: stats.Statistic,
        groups: ArrayLike,
        higher_is_better: bool | Mapping[str, bool | None] | None = True,
        floors: Mapping[str, float] | None = None,
        reason: str | None = None,
    ) -> dict[str, Metric]:
        """Compute metrics by name with bootstrap intervals; `statistic` maps weights (B, N) to (B, K) for K names.

        A metric that is NaN becomes null with `reason`. `higher_is_better` and `floors` may differ by name.
        """
        group = np.asarray(groups)
        values = statistic(np.ones((1, len(group))))[0]
        lows, highs = stats.bootstrap_interval(statistic, group, self.resamples, self.level, self.seed)
        better = higher_is_better if isinstance(higher_is_better, Mapping) else dict.fromkeys(names, higher_is_better)
        units, floor = len(np.unique(group)), floors or {}
        why = reason or _("the set has too few classes for this metric")
        return {
            name: metric_with_interval(
                value, low, high, units, "bootstrap by group", better[name], floor.get(name), why
            )
            for name, value, low, high in zip(names, values, lows, highs, strict=True)
        }


@dataclass(kw_only=True)
class RunBlock(BlockOptions):
    """Evaluation of one Run on one Dataset.

    A subclass adds its options as fields and uses no files, paths or config.
    """

    def evaluate(self, run: Run, dataset: Dataset) -> Result:
        """Compute the Result of this block; `run.predictions(dataset)` is cached, so repeated calls cost nothing."""
        raise NotImplementedError


@dataclass(kw_only=True)
class IntervalBlock(IntervalOptions, RunBlock):
    """Evaluation of a Run by metrics with confidence intervals."""


@dataclass(kw_only=True)
class CompareBlock(BlockOptions):
    """Comparison of several Runs, each on the Dataset at the same position; otherwise like a RunBlock.

    With `reads_results`, it reads the saved results of the runs and is computed again when they change. With
    `takes_ensembles`, it runs last and also compares the saved ensembles of the runs.
    """

    reads_results: ClassVar[bool] = False
    takes_ensembles: ClassVar[bool] = False

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the Result of this block; runs that differ only in seed have the same `recipe`."""
        raise NotImplementedError


@dataclass(kw_only=True)
class IntervalCompareBlock(IntervalOptions, CompareBlock):
    """Comparison of Runs by metrics with confidence intervals."""


@dataclass(kw_only=True)
class DatasetBlock(BlockOptions):
    """Evaluation of one Dataset without a network; otherwise like a RunBlock."""

    def audit(self, dataset: Dataset) -> Result:
        """Compute the Result of this block."""
        raise NotImplementedError


Block = RunBlock | CompareBlock | DatasetBlock


def align_predictions(runs: Sequence[Run], datasets: Sequence[Dataset], minimum: int = 2) -> list[Predictions]:
    """Return each run's predictions on the common set: images of known class, in the same order.

    Classes are in the first run's order, matched by name. Raise BlockError if there are fewer than `minimum` runs, if
    the runs are evaluated on different images or have different classes, or if no class is known; raise GuardError if
    the class names of a run are in the wrong order.
    """
    if len(runs) < minimum:
        given = ", ".join(run.label for run in runs)
        raise BlockError(
            f"This block compares at least {minimum} runs, but got {given or 'none'}.",
            "Pass several runs: 'ckpt=[RUN,RUN]', or ckpt=FOLDER that contains them.",
        )
    first = datasets[0]
    for run, dataset in zip(runs, datasets, strict=True):
        if dataset.fingerprint != first.fingerprint:
            raise BlockError(
                f"{run.label} and {runs[0].label} are evaluated on different images of {dataset.name}.",
                "Use one set: split=blind, data=manifest data.manifest=FILE, or runs with the same data.split.seed.",
            )
        if set(run.classes) != set(runs[0].classes):
            raise BlockError(
                f"{run.label} has the classes {', '.join(run.classes)}, {runs[0].label} {', '.join(runs[0].classes)}."
            )
    asked = [run.predictions(dataset) for run, dataset in zip(runs, datasets, strict=True)]
    for run, predictions in zip(runs, asked, strict=True):
        check_class_order(predictions, run.allow)
    found = [predictions.reorder(runs[0].classes) for predictions in asked]
    rows = labelled_rows(found[0], first)
    return [
        _align_rows(predictions, first, dataset, rows) for predictions, dataset in zip(found, datasets, strict=True)
    ]


def group_by_recipe(runs: Sequence[Run]) -> dict[str, list[int]]:
    """Return the positions of the runs of each recipe (runs that differ only in seed), in order of appearance."""
    found: dict[str, list[int]] = {}
    for position, run in enumerate(runs):
        found.setdefault(run.recipe, []).append(position)
    return found


def labelled_rows(predictions: Predictions, dataset: Dataset) -> NDArray[np.intp]:
    """Return the rows whose true class is known, (M,); raise BlockError if there are none."""
    rows = np.flatnonzero(predictions.targets >= 0)
    if len(rows) == 0:
        raise BlockError(f"{dataset.name}: no image has a known class, so nothing can be evaluated.")
    return rows


def metric_with_interval(
    value: float,
    low: float,
    high: float,
    n: int,
    interval: str,
    better: bool | None = True,
    floor: float | None = None,
    reason: str | None = None,
) -> Metric:
    """Return a metric with its resampled interval; without one, and with the reason, if the ends are equal or NaN.

    A value of NaN becomes null with `reason`.
    """
    if np.isnan(value):
        return Metric(None, n, higher_is_better=better, reason=reason, floor=floor)
    if not high - low > _ROUNDING:
        why = _("no interval: every resample has the same value")
        return Metric(float(value), n, higher_is_better=better, reason=why, floor=floor)
    return Metric(float(value), n, float(low), float(high), interval, better, floor=floor)


def warn_unlabelled(n: int, asked: int) -> list[str]:
    """Return a warning about the `n` images without a known class; nothing if all have one."""
    if not n:
        return []
    return [_("{n} of {all} images have no known class and are left out.", n=n, all=asked)]


def tabulate_predictions(predictions: Predictions) -> pd.DataFrame:
    """Return one row per image of known class: path, target, prediction, confidence, correct, source, group."""
    names = np.array(predictions.classes)
    return pd.DataFrame(
        {
            "path": predictions.paths,
            "target": names[predictions.targets],
            "prediction": names[predictions.predicted],
            "confidence": predictions.confidence,
            "correct": predictions.correct,
            "source": predictions.sources,
            "group": predictions.groups,
        }
    )


def check_class_order(predictions: Predictions, allow: Collection[str] = ()) -> None:
    """Raise GuardError if another order of the class names explains the predictions significantly better.

    Images without a known class are ignored; "permutation" in `allow` skips the check. See
    `stats.find_class_permutation` for the test.
    """
    if "permutation" in allow:
        return
    known = predictions.targets >= 0
    confusion = classification.confusion_matrix(
        predictions.targets[known], predictions.predicted[known], len(predictions.classes)
    )
    order = class_order.find_class_permutation(confusion)
    if order is not None:
        raise GuardError(*_explain_order(predictions.classes, order, confusion))


def _align_rows(predictions: Predictions, first: Dataset, dataset: Dataset, rows: NDArray[np.intp]) -> Predictions:
    """Return the rows of the first dataset; images are matched by content, label and group, as in fingerprints."""
    frames = [one.frame for one in (first, dataset)]
    keys = [frame["sha256"] + "\n" + frame["label"] + "\n" + frame["group"] for frame in frames]
    wanted, there = (np.argsort(key.to_numpy(dtype=np.str_), kind="stable") for key in keys)
    place = np.empty(len(first), dtype=np.intp)
    place[wanted] = there
    return predictions.take(place[rows])


def _explain_order(classes: tuple[str, ...], order: tuple[int, ...], confusion: NDArray[np.float64]) -> list[str]:
    total = confusion.sum()
    named, reordered = confusion.trace() / total, confusion[list(order), range(len(order))].sum() / total
    moved = [f"{classes[i]!r} is {classes[real]!r}" for i, real in enumerate(order) if i != real]
    return [
        f"The class names are in the wrong order: accuracy is {named:.1%} as given, {reordered:.1%} reordered.",
        f"By the network's predictions, {', '.join(moved)}.",
        "Check the labels of this set and the class order of the checkpoint, or pass allow=[permutation].",
    ]
