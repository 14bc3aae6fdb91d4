"""Block ensemble_diversity: agreement of predictions and errors between runs, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.block import align_predictions
from avatar_bench.evaluation.intervals import DIFFERENCE, IntervalOptions, bootstrap_metrics
from avatar_bench.metrics import agreement, stats
from avatar_bench.metrics.ratios import nan_mean
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
RunIndexPair = tuple[int, int]
_BETTER = dict.fromkeys(agreement.MEASURES, False) | {"agreement": None, "kappa": None, "disagreement": None}


@dataclass(kw_only=True)
class EnsembleDiversity(IntervalOptions):
    """Pairwise similarity of the predictions and errors of runs."""

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute the means over all pairs with intervals, and the measures of each pair.

        Raise BlockError if the runs cannot be compared, GuardError if the class names of one are in the wrong order.
        """
        aligned = align_predictions(runs, datasets)
        labels = [run.label for run in runs]
        first, places = aligned[0], list(combinations(range(len(runs)), 2))
        result = Result("ensemble_diversity", datasets[0].name, len(first), first.classes)
        result.metrics = self._average_measures(aligned, places)
        table = result.tables["pairs"] = _tabulate_pairs(aligned, places, labels)
        result.tables["answers"] = _tabulate_predictions(aligned, labels)
        result.arrays["runs"] = {"run": np.array(labels), "recipe": np.array([run.recipe for run in runs])}
        for name, n in table[list(agreement.MEASURES)].isna().sum().items():
            if 0 < n < len(table):
                result.warnings.append(Reason("undefined_pairs", name=name, n=int(n), all=len(table)))
        return result

    def _average_measures(self, aligned: Sequence[Predictions], places: Sequence[RunIndexPair]) -> dict[str, Metric]:
        columns = [_build_pair_statistic(aligned, pair) for pair in places]

        def statistic(weights: Floats) -> Floats:
            return nan_mean(np.stack([column(weights) for column in columns]), axis=0)

        units, reason = aligned[0].units, Reason("undefined_for_all_pairs")
        found = bootstrap_metrics(self, agreement.MEASURES, statistic, units, _BETTER, reason=reason, bounds=DIFFERENCE)
        mean = float(nan_mean(np.array([_correlate_probabilities(aligned, pair) for pair in places])))
        value, why = (None, Reason("constant_probabilities")) if np.isnan(mean) else (mean, None)
        return found | {"probability_correlation": Metric(value, len(units), higher_is_better=False, reason=why)}


def _build_pair_statistic(aligned: Sequence[Predictions], pair: RunIndexPair) -> stats.Statistic:
    a, b = (aligned[place].predicted for place in pair)
    targets, classes = aligned[0].targets, len(aligned[0].classes)
    return lambda weights: agreement.compute_measures((a, b), targets, classes, weights)


def _correlate_probabilities(aligned: Sequence[Predictions], pair: RunIndexPair) -> float:
    ours, theirs = (one.probabilities[np.arange(len(one)), one.targets] for one in (aligned[place] for place in pair))
    return agreement.probability_correlation(ours, theirs)


def _tabulate_pairs(
    aligned: Sequence[Predictions], places: Sequence[RunIndexPair], labels: Sequence[str]
) -> pd.DataFrame:
    rows = []
    for a, b in places:
        values = _build_pair_statistic(aligned, (a, b))(np.ones(len(aligned[0])))
        right, other = aligned[a].correct, aligned[b].correct
        counts = [int(some.sum()) for some in (right & other, right & ~other, other & ~right, ~right & ~other)]
        measures = (*values.tolist(), _correlate_probabilities(aligned, (a, b)))
        rows.append((labels[a], labels[b], len(right), *counts, *measures))
    columns = ["a", "b", "n", "both_correct", "only_a_correct", "only_b_correct", "both_incorrect"]
    return pd.DataFrame(rows, columns=[*columns, *agreement.MEASURES, "probability_correlation"])


def _tabulate_predictions(aligned: Sequence[Predictions], labels: Sequence[str]) -> pd.DataFrame:
    """Return each run's prediction and its probability of the true class, one row per image and run."""
    frames = []
    for label, one in zip(labels, aligned, strict=True):
        names = np.array(one.classes)
        columns = {"path": one.paths, "group": one.groups, "run": np.full(len(one), label)}
        columns |= {"target": names[one.targets], "prediction": names[one.predicted]}
        frames.append(pd.DataFrame(columns | {"prob_target": one.probabilities[np.arange(len(one)), one.targets]}))
    return pd.concat(frames, ignore_index=True)
