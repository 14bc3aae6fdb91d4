"""ensemble: gain from averaging several runs over the single best run on val, and how alike their errors are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.config.options import option
from avatar_bench.errors import BlockError
from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import align_predictions, labelled_rows, make_columns, tabulate_predictions
from avatar_bench.evaluation.blocks.ensemble import weight_fitting as fitting
from avatar_bench.evaluation.blocks.ensemble.weight_fitting import FittedMix, HeldOutPredictions
from avatar_bench.evaluation.intervals import (
    DIFFERENCE,
    PROPORTION,
    IntervalOptions,
    bootstrap_metrics,
    compute_proportion,
)
from avatar_bench.evaluation.seeds import build_statistic_of_runs
from avatar_bench.inference.network_predictor import combine_predictions
from avatar_bench.metrics import agreement, calibration, classification, paired_tests, stats
from avatar_bench.metrics.agreement import MEASURES
from avatar_bench.metrics.averaging import STRATEGIES, AveragingWeights, average_probabilities, find_best_member
from avatar_bench.metrics.conformal import select_targets
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric, Result
from avatar_bench.runs.ensembles import describe_ensemble

if TYPE_CHECKING:
    from avatar_bench.data.dataset import Dataset
    from avatar_bench.results.predictions import Predictions
    from avatar_bench.runs.run import Run

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
SINGLE, SOUP = "single", "soup"
_BETTER = dict.fromkeys(MEASURES, False) | {"agreement": None, "kappa": None, "disagreement": None}
_FEW_IMAGES = 100  # with fewer held-out images, weights and choices are close to random


@dataclass(kw_only=True)
class EnsembleBlock(IntervalOptions):
    """Averages of several runs, compared with the single run that is best on the held-out images, and pairs of runs."""

    version: ClassVar[int] = 4
    needs: ClassVar[tuple[str, ...]] = ("predictions", "decisions")

    soup: bool = option(
        True, help="also average the weights of runs of one architecture, which needs new forward passes"
    )

    def compare(self, runs: Sequence[Run], datasets: Sequence[Dataset]) -> Result:
        """Compute how alike the runs are, and, where they share held-out images, strategies and ensembles to save."""
        held, why = None, ""
        try:
            held = fitting.read_held_out(runs, datasets)
        except BlockError as error:  # pairs of runs need no weights
            why = " ".join(error.lines)
        aligned = align_predictions(runs, datasets)
        labels = [run.label for run in runs]
        result = Result("ensemble", datasets[0].name, len(aligned[0]), aligned[0].classes)
        if held is None:
            result.warnings.append(Reason("not_fitted", why=why))
        else:
            self._compare_strategies(result, runs, datasets[0], aligned, held)
        pairs = result.tables["pairs"] = _tabulate_pairs(aligned, labels)
        result.metrics |= self._average_measures(aligned, pairs)
        result.tables["answers"] = _tabulate_answers(aligned, labels)
        result.arrays["runs"] = {"run": np.array(labels), "recipe": np.array([run.recipe for run in runs])}
        for name, n in pairs[list(MEASURES)].isna().sum().items():
            if 0 < n < len(pairs):
                result.warnings.append(Reason("undefined_pairs", name=name, n=int(n), all=len(pairs)))
        return result

    def _compare_strategies(
        self,
        result: Result,
        runs: Sequence[Run],
        dataset: Dataset,
        aligned: Sequence[Predictions],
        held: fitting.HeldOutPredictions,
    ) -> None:
        """Add accuracy, gain and calibration of each strategy, each run's contribution, and the ensembles to save."""
        single = find_best_member(held.logits, held.targets)
        labels = [run.label for run in runs]
        plain = [merged.uncalibrated for merged in aligned]
        logits = np.stack([merged.logits for merged in plain])
        fitted = fitting.fit_strategies(held)
        entries = {SINGLE: aligned[single]}
        entries |= {name: combine_predictions(plain, merged.mix, merged.temperature) for name, merged in fitted.items()}
        described = {
            name: describe_ensemble("ensemble", runs, merged.mix, merged.temperature, result.classes, merged.fit)
            for name, merged in fitted.items()
        }
        result.provenance = {"single": labels[single], "ensembles": described}
        soup = fitting.average_weights(runs, held) if self.soup else None
        if soup is not None:
            merged = soup.run
            predictions = merged.predictions(dataset).reorder(runs[0].classes)
            entries[SOUP] = predictions.take(labelled_rows(predictions, dataset))
            shares = np.isin(np.arange(len(runs)), soup.averaged) / len(soup.averaged)
            fitted[SOUP] = fitting.FittedMix(AveragingWeights(shares, np.ones(len(runs))), soup.fit)
            described[SOUP] = describe_ensemble(
                "soup", merged.members, merged.mix, merged.fitted, merged.classes, soup.fit
            )
            candidates, inside = ([labels[index] for index in some] for some in (soup.candidates, soup.averaged))
            result.provenance["soup"] = {"backbone": merged.card.backbone, "candidates": candidates, "kept": inside}
        result.metrics = self._compute_metrics(entries) | self._compute_contributions(labels, logits, aligned[0])
        result.tables = _build_tables(result.metrics, entries, fitted, labels, held, single, 1 - self.level)
        first, names = aligned[0], {"run": np.array(labels), "recipe": np.array([run.recipe for run in runs])}
        temperatures = np.array([merged.temperature for merged in aligned])
        members = {"logits": logits, "targets": first.targets, "groups": first.groups, "temperatures": temperatures}
        calibrating = {"logits": held.logits, "targets": held.targets, "groups": held.groups}
        result.arrays = {"members": members | names, "calibration": calibrating}
        strategies = result.tables["strategies"]
        if not (strategies["significant"] & (strategies["gain"] > 0)).any():
            result.warnings.append(Reason("no_significant_gain", name=labels[single]))
        if len(held.dataset) < _FEW_IMAGES:
            result.warnings.append(Reason("few_held_out", n=len(held.dataset)))
        if soup is not None and len(soup.averaged) == 1:
            about = {"name": inside[0], "n": len(candidates), "backbone": soup.run.card.backbone}
            result.warnings.append(Reason("soup_of_one", **about))
        if left_out := [name for name, merged in fitted.items() if not merged.fit.is_applied]:
            result.warnings.append(Reason("temperature_not_applied", names=left_out))

    def _average_measures(self, aligned: Sequence[Predictions], pairs: pd.DataFrame) -> dict[str, Metric]:
        """Compute the mean of each measure over all `pairs` of runs, with intervals."""
        columns = [_build_pair_statistic(*two) for two in combinations(aligned, 2)]

        def statistic(weights: Floats) -> Floats:
            return stats.nan_mean(np.stack([column(weights) for column in columns]), axis=0)

        units, none = aligned[0].units, Reason("undefined_for_all_pairs")
        metrics = bootstrap_metrics(self, MEASURES, statistic, units, _BETTER, reason=none, bounds=DIFFERENCE)
        mean = float(stats.nan_mean(pairs["probability_correlation"].to_numpy()))
        value, reason = (None, Reason("constant_probabilities")) if np.isnan(mean) else (mean, None)
        return metrics | {"probability_correlation": Metric(value, len(units), higher_is_better=False, reason=reason)}

    def _compute_metrics(self, entries: Mapping[str, Predictions]) -> dict[str, Metric]:
        """Compute the metrics of each strategy and of the single run; those of a missing soup are null."""
        used = [name for name in (*STRATEGIES, SINGLE, SOUP) if name in entries]
        others = [name for name in used if name != SINGLE]
        evaluated, last = [entries[name] for name in used], [entries[name] for name in (*others, SINGLE)]
        units, floor = entries[SINGLE].units, 1 / len(entries[SINGLE].classes)
        accuracy = stats.build_mean_statistic(np.column_stack([item.correct for item in last]))
        losses = [calibration.image_losses(item.logits, item.targets, item.temperature) for item in evaluated]
        metrics = {}
        for name, item in zip(used, evaluated, strict=True):
            metrics[f"accuracy/{name}"] = compute_proportion(self, item.correct, units, floor=floor)
        for kind, names, statistic in (
            ("macro_f1", used, build_statistic_of_runs(evaluated, classification.macro_f1)),
            ("gain", others, _subtract_last(accuracy)),
            ("gain_macro_f1", others, _subtract_last(build_statistic_of_runs(last, classification.macro_f1))),
        ):
            bounds = PROPORTION if kind == "macro_f1" else DIFFERENCE
            metrics |= bootstrap_metrics(self, [f"{kind}/{name}" for name in names], statistic, units, bounds=bounds)
        why = Reason("no_ece_interval")
        for name, item in zip(used, evaluated, strict=True):
            metrics[f"ece/{name}"] = Metric(_compute_ece(item), len(item), higher_is_better=False, reason=why)
        mean_loss = stats.build_mean_statistic(np.column_stack(losses))
        loss_names = [f"nll/{name}" for name in used]
        metrics |= bootstrap_metrics(self, loss_names, mean_loss, units, higher_is_better=False, bounds=(0.0, np.inf))
        none = Reason("no_compatible_runs" if self.soup else "not_requested")
        for kind in () if SOUP in entries else ("accuracy", "macro_f1", "gain", "gain_macro_f1", "ece", "nll"):
            metrics[f"{kind}/{SOUP}"] = Metric(None, 0, higher_is_better=None, reason=none)
        return metrics

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
    return statistic.then(lambda values: values[:, :-1] - values[:, -1:])


_NONE = Metric(None, 0, reason=Reason("not_requested"))  # such as the gain of the single run


def _build_tables(
    metrics: Mapping[str, Metric],
    entries: Mapping[str, Predictions],
    fitted: Mapping[str, FittedMix],
    labels: Sequence[str],
    held: HeldOutPredictions,
    single: int,
    alpha: float,
) -> dict[str, pd.DataFrame]:
    """Build the tables by name; `entries` are the predictions of the single run, first, and of each strategy."""
    weights = [
        (name, label, weight, temperature)
        for name, (mix, _) in fitted.items()
        for label, weight, temperature in zip(labels, mix.weights, mix.temperatures, strict=True)
    ]
    predictions = {name: tabulate_predictions(entry, with_probabilities=True) for name, entry in entries.items()}
    for name, table in predictions.items():
        table.insert(1, "strategy", name)
    return {
        "strategies": _tabulate_strategies(metrics, entries, fitted, alpha),
        "weights": pd.DataFrame(weights, columns=["strategy", "run", "weight", "temperature"]),
        "members": _tabulate_members(metrics, labels, held, fitted["scaled_vote"].mix.temperatures, single),
        "predictions": pd.concat(predictions.values(), ignore_index=True),
    }


def _compute_ece(predictions: Predictions) -> float:
    return float(calibration.ece(predictions.confidence, predictions.correct))


def _tabulate_pairs(aligned: Sequence[Predictions], labels: Sequence[str]) -> pd.DataFrame:
    """Return the measures of each pair of runs, NaN where one is undefined."""
    rows = []
    for (a, first), (b, second) in combinations(zip(labels, aligned, strict=True), 2):
        values = _build_pair_statistic(first, second)(np.ones(len(first)))
        right, other = first.correct, second.correct
        counts = [int(some.sum()) for some in (right & other, right & ~other, other & ~right, ~right & ~other)]
        shares = (select_targets(predictions.probabilities, predictions.targets) for predictions in (first, second))
        rows.append((a, b, len(right), *counts, *values.tolist(), agreement.probability_correlation(*shares)))
    columns = ["a", "b", "n", "both_correct", "only_a_correct", "only_b_correct", "both_incorrect"]
    return pd.DataFrame(rows, columns=[*columns, *agreement.MEASURES, "probability_correlation"])


def _tabulate_answers(aligned: Sequence[Predictions], labels: Sequence[str]) -> pd.DataFrame:
    """Return each run's prediction and its probability of the true class, one row per image and run."""
    columns = ["path", "group", "run", "target", "prediction", "prob_target"]
    frames = [
        tabulate_predictions(item).assign(run=label, prob_target=select_targets(item.probabilities, item.targets))[
            columns
        ]
        for label, item in zip(labels, aligned, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def _build_pair_statistic(a: Predictions, b: Predictions) -> stats.Statistic:
    """Return the measures of two runs on the same images as a statistic."""
    return lambda weights: agreement.compute_measures((a.predicted, b.predicted), a.targets, len(a.classes), weights)


def _tabulate_strategies(
    metrics: Mapping[str, Metric],
    entries: Mapping[str, Predictions],
    fitted: Mapping[str, FittedMix],
    alpha: float,
) -> pd.DataFrame:
    first, *others = entries.values()
    rows, single = [], first.correct
    for name, entry in entries.items():
        size, fit = (int((fitted[name].mix.weights > 0).sum()), fitted[name].fit) if name in fitted else (1, None)
        row: dict[str, object] = {"strategy": name, "members": size, "n": len(entry)}
        for kind in ("accuracy", "macro_f1", "gain", "gain_macro_f1", "nll"):
            metric = metrics.get(f"{kind}/{name}", _NONE)
            row |= make_columns(kind, metric, f"{kind}_")
        only = {"only_strategy_correct": entry.correct & ~single, "only_single_correct": single & ~entry.correct}
        row |= {key: int(images.sum()) for key, images in only.items()}
        row |= {"ece": _compute_ece(entry), "temperature": entry.temperature}
        rows.append(row | {f"temperature_{end}": getattr(fit, end, None) for end in ("fitted", "low", "high")})
    table = pd.DataFrame(rows)
    units = first.units.usable
    gains = [entry.correct.astype(int) - single for entry in others]
    tested = pd.DataFrame([recipe_pairs.test_gains(gain, units) for gain in gains])
    tests = np.column_stack([tested["p"], paired_tests.holm(tested["p"]), tested["p_these_sources"]])
    table[["p", "p_holm", "p_these_sources"]] = np.vstack([np.full(3, np.nan), tests])
    beyond = (table["gain_low"].astype(float) > 0) | (table["gain_high"].astype(float) < 0)
    for column, value in units.inference.items():
        table[column] = value
    return table.assign(significant=(table["p_holm"] < alpha) & beyond)


def _tabulate_members(
    metrics: Mapping[str, Metric],
    labels: Sequence[str],
    held: HeldOutPredictions,
    temperatures: NDArray[np.float64],
    single: int,
) -> pd.DataFrame:
    rows = []
    for index, (label, member) in enumerate(zip(labels, held.predictions, strict=True)):
        raw = member.uncalibrated
        ece, raw_ece = (_compute_ece(replace(raw, temperature=value)) for value in (temperatures[index], 1.0))
        row = {"run": label, "chosen": index == single, "calibration_n": len(raw)}
        row |= {"calibration_accuracy": float(raw.correct.mean()), "calibration_ece": ece}
        row |= {"calibration_raw_ece": raw_ece, "calibration_raw_nll": calibration.nll(raw.logits, raw.targets)}
        rows.append(row | make_columns("contribution", metrics[f"contribution/{label}"], "contribution_"))
    return pd.DataFrame(rows)
