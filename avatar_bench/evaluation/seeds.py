"""Accuracy of recipes trained with one or several seeds, with intervals over seeds and sources or groups."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.evaluation.intervals import (
    PROPORTION,
    IntervalOptions,
    compute_proportion,
    mark_single_source,
    state_units,
)
from avatar_bench.metrics import classification, paired_tests, stats
from avatar_bench.metrics.units import Units
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric
from avatar_bench.runs.labels import describe_recipes_without

if TYPE_CHECKING:
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Recipes:
    """Runs of each recipe by name, and which images each run classifies correctly.

    `right` (runs, N) is bool, `units` are those of the N images, `seeds` (runs,) those of training.
    """

    members: Mapping[str, Sequence[int]]
    right: NDArray[np.bool_]
    units: Units
    seeds: tuple[int, ...]

    @classmethod
    def of(cls, members: Mapping[str, Sequence[int]], runs: Sequence[Run], answers: Sequence[Predictions]) -> Recipes:
        """Build from the runs' predictions on the same images in the same order."""
        right = np.stack([predictions.correct for predictions in answers])
        units = [predictions.units for predictions in answers]
        first_units = units[0] if all(units_of_run.sources is not None for units_of_run in units) else units[0].these
        return cls(members, right, first_units, tuple(run.seed for run in runs))

    @property
    def names(self) -> list[str]:
        """Return the names of the recipes, in order."""
        return list(self.members)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Count the runs of each recipe that classify each image correctly, (R, N)."""
        return np.stack([self.right[list(runs)].sum(axis=0) for runs in self.members.values()])

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """Count the runs of each recipe, (R,)."""
        return np.array([len(runs) for runs in self.members.values()])

    @property
    def seeds_by_recipe(self) -> dict[str, list[int]]:
        """Return the seeds of each recipe's runs, by name."""
        return {name: [self.seeds[run] for run in runs] for name, runs in self.members.items()}

    def draw(self, block: IntervalOptions, statistic: stats.Statistic | None = None) -> Floats:
        """Compute a metric of each recipe, by default accuracy, in each resample of seeds and units, (B, R).

        `statistic` maps weights (B, N) to a metric of each run, (B, runs).
        """
        how = statistic or stats.build_mean_statistic(self.right.T)
        runs = list(self.members.values())
        units = self.units.usable
        return paired_tests.resample_groups_and_seeds(how, units, runs, self.seeds, block.resamples, block.seed)

    def find_ends(
        self, value: float, drawn: Floats, level: float, bounds: stats.Bounds = PROPORTION
    ) -> tuple[float, float]:
        """Return the interval of a value from its resamples (B,), widened for few units; NaN if they all agree."""
        low, high = stats.percentiles(drawn, level)
        units = self.units.usable
        if not low < high:
            return math.nan, math.nan
        low, high = stats.widen_for_few_units(low, high, value, units.count, units.strata_count, level)
        return max(float(low), float(np.min(bounds[0]))), min(float(high), float(np.max(bounds[1])))

    @property
    def method(self) -> str:
        """Return the name of the bootstrap of a single run."""
        return f"bootstrap by {self.unit}"

    @property
    def unit(self) -> str:
        """Return what is resampled: "source" or "group"."""
        return self.units.usable.drawn

    def state(self, metric: Metric) -> Metric:
        """Return a metric that states its units, or why it speaks for these sources."""
        return mark_single_source(state_units(metric, self.units.usable), self.units)

    def accuracies(self, block: IntervalOptions, drawn: Floats) -> dict[str, Metric]:
        """Compute the mean accuracy of each recipe over its runs."""
        return {
            name: compute_proportion(block, self.right[runs[0]], self.units)
            if len(runs) == 1
            else self._average_over_seeds(block, float(self.right[list(runs)].mean()), drawn[:, index])
            for index, (name, runs) in enumerate(self.members.items())
        }

    def _average_over_seeds(self, block: IntervalOptions, value: float, drawn: Floats) -> Metric:
        (low, high), units = self.find_ends(value, drawn, block.level), self.units.usable
        method = f"bootstrap by seed and {self.unit}"
        if math.isnan(low):  # as in stats.proportion_interval: identical resamples carry no information
            (low, high), method = stats.wilson(units.count * value, units.count, block.level), f"wilson by {self.unit}"
        return self.state(Metric(float(value), len(units), low, high, method))


def build_statistic_of_runs(
    predictions: Sequence[Predictions], metric: Callable[[Floats], Floats]
) -> stats.SumStatistic:
    """Return a function that maps weights (B, N) to a metric of the confusion matrix of each run, (B, runs)."""
    pairs = [(of_run.targets, of_run.predicted) for of_run in predictions]
    return classification.build_confusion_statistic(pairs, len(predictions[0].classes), metric)


def warn_about_seeds(seeds: Mapping[str, Sequence[int]]) -> list[Reason]:
    """Return warnings about recipes with one run, whose intervals ignore other seeds, and about repeated seeds."""
    single = [name for name, seeds_of_recipe in seeds.items() if len(seeds_of_recipe) == 1]
    twice = [name for name, seeds_of_recipe in seeds.items() if len(set(seeds_of_recipe)) < len(seeds_of_recipe)]
    every = bool(single) and len(single) == len(seeds)
    reasons = [Reason("each_has_one_seed") if every else Reason("one_seed", names=single)] if single else []
    return reasons + ([Reason("repeated_seeds", names=twice)] if twice else [])


def group_across_options(runs: Sequence[Run], *options: str) -> dict[str, list[int]]:
    """Return by name the positions of runs that differ only in seed and some options, such as mode.shots.

    Recipes that differ in too many options to name them get the words that the folders of their runs share.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(
        describe_recipes_without(options, [run.record for run in runs], [run.config for run in runs])
    ):
        groups.setdefault(key, []).append(index)
    names = [name or runs[places[0]].recipe for (__, name), places in groups.items()]
    for name in {name for name in names if names.count(name) > 1}:
        alike = [row for row, other in enumerate(names) if other == name]
        words = [_find_shared_words([runs[index] for index in list(groups.values())[row]]) for row in alike]
        if len(set(words)) < len(words):
            words = [f"({number})" for number in range(1, len(words) + 1)]
        for row, word in zip(alike, words, strict=True):
            names[row] = f"{name} {word}".strip()
    return dict(zip(names, groups.values(), strict=True))


def weigh_doublings(numbers: ArrayLike) -> Floats:
    """Return the weights of values at these numbers that yield the slope of a least-squares line over their log2."""
    centred = np.log2(np.asarray(numbers, dtype=np.float64))
    centred -= centred.mean()
    return np.asarray(centred / (centred**2).sum())


def _find_shared_words(runs: Sequence[Run]) -> str:
    """Return the parts of the folders' names, divided by "-", that all runs share; "" without folders."""
    folders = [getattr(run, "folder", None) for run in runs]
    parts = [folder.name.split("-") if folder else [] for folder in folders]
    return "-".join(word for word in parts[0] if all(word in other for other in parts))
