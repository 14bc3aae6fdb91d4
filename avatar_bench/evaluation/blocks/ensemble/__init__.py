"""Block ensemble: gain from averaging several runs over the single best run on val."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.evaluation.block import align_predictions, labelled_rows
from avatar_bench.evaluation.blocks.ensemble import strategy_tables as tables
from avatar_bench.evaluation.blocks.ensemble import weight_fitting as fitting
from avatar_bench.evaluation.intervals import (
    DIFFERENCE,
    PROPORTION,
    IntervalOptions,
    bootstrap_metrics,
    compute_proportion,
)
from avatar_bench.evaluation.seeds import build_statistic_of_runs
from avatar_bench.metrics import calibration, classification, stats
from avatar_bench.metrics.averaging import STRATEGIES, AveragingWeights, average_probabilities, find_best_member
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs import ensembles
from avatar_bench.runs.ensemble_predictor import combine_predictions

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
SINGLE, SOUP = "single", "soup"
_FEW_IMAGES = 100  # with fewer held-out images, weights and choices are close to random


@dataclass(kw_only=True)
class EnsembleBlock(IntervalOptions):
    """Averages of several runs, each compared with the single run that is best on the held-out images."""

    version: ClassVar[int] = 2
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    soup: bool = option(
        True, help="also average the weights of runs of one architecture, which needs new forward passes"
    )

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute accuracy, gain and calibration of each strategy, each run's contribution, and the ensembles to save.

        Raise BlockError if the runs cannot be compared or have too few held-out images in common, GuardError if the
        class names of one are in the wrong order or if the set contains images that weights are fitted on.
        """
        held = fitting.read_held_out(runs, datasets)
        fitted = fitting.fit_strategies(held)  # before the evaluated set is used
        single = find_best_member(held.logits, held.targets)
        aligned = align_predictions(runs, datasets)
        plain = [one.uncalibrated for one in aligned]
        logits = np.stack([one.logits for one in plain])
        entries = {SINGLE: aligned[single]}
        entries |= {name: combine_predictions(plain, one.mix, one.temperature) for name, one in fitted.items()}
        mixes, fits = {name: one.mix for name, one in fitted.items()}, {name: one.fit for name, one in fitted.items()}
        soup = fitting.average_weights(runs, held) if self.soup else None
        if soup is not None:
            found = soup.run.predictions(datasets[0]).reorder(runs[0].classes)
            entries[SOUP] = found.take(labelled_rows(found, datasets[0]))
            shares = np.isin(np.arange(len(runs)), soup.averaged) / len(soup.averaged)
            mixes[SOUP], fits[SOUP] = AveragingWeights(shares, np.ones(len(runs))), soup.fit
        labels = [run.label for run in runs]
        result = Result("ensemble", datasets[0].name, len(aligned[0]), aligned[0].classes)
        result.metrics = self._compute_metrics(entries) | self._compute_contributions(labels, logits, aligned[0])
        result.tables = tables.build_tables(result.metrics, entries, mixes, fits, labels, held, single, 1 - self.level)
        result.arrays = _collect_arrays(runs, logits, aligned, held)
        result.warnings = _collect_warnings(result.tables["strategies"], len(held), labels[single], soup, runs)
        if left_out := [name for name, fit in fits.items() if not fit.is_applied]:
            result.warnings.append(Reason("temperature_not_applied", names=left_out))
        result.provenance = _build_provenance(runs, fitted, soup, single, aligned[0].classes)
        return result

    def _compute_metrics(self, entries: Mapping[str, Predictions]) -> dict[str, Metric]:
        """Compute the metrics of each strategy and of the single run; those of a missing soup are null."""
        used = [name for name in (*STRATEGIES, SINGLE, SOUP) if name in entries]
        others = [name for name in used if name != SINGLE]
        each, last = [entries[name] for name in used], [entries[name] for name in (*others, SINGLE)]
        units, floor = entries[SINGLE].units, 1 / len(entries[SINGLE].classes)
        accuracy = stats.build_mean_statistic(np.column_stack([one.correct for one in last]))
        losses = [calibration.image_losses(one.logits, one.targets, one.temperature) for one in each]
        found = {}
        for name, one in zip(used, each, strict=True):
            found[f"accuracy/{name}"] = compute_proportion(self, one.correct, units, floor=floor)
        for kind, names, statistic in (
            ("macro_f1", used, build_statistic_of_runs(each, classification.macro_f1)),
            ("gain", others, _subtract_last(accuracy)),
            ("gain_macro_f1", others, _subtract_last(build_statistic_of_runs(last, classification.macro_f1))),
        ):
            bounds = PROPORTION if kind == "macro_f1" else DIFFERENCE
            found |= bootstrap_metrics(self, [f"{kind}/{name}" for name in names], statistic, units, bounds=bounds)
        why = Reason("no_ece_interval")
        for name, one in zip(used, each, strict=True):
            found[f"ece/{name}"] = Metric(tables.compute_ece(one), len(one), higher_is_better=False, reason=why)
        mean_loss = stats.build_mean_statistic(np.column_stack(losses))
        loss_names = [f"nll/{name}" for name in used]
        found |= bootstrap_metrics(self, loss_names, mean_loss, units, higher_is_better=False, bounds=(0.0, np.inf))
        none = Reason("no_compatible_runs" if self.soup else "not_requested")
        for kind in () if SOUP in entries else ("accuracy", "macro_f1", "gain", "gain_macro_f1", "ece", "nll"):
            found[f"{kind}/{SOUP}"] = Metric(None, 0, higher_is_better=None, reason=none)
        return found

    def _compute_contributions(self, labels: Sequence[str], logits: Reals, aligned: Predictions) -> dict[str, Metric]:
        """Compute the accuracy that soft voting loses without each run in turn."""
        everyone = _vote(logits) == aligned.targets
        without = [_vote(np.delete(logits, run, axis=0)) == aligned.targets for run in range(len(logits))]
        columns = np.column_stack([everyone.astype(float) - right for right in without])
        names = [f"contribution/{label}" for label in labels]
        return bootstrap_metrics(self, names, stats.build_mean_statistic(columns), aligned.units, bounds=DIFFERENCE)


def _vote(logits: Reals) -> NDArray[np.intp]:
    mix = AveragingWeights(np.full(len(logits), 1 / len(logits)), np.ones(len(logits)))
    return np.asarray(average_probabilities(logits, mix).argmax(axis=1))


def _subtract_last(statistic: stats.SumStatistic) -> stats.SumStatistic:
    """Return the statistic of each column (B, K) minus the last."""
    return statistic.then(lambda found: found[:, :-1] - found[:, -1:])


def _collect_arrays(
    runs: Sequence[Run], logits: Reals, aligned: Sequence[Predictions], held: fitting.HeldOutPredictions
) -> dict[str, dict[str, NDArray[np.generic]]]:
    """Return the arrays from which every metric can be recomputed, with the label and recipe of each run."""
    first = aligned[0]
    own = np.array([one.temperature for one in aligned])
    members = {"logits": logits, "targets": first.targets, "groups": first.groups, "temperatures": own}
    members |= {"run": np.array([run.label for run in runs]), "recipe": np.array([run.recipe for run in runs])}
    return {"members": members, "calibration": {"logits": held.logits, "targets": held.targets, "groups": held.groups}}


def _collect_warnings(
    strategies: pd.DataFrame, held: int, single: str, soup: fitting.FittedSoup | None, runs: Sequence[Run]
) -> list[Reason]:
    is_better = strategies["significant"] & (strategies["gain"] > 0)
    found = [] if is_better.any() else [Reason("no_significant_gain", name=single)]
    found += [Reason("few_held_out", n=held)] if held < _FEW_IMAGES else []
    if soup is not None and len(soup.averaged) == 1:
        first = runs[soup.averaged[0]]
        found.append(Reason("soup_of_one", name=first.label, n=len(soup.candidates), backbone=first.card.backbone))
    return found


def _build_provenance(
    runs: Sequence[Run],
    fitted: Mapping[str, fitting.FittedMix],
    soup: fitting.FittedSoup | None,
    single: int,
    classes: tuple[str, ...],
) -> dict[str, Any]:
    describe = ensembles.describe_ensemble
    found = {
        name: describe("ensemble", runs, one.mix, one.temperature, classes, one.fit) for name, one in fitted.items()
    }
    provenance: dict[str, Any] = {"single": runs[single].label, "ensembles": found}
    if soup is not None:
        one = soup.run
        found[SOUP] = describe("soup", one.members, one.mix, one.fitted, one.classes, soup.fit)
        candidates, inside = ([runs[place].label for place in some] for some in (soup.candidates, soup.averaged))
        provenance["soup"] = {"backbone": one.card.backbone, "candidates": candidates, "kept": inside}
    return provenance
