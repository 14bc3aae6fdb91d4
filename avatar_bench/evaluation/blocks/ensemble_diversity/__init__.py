"""ensemble_diversity: how far runs give the same answers and make the same errors, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation import ensemble_figures as figures
from avatar_bench.evaluation.block import IntervalCompareBlock, align_predictions, group_by_recipe
from avatar_bench.i18n import _
from avatar_bench.metrics import agreement, stats
from avatar_bench.results.result import Metric, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
RunIndexPair = tuple[int, int]
_BETTER = {"agreement": None, "kappa": None, "disagreement": None, "double_fault": False}


@dataclass(kw_only=True)
class EnsembleDiversity(IntervalCompareBlock):
    """Measure how alike the answers and errors of runs are, pair by pair."""

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Give the means over all pairs with intervals, and the figures of each pair.

        Raise BlockError where the runs cannot be compared, GuardError where the class names of one are in the wrong
        order.
        """
        judged = align_predictions(runs, datasets)
        labels = [run.label for run in runs]
        first, places = judged[0], list(combinations(range(len(runs)), 2))
        result = Result("ensemble_diversity", datasets[0].name, len(first), first.classes)
        result.metrics = self._average_measures(judged, places)
        table = result.tables["pairs"] = _tabulate_pairs(judged, places, labels)
        result.tables["answers"] = _tabulate_predictions(judged, labels)
        numbers = {run.label: list(group_by_recipe(runs)).index(run.recipe) for run in runs}
        result.figures = _draw_figures(table, judged, numbers)
        result.warnings = _warn_of_undefined(table)
        return result

    def _average_measures(self, judged: Sequence[Predictions], places: Sequence[RunIndexPair]) -> dict[str, Metric]:
        first = judged[0]
        columns = [_build_pair_statistic(judged, pair) for pair in places]

        def statistic(weights: Floats) -> Floats:
            return _average_pairs([column(weights) for column in columns])

        better = {name: _BETTER.get(name) for name in agreement.MEASURES} | {
            "q_statistic": False,
            "error_correlation": False,
        }
        reason = _("no pair has it: it takes two runs that are both right and both wrong somewhere")
        found = self.bootstrap(agreement.MEASURES, statistic, first.groups, better, reason=reason)
        correlations = np.array([_correlate_probabilities(judged, pair) for pair in places])
        return found | {"probability_correlation": self._average_correlations(correlations, len(first))}

    @staticmethod
    def _average_correlations(values: Floats, n: int) -> Metric:
        if np.isnan(values).all():
            return Metric(None, n, higher_is_better=False, reason=_("all runs give the same probability throughout"))
        return Metric(float(np.nanmean(values)), n, higher_is_better=False)


def _build_pair_statistic(judged: Sequence[Predictions], pair: RunIndexPair) -> stats.Statistic:
    a, b = (judged[place].predicted for place in pair)
    targets, classes = judged[0].targets, len(judged[0].classes)
    return lambda weights: agreement.compute_measures((a, b), targets, classes, weights)


def _average_pairs(columns: Sequence[Floats]) -> Floats:
    """Give the mean over pairs, those that are NaN left out, NaN where all are."""
    values = np.stack(columns)
    known = ~np.isnan(values)
    total, none = np.where(known, values, 0.0).sum(axis=0), np.full(values.shape[1:], np.nan)
    return np.asarray(np.divide(total, known.sum(axis=0), out=none, where=known.any(axis=0)))


def _correlate_probabilities(judged: Sequence[Predictions], pair: RunIndexPair) -> float:
    ours, theirs = (one.probabilities[np.arange(len(one)), one.targets] for one in (judged[place] for place in pair))
    return agreement.probability_correlation(ours, theirs)


def _tabulate_pairs(
    judged: Sequence[Predictions], places: Sequence[RunIndexPair], labels: Sequence[str]
) -> pd.DataFrame:
    rows = []
    for a, b in places:
        values = _build_pair_statistic(judged, (a, b))(np.ones(len(judged[0])))
        right, other = judged[a].correct, judged[b].correct
        row: dict[str, object] = {"a": labels[a], "b": labels[b], "n": len(right)}
        row |= {"both_correct": int((right & other).sum()), "only_a_correct": int((right & ~other).sum())}
        row |= {"only_b_correct": int((other & ~right).sum()), "both_incorrect": int((~right & ~other).sum())}
        row |= dict(zip(agreement.MEASURES, values.tolist(), strict=True))
        rows.append(row | {"probability_correlation": _correlate_probabilities(judged, (a, b))})
    return pd.DataFrame(rows)


def _tabulate_predictions(judged: Sequence[Predictions], labels: Sequence[str]) -> pd.DataFrame:
    """Give each run's answer and its probability of the true class, a row an image and run."""
    frames = []
    for label, one in zip(labels, judged, strict=True):
        names = np.array(one.classes)
        columns = {"path": one.paths, "group": one.groups, "run": np.full(len(one), label)}
        columns |= {"target": names[one.targets], "prediction": names[one.predicted]}
        frames.append(pd.DataFrame(columns | {"prob_target": one.probabilities[np.arange(len(one)), one.targets]}))
    return pd.concat(frames, ignore_index=True)


def _draw_figures(table: pd.DataFrame, judged: Sequence[Predictions], numbers: dict[str, int]) -> dict[str, Figure]:
    labels = list(numbers)
    words = {
        "kappa": (_("Cohen's kappa of the answers"), True),
        "error_correlation": (_("correlation of the errors"), True),
        "double_fault": (_("share of images that both have wrong"), False),
    }
    drawn = {
        name: figures.draw_pairs(_build_matrix(table, name, labels), labels, label, signed)
        for name, (label, signed) in words.items()
    }
    accuracies = {label: float(one.correct.mean()) for label, one in zip(labels, judged, strict=True)}
    return drawn | {"kappa_error": figures.draw_kappa_error(table.dropna(subset=["kappa"]), accuracies, numbers)}


def _build_matrix(table: pd.DataFrame, name: str, labels: Sequence[str]) -> Floats:
    values = np.full((len(labels), len(labels)), np.nan)
    for row in table.to_dict("records"):
        a, b = labels.index(str(row["a"])), labels.index(str(row["b"]))
        values[a, b] = values[b, a] = row[name]
    return values


def _warn_of_undefined(table: pd.DataFrame) -> list[str]:
    said = []
    for name in agreement.MEASURES:
        missing = int(table[name].isna().sum())
        if 0 < missing < len(table):
            told = _(
                "Pairs without {name}: {n} of {all}; the mean leaves them out.", n=missing, all=len(table), name=name
            )
            said.append(told)
    return said
