"""Tables of the block ensemble: its strategies and their members, and pairs of runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation import recipe_pairs
from avatar_bench.evaluation.block import make_columns, tabulate_predictions
from avatar_bench.evaluation.blocks.ensemble.weight_fitting import FittedMix, HeldOutPredictions
from avatar_bench.metrics import agreement, calibration, paired_tests, stats
from avatar_bench.metrics.conformal import select_targets
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

_NONE = Metric(None, 0, reason=Reason("not_requested"))  # such as the gain of the single run


def build_tables(
    metrics: Mapping[str, Metric],
    entries: Mapping[str, Predictions],
    fitted: Mapping[str, FittedMix],
    labels: Sequence[str],
    held: HeldOutPredictions,
    single: int,
    alpha: float,
) -> dict[str, pd.DataFrame]:
    """Build the tables by name; `entries` are the predictions of the single run, first, and of each strategy.

    `fitted` are the weights and the temperature of each strategy. `alpha` is the significance level of the gains, after
    Holm's correction for all strategies.
    """
    weights = [
        (name, label, weight, temperature)
        for name, (mix, _) in fitted.items()
        for label, weight, temperature in zip(labels, mix.weights, mix.temperatures, strict=True)
    ]
    predictions = {name: tabulate_predictions(one, with_probabilities=True) for name, one in entries.items()}
    for name, table in predictions.items():
        table.insert(1, "strategy", name)
    return {
        "strategies": _tabulate_strategies(metrics, entries, fitted, alpha),
        "weights": pd.DataFrame(weights, columns=["strategy", "run", "weight", "temperature"]),
        "members": _tabulate_members(metrics, labels, held, fitted["scaled_vote"].mix.temperatures, single),
        "predictions": pd.concat(predictions.values(), ignore_index=True),
    }


def compute_ece(predictions: Predictions) -> float:
    """Compute the calibration error in 15 bins at the temperature of the predictions."""
    return float(calibration.ece(predictions.confidence, predictions.correct))


def tabulate_pairs(aligned: Sequence[Predictions], labels: Sequence[str]) -> pd.DataFrame:
    """Return the measures of each pair of runs, NaN where one is undefined."""
    rows = []
    for (a, first), (b, second) in combinations(zip(labels, aligned, strict=True), 2):
        values = build_pair_statistic(first, second)(np.ones(len(first)))
        right, other = first.correct, second.correct
        counts = [int(some.sum()) for some in (right & other, right & ~other, other & ~right, ~right & ~other)]
        shares = (select_targets(one.probabilities, one.targets) for one in (first, second))
        rows.append((a, b, len(right), *counts, *values.tolist(), agreement.probability_correlation(*shares)))
    columns = ["a", "b", "n", "both_correct", "only_a_correct", "only_b_correct", "both_incorrect"]
    return pd.DataFrame(rows, columns=[*columns, *agreement.MEASURES, "probability_correlation"])


def tabulate_answers(aligned: Sequence[Predictions], labels: Sequence[str]) -> pd.DataFrame:
    """Return each run's prediction and its probability of the true class, one row per image and run."""
    columns = ["path", "group", "run", "target", "prediction", "prob_target"]
    frames = [
        tabulate_predictions(one).assign(run=label, prob_target=select_targets(one.probabilities, one.targets))[columns]
        for label, one in zip(labels, aligned, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def build_pair_statistic(a: Predictions, b: Predictions) -> stats.Statistic:
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
    for name, one in entries.items():
        size, fit = (int((fitted[name].mix.weights > 0).sum()), fitted[name].fit) if name in fitted else (1, None)
        row: dict[str, object] = {"strategy": name, "members": size, "n": len(one)}
        for kind in ("accuracy", "macro_f1", "gain", "gain_macro_f1", "nll"):
            metric = metrics.get(f"{kind}/{name}", _NONE)
            row |= make_columns(kind, metric, f"{kind}_")
        only = {"only_strategy_correct": one.correct & ~single, "only_single_correct": single & ~one.correct}
        row |= {key: int(images.sum()) for key, images in only.items()}
        row |= {"ece": compute_ece(one), "temperature": one.temperature}
        rows.append(row | {f"temperature_{end}": getattr(fit, end, None) for end in ("fitted", "low", "high")})
    table = pd.DataFrame(rows)
    units = first.units.usable
    gains = [one.correct.astype(int) - single for one in others]
    found = pd.DataFrame([recipe_pairs.test_gains(gain, units) for gain in gains])
    tests = np.column_stack([found["p"], paired_tests.holm(found["p"]), found["p_these_sources"]])
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
    for place, (label, member) in enumerate(zip(labels, held.predictions, strict=True)):
        raw = member.uncalibrated
        ece, raw_ece = (compute_ece(replace(raw, temperature=value)) for value in (temperatures[place], 1.0))
        row = {"run": label, "chosen": place == single, "calibration_n": len(raw)}
        row |= {"calibration_accuracy": float(raw.correct.mean()), "calibration_ece": ece}
        row |= {"calibration_raw_ece": raw_ece, "calibration_raw_nll": calibration.nll(raw.logits, raw.targets)}
        rows.append(row | make_columns("contribution", metrics[f"contribution/{label}"], "contribution_"))
    return pd.DataFrame(rows)
