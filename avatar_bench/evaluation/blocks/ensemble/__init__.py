"""Block ensemble: gain from averaging several runs over the single best run on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.evaluation.block import align_predictions, labelled_rows
from avatar_bench.evaluation.blocks.ensemble import strategy_tables as tables
from avatar_bench.evaluation.blocks.ensemble.weight_fitting import (
    FittedMix,
    FittedSoup,
    HeldOutPredictions,
    average_weights,
    fit_strategies,
    read_held_out,
)
from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics, compute_proportion
from avatar_bench.metrics import calibration, classification, stats
from avatar_bench.metrics.averaging import STRATEGIES, AveragingWeights, average_probabilities, find_best_member
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs import ensembles

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
SINGLE, SOUP = "single", "soup"
_METRIC_KINDS = ("accuracy", "macro_f1", "gain", "gain_macro_f1", "ece", "nll")
_FEW_IMAGES = 100  # with fewer held-out images, weights and choices are close to random


@dataclass(kw_only=True)
class EnsembleBlock(IntervalOptions):
    """Averages of several runs, each compared with the single run that is best on the held-out images."""

    version: ClassVar[int] = 1

    soup: bool = option(
        True, help="also average the weights of runs of one architecture, which needs new forward passes"
    )

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute accuracy, gain and calibration of each strategy, each run's contribution, and the ensembles to save.

        Raise BlockError if the runs cannot be compared or have too few held-out images in common, GuardError if the
        class names of one are in the wrong order or if the set contains images that weights are fitted on.
        """
        held = read_held_out(runs, datasets)
        fitted = fit_strategies(held)  # before the evaluated set is used
        single = find_best_member(held.logits, held.targets)
        aligned = align_predictions(runs, datasets)
        logits = np.stack([one.logits for one in aligned])
        entries = {SINGLE: aligned[single]} | {
            name: ensembles.combine_predictions(aligned, recipe.mix, recipe.temperature)
            for name, recipe in fitted.items()
        }
        soup = average_weights(runs, held) if self.soup else None
        if soup is not None:
            found = soup.run.predictions(datasets[0]).reorder(runs[0].classes)
            entries[SOUP] = found.take(labelled_rows(found, datasets[0]))
        labels = [run.label for run in runs]
        result = Result("ensemble", datasets[0].name, len(aligned[0]), aligned[0].classes)
        result.metrics = self._compute_metrics(entries) | self._compute_contributions(labels, logits, aligned[0])
        mixes = {name: recipe.mix for name, recipe in fitted.items()} | _build_soup_mix(soup, len(runs))
        result.tables = tables.build_tables(result.metrics, entries, mixes, labels, held, single)
        result.arrays = _collect_arrays(runs, logits, aligned, held)
        result.warnings = _collect_warnings(result.metrics, len(held), labels[single], soup, runs)
        result.provenance = _build_provenance(runs, fitted, soup, single, aligned[0].classes)
        return result

    def _compute_metrics(self, entries: Mapping[str, Predictions]) -> dict[str, Metric]:
        """Compute the metrics of each strategy and of the single run; those of a missing soup are null."""
        first, found = entries[SINGLE], {}
        names = [name for name in (*STRATEGIES, SINGLE, SOUP) if name in entries]
        for name in names:
            floor = 1 / len(first.classes)
            found[f"accuracy/{name}"] = compute_proportion(self, entries[name].correct, first.groups, floor=floor)
        for kind in _METRIC_KINDS[1:]:
            found |= self._compute_kind(kind, {name: entries[name] for name in names})
        if SOUP not in entries:
            nothing = Reason("no_compatible_runs" if self.soup else "not_requested")
            found |= {
                f"{kind}/{SOUP}": Metric(None, 0, higher_is_better=None, reason=nothing) for kind in _METRIC_KINDS
            }
        return found

    def _compute_kind(self, kind: str, entries: Mapping[str, Predictions]) -> dict[str, Metric]:
        groups = entries[SINGLE].groups
        if kind == "ece":
            reason = Reason("no_ece_interval")
            return {
                f"ece/{name}": Metric(tables.compute_ece(one), len(one), higher_is_better=False, reason=reason)
                for name, one in entries.items()
            }
        if kind in ("gain", "gain_macro_f1"):
            others = {name: one for name, one in entries.items() if name != SINGLE}
            reached = (_build_accuracy_statistic if kind == "gain" else _build_macro_f1_statistic)(
                [*others.values(), entries[SINGLE]]
            )
            return bootstrap_metrics(self, [f"{kind}/{name}" for name in others], _subtract_last(reached), groups)
        names = [f"{kind}/{name}" for name in entries]
        if kind == "nll":
            losses = [calibration.image_losses(one.logits, one.targets, one.temperature) for one in entries.values()]
            return bootstrap_metrics(
                self, names, stats.build_mean_statistic(np.column_stack(losses)), groups, higher_is_better=False
            )
        return bootstrap_metrics(self, names, _build_macro_f1_statistic(list(entries.values())), groups)

    def _compute_contributions(self, labels: Sequence[str], logits: Reals, aligned: Predictions) -> dict[str, Metric]:
        """Compute the accuracy that soft voting loses without each run in turn."""
        everyone = _vote(logits) == aligned.targets
        without = [_vote(np.delete(logits, run, axis=0)) == aligned.targets for run in range(len(logits))]
        columns = np.column_stack([everyone.astype(float) - right for right in without])
        return bootstrap_metrics(
            self, [f"contribution/{label}" for label in labels], stats.build_mean_statistic(columns), aligned.groups
        )


def _vote(logits: Reals) -> NDArray[np.intp]:
    mix = AveragingWeights(np.full(len(logits), 1 / len(logits)), np.ones(len(logits)))
    return np.asarray(average_probabilities(logits, mix).argmax(axis=1))


def _build_accuracy_statistic(entries: Sequence[Predictions]) -> stats.Statistic:
    return stats.build_mean_statistic(np.column_stack([one.correct for one in entries]).astype(float))


def _subtract_last(statistic: stats.Statistic) -> stats.Statistic:
    """Return a function of each column (B, K) minus the last."""

    def differences(weights: Floats) -> Floats:
        found = statistic(weights)
        return found[:, :-1] - found[:, -1:]

    return differences


def _build_macro_f1_statistic(entries: Sequence[Predictions]) -> stats.Statistic:
    size = len(entries[0].classes)

    def statistic(weights: Floats) -> Floats:
        counts = [classification.confusion_matrix(one.targets, one.predicted, size, weights) for one in entries]
        return np.column_stack([classification.macro_f1(one) for one in counts])

    return statistic


def _build_soup_mix(soup: FittedSoup | None, runs: int) -> dict[str, AveragingWeights]:
    if soup is None:
        return {}
    weights = np.zeros(runs)
    weights[soup.averaged] = 1 / len(soup.averaged)
    return {SOUP: AveragingWeights(weights, np.ones(runs))}


def _collect_arrays(
    runs: Sequence[Run], logits: Reals, aligned: Sequence[Predictions], held: HeldOutPredictions
) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Return the arrays from which every metric can be recomputed, with the label and recipe of each run."""
    first = aligned[0]
    own = np.array([one.temperature for one in aligned])
    members = {"logits": logits, "targets": first.targets, "groups": first.groups, "temperatures": own}
    members |= {"run": np.array([run.label for run in runs]), "recipe": np.array([run.recipe for run in runs])}
    return {"members": members, "calibration": {"logits": held.logits, "targets": held.targets}}


def _collect_warnings(
    metrics: Mapping[str, Metric], held: int, single: str, soup: FittedSoup | None, runs: Sequence[Run]
) -> list[Reason]:
    lows = [metric.low for name, metric in metrics.items() if name.startswith("gain/") and metric.low is not None]
    found = [] if max(lows, default=0) > 0 else [Reason("no_significant_gain", name=single)]
    found += [Reason("few_held_out", n=held)] if held < _FEW_IMAGES else []
    if soup is not None and len(soup.averaged) == 1:
        first = runs[soup.averaged[0]]
        found.append(Reason("soup_of_one", name=first.label, n=len(soup.candidates), backbone=first.card.backbone))
    return found


def _build_provenance(
    runs: Sequence[Run], fitted: Mapping[str, FittedMix], soup: FittedSoup | None, single: int, classes: tuple[str, ...]
) -> dict[str, Any]:
    found = {
        name: ensembles.describe_ensemble("ensemble", runs, recipe.mix, recipe.temperature, classes)
        for name, recipe in fitted.items()
    }
    provenance: dict[str, Any] = {"single": runs[single].label, "ensembles": found}
    if soup is not None:
        averaged = soup.run
        found[SOUP] = ensembles.describe_ensemble(
            "soup", averaged.members, averaged.mix, averaged.fitted, averaged.classes
        )
        candidates, inside = ([runs[place].label for place in some] for some in (soup.candidates, soup.averaged))
        provenance["soup"] = {"backbone": averaged.card.backbone, "candidates": candidates, "kept": inside}
    return provenance
