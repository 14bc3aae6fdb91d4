"""The errors of confidence of the block calibration, with intervals and noise floors."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.messages import say
from avatar_bench.metrics import calibration
from avatar_bench.results import Metric

if TYPE_CHECKING:
    from avatar_bench.blocks.base import IntervalBlock
    from avatar_bench.predictions import Predictions
    from avatar_bench.stats import Statistic

Floats = NDArray[np.float64]


def error_floors(judged: Predictions, prefix: str, draws: int, seed: int) -> pd.DataFrame:
    """Tabulate by kind of calibration error what chance alone makes of it: its mean and its 95th percentile."""
    drawn = calibration.noise_floor(judged.probabilities, draws, seed)
    names = [prefix + kind for kind in calibration.ECE_KINDS]
    return pd.DataFrame(
        {"metric": names, "floor": drawn.mean(axis=0), "floor_p95": np.quantile(drawn, 0.95, axis=0)},
    )


def errors(block: IntervalBlock, judged: Predictions, prefix: str, floors: pd.DataFrame) -> dict[str, Metric]:
    """Give NLL, Brier score and calibration errors, and the floor of the error in 15 bins; names begin with `prefix`.

    The floor of the first two is what equal probabilities for all classes would get.
    """
    classes, n = len(judged.classes), len(judged)
    floor = {prefix + "nll": float(np.log(classes)), prefix + "brier": 1 - 1 / classes}
    floor |= {name: float(mean) for name, mean in zip(floors["metric"], floors["floor"], strict=True)}
    found = block.resampled(list(floor), _errors_of(judged), judged.groups, higher_is_better=False, floors=floor)
    for name, highest in zip(floors["metric"], floors["floor_p95"], strict=True):
        found[name] = _without_bias(found[name], float(highest))
    row = calibration.ECE_KINDS.index("ece_15")
    for name, column in (("ece_floor", "floor"), ("ece_floor_p95", "floor_p95")):
        found[prefix + name] = Metric(float(floors[column].iloc[row]), n, higher_is_better=None)
    return found


def reliability(block: IntervalBlock, judged: Predictions) -> pd.DataFrame:
    """Tabulate a reliability diagram of 15 bins, the accuracy with its interval."""
    edges = calibration.equal_width(calibration.BINS)
    bins = calibration.bin_of(judged.confidence, edges)
    table = pd.DataFrame(calibration.reliability(judged.confidence, judged.correct, edges))
    for row in np.unique(bins):
        share = block.share(judged.correct[bins == row], judged.groups[bins == row])
        table.loc[row, ["accuracy_low", "accuracy_high"]] = share.low, share.high
    return table


def temperatures(block: IntervalBlock, temperature: float, held_out: Predictions | None) -> dict[str, Metric]:
    """Give the run's temperature with the interval of refits on the calibration pictures, and what a refit would add.

    The latter, `scaled/temperature`, is the refit divided by the run's: 1 where both agree.
    """
    if held_out is None:
        why = say("the calibration pictures are not known")
        fixed = Metric(temperature, 0, higher_is_better=None)
        return {"temperature": fixed, "scaled/temperature": Metric(None, 0, higher_is_better=None, reason=why)}
    logits, targets = held_out.logits, held_out.targets

    def refits(weights: Floats) -> Floats:
        fitted = calibration.resampled_temperatures(logits, targets, weights)
        return np.column_stack([fitted, fitted / temperature])

    found = block.resampled(["temperature", "scaled/temperature"], refits, held_out.groups, higher_is_better=None)
    values = (temperature, calibration.fit_temperature(logits, targets) / temperature)
    return {name: replace(metric, value=value) for (name, metric), value in zip(found.items(), values, strict=True)}


def _errors_of(judged: Predictions) -> Statistic:
    losses = calibration.losses_of(judged.logits, judged.targets, judged.temperature)
    each = np.column_stack([losses, calibration.brier_scores(judged.probabilities, judged.targets)])

    def statistic(weights: Floats) -> Floats:
        means = weights @ each / weights.sum(axis=1, keepdims=True)
        return np.hstack([means, calibration.calibration_errors(judged.probabilities, judged.targets, weights)])

    return statistic


def _without_bias(metric: Metric, floor_p95: float) -> Metric:
    """Mirror the bootstrap interval of a calibration error at the error, since a resample adds its own noise to it.

    It reaches to 0 where chance alone could make the error.
    """
    if metric.value is None or metric.low is None or metric.high is None:
        return metric
    low = 0.0 if metric.value <= floor_p95 else max(0.0, 2 * metric.value - metric.high)
    high = max(metric.value, 2 * metric.value - metric.low)
    return replace(metric, low=low, high=high, interval="basic bootstrap by group")
