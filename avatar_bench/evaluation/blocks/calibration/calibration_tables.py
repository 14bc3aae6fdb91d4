"""Calibration errors with noise floors, and conformal sets that are fitted once and applied to any predictions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.block import make_columns
from avatar_bench.evaluation.intervals import (
    LOSS,
    IntervalOptions,
    bootstrap_metrics,
    compute_for_both,
    compute_proportion,
    metric_with_interval,
    state_units,
)
from avatar_bench.metrics import calibration, conformal, stats
from avatar_bench.metrics.units import Units
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ConformalSets:
    """Thresholds by method for an error rate alpha, fitted on n calibration images in `units` groups."""

    thresholds: dict[str, float]
    n: int
    units: int
    alpha: float
    seed: int

    @classmethod
    def fit(cls, held_out: Predictions, alpha: float, seed: int) -> ConformalSets:
        """Fit each method's threshold on calibration images, so that 1 - alpha of the sets contain the true class."""
        uniform = draw_uniforms(len(held_out), seed, fitted=True)
        thresholds = {}
        for method, scores in conformal.CONFORMAL_SCORES.items():
            target_scores = conformal.select_targets(scores(held_out.probabilities, uniform), held_out.targets)
            thresholds[method] = conformal.threshold(target_scores, alpha)
        return cls(thresholds, len(held_out), len(np.unique(held_out.group_codes)), alpha, seed)

    def cover(self, predictions: Predictions) -> Iterator[tuple[str, NDArray[np.bool_], NDArray[np.int_]]]:
        """Yield of each method whether each image's set contains its true class, and the sizes of the sets, (N,)."""
        uniform = draw_uniforms(len(predictions), self.seed)
        for method, limit in self.thresholds.items():
            member = conformal.CONFORMAL_SCORES[method](predictions.probabilities, uniform) <= limit
            yield method, conformal.select_targets(member, predictions.targets), member.sum(axis=1)

    def metrics(self, block: IntervalOptions, predictions: Predictions) -> dict[str, Metric]:
        """Compute coverage and mean size of each method's sets; coverage has random sets of that size as floor."""
        metrics = {}
        for method, covered, size in self.cover(predictions):
            blind = float(size.mean()) / len(predictions.classes)
            metrics[f"coverage/{method}"] = compute_proportion(block, covered, predictions.units, None, blind)
            sizes = stats.build_mean_statistic(size[:, None].astype(np.float64))
            metrics |= bootstrap_metrics(block, [f"set_size/{method}"], sizes, predictions.units, False)
        return metrics

    def by_class(self, block: IntervalOptions, predictions: Predictions) -> pd.DataFrame:
        """Tabulate coverage by method and true class; rows without a class cover all images."""
        rows = []
        for method, covered, size in self.cover(predictions):
            for index, name in enumerate(["", *predictions.classes], start=-1):
                images = predictions.targets == index if index >= 0 else np.ones(len(predictions), dtype=bool)
                if images.any():
                    share = compute_proportion(block, covered, predictions.units, among=images)
                    of_class = size[images]
                    sizes = {
                        "set_size": of_class.mean(),
                        "empty": (of_class == 0).mean(),
                        "single": (of_class == 1).mean(),
                    }
                    about = {"method": method, "class": name, "n": len(of_class)}
                    rows.append(about | make_columns("coverage", share) | sizes)
        table = pd.DataFrame(rows)
        return table.assign(threshold=table["method"].map(self.thresholds))

    def row(self, block: IntervalOptions, predictions: Predictions) -> dict[str, float | None]:
        """Compute coverage with its interval, the chance of so little, and mean size, as columns of table shift."""
        cells: dict[str, float | None] = {}
        for method, covered, size in self.cover(predictions):
            share = compute_proportion(block, covered, predictions.units)
            cells |= make_columns(f"coverage_{method}", share, f"coverage_{method}_")
            n = len(np.unique(predictions.group_codes))
            counted = round(float(covered.mean()) * n)
            cells[f"coverage_{method}_p"] = conformal.compute_loss_probability(counted, n, self.units, self.alpha)
            cells[f"set_size_{method}"] = float(size.mean())
        return cells


def has_lost_coverage(row: Mapping[str, Any], level: float) -> bool:
    """Return whether chance explains in no method the few sets of a row of table shift that contain the true class."""
    return bool(max(row["coverage_lac_p"], row["coverage_aps_p"]) <= (1 - level) / 2)


def tabulate_floors(
    block: IntervalOptions, predictions: Predictions, prefix: str = "", units: Units | None = None
) -> pd.DataFrame:
    """Tabulate each calibration error expected by chance alone: mean, 95th percentile, end of its interval.

    Images of a unit, a source or a group, are drawn together as far as the confidence gaps of the real ones correlate,
    and have the weights of the units: by default those of the population of the predictions. The percentile is widened
    for few units, whose correlation is uncertain.
    """
    drawn_by = predictions.units.usable if units is None else units
    gaps = predictions.correct - predictions.confidence
    about = drawn_by, calibration.group_correlation(gaps, drawn_by.codes)
    drawn = calibration.simulate_noise_floor(predictions.probabilities, block.resamples, block.seed, *about)
    floor, (p95, high) = drawn.mean(axis=0), np.quantile(drawn, [0.95, (1 + block.level) / 2], axis=0)
    factor = stats.compute_student_factor(drawn_by.count, drawn_by.degrees_of_freedom)
    names = [prefix + kind for kind in calibration.ECE_KINDS]
    ends = {"floor_p95": floor + factor * (p95 - floor), "floor_high": high}
    return pd.DataFrame({"metric": names, "floor": floor, **ends})


def compute_errors(
    block: IntervalOptions, predictions: Predictions, prefix: str, floors: pd.DataFrame
) -> dict[str, Metric]:
    """Compute NLL, Brier score, calibration errors, and floor and excess of that in 15 bins; names start with `prefix`.

    An error up to the 95th percentile of its floor has the reason that a calibrated network may show it.
    """
    classes, n = len(predictions.classes), len(predictions)
    floor = {prefix + "nll": float(np.log(classes)), prefix + "brier": 1 - 1 / classes}
    losses = calibration.image_losses(predictions.logits, predictions.targets, predictions.temperature)
    per_image = np.column_stack([losses, calibration.brier_scores(predictions.probabilities, predictions.targets)])
    means = stats.build_mean_statistic(per_image)
    metrics = bootstrap_metrics(block, list(floor), means, predictions.units, False, floor, bounds=LOSS)
    metrics |= compute_for_both(partial(_compute_calibration_errors, block, predictions, floors), predictions.units)
    error, row = metrics[f"{prefix}ece_15"], floors.iloc[calibration.ECE_KINDS.index("ece_15")]
    chance, p95 = float(row["floor"]), float(row["floor_p95"])
    value, low, high = (None if end is None else end - chance for end in (error.value, error.low, error.high))
    reason = Reason("calibrated") if (error.value or 0.0) <= p95 else error.reason
    excess = replace(error, value=value, low=low, high=high, floor=0.0, these_sources=None, reason=reason)
    metrics |= {f"{prefix}ece_excess": excess, f"{prefix}ece_15": replace(error, reason=reason)}
    for name, end in (("ece_floor", chance), ("ece_floor_p95", p95)):
        metrics[prefix + name] = Metric(end, n, higher_is_better=None)
    return metrics


def tabulate_reliability(block: IntervalOptions, predictions: Predictions) -> pd.DataFrame:
    """Tabulate a reliability diagram of 15 bins, the accuracy with its interval."""
    edges = calibration.equal_width_edges(calibration.ECE_BINS)
    bins = calibration.assign_bins(predictions.confidence, edges)
    table = pd.DataFrame(calibration.reliability_bins(predictions.confidence, predictions.correct, edges))
    for row in np.unique(bins):
        share = compute_proportion(block, predictions.correct, predictions.units.these, among=bins == row)
        table.loc[row, ["accuracy_low", "accuracy_high"]] = share.low, share.high
    return table


def compute_temperatures(block: IntervalOptions, temperature: float, held_out: Predictions | None) -> dict[str, Metric]:
    """Return the run's temperature with the interval of refits on the calibration images, and the relative refit.

    The latter, `scaled/temperature`, is the refit divided by the run's temperature: 1 if both agree.
    """
    if held_out is None:
        fixed = Metric(temperature, 0, higher_is_better=None)
        unknown = replace(fixed, value=None, reason=Reason("calibration_unknown"))
        return {"temperature": fixed, "scaled/temperature": unknown}
    logits, targets = held_out.logits, held_out.targets
    fitted = calibration.build_temperature_statistic(logits, targets)
    refits = fitted.then(lambda metrics: np.hstack([metrics, metrics / temperature]))
    about = block, ["temperature", "scaled/temperature"], refits, held_out.group_codes, None
    metrics = bootstrap_metrics(*about, bounds=LOSS)
    values = (temperature, calibration.fit_temperature(logits, targets) / temperature)
    return {name: replace(metric, value=value) for (name, metric), value in zip(metrics.items(), values, strict=True)}


def draw_uniforms(n: int, seed: int, fitted: bool = False) -> Floats:
    """Draw APS's n numbers from 0 to 1: different ones for calibration images, the same for an image in each shift."""
    return np.random.default_rng((seed, int(fitted))).random(n)


def _compute_calibration_errors(
    block: IntervalOptions, predictions: Predictions, floors: pd.DataFrame, units: Units
) -> dict[str, Metric]:
    """Compute the calibration errors with intervals that cover the true error at least as often as `level` states.

    An end lies as far away as chance can move the error (`calibration.make_deviation_statistic`), and at least as far
    as that of the accuracy, since images that are all correct do not show which errors are to come. The low end is 0 if
    chance alone may explain the error, by the bootstrap or by the noise floor.
    """
    about = predictions.probabilities, predictions.targets
    values = calibration.calibration_errors(*about, units.weights)
    moves = calibration.make_deviation_statistic(*about, units)
    if units.population != predictions.units.usable.population:  # those of these sources, beside
        floors = tabulate_floors(block, predictions, floors["metric"][0].removesuffix("ece_10"), units)
    resampled = stats.resample_statistic(moves, units, block.resamples, block.seed)
    __, ends = stats.percentiles(resampled, block.level)
    accuracy = compute_proportion(block, predictions.correct, units)
    # one more error changes the probabilities of two classes, and classwise ECE averages over classes
    share = np.array([1, 1, 1, min(1.0, 2 / len(predictions.classes))])
    least = share * ((accuracy.value or 0.0) - (accuracy.low or 0.0))
    factor = stats.compute_student_factor(units.count, units.degrees_of_freedom, block.level)
    alone, added, more, less = factor * ends.reshape(4, -1)
    lows = values - np.maximum(added, least)
    lows[values <= np.maximum(alone, floors["floor_high"])] = 0.0
    highs = np.minimum(1.0, values + np.maximum(np.maximum(more, less), least))
    if units.degrees_of_freedom < 1:  # a single group makes all resamples equal
        lows = highs = values
    rows = zip(floors["metric"], values, np.maximum(0.0, lows), highs, floors["floor"], strict=True)
    n, method = len(predictions), f"widened bootstrap by {units.drawn}"
    return {
        name: state_units(metric_with_interval(value, low, high, n, method, False, float(floor)), units)
        for name, value, low, high, floor in rows
    }
