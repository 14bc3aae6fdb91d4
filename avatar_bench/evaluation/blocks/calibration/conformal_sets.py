"""Conformal sets of the block calibration: fitted once, then applied to any Predictions of the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.intervals import IntervalOptions, bootstrap_metrics, compute_proportion
from avatar_bench.metrics import conformal, stats
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.result import Metric

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ConformalSets:
    """Thresholds by method for an error rate alpha, fitted on n calibration images in `units` groups.

    `seed` is that of APS's randomisation.
    """

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
            own = conformal.select_targets(scores(held_out.probabilities, uniform), held_out.targets)
            thresholds[method] = conformal.threshold(own, alpha)
        return cls(thresholds, len(held_out), len(np.unique(held_out.group_codes)), alpha, seed)

    def members(self, predictions: Predictions) -> dict[str, NDArray[np.bool_]]:
        """Return by method whether each class is in each image's set, (N, C)."""
        uniform = draw_uniforms(len(predictions), self.seed)
        scores = {
            method: function(predictions.probabilities, uniform)
            for method, function in conformal.CONFORMAL_SCORES.items()
        }
        return {method: scores[method] <= limit for method, limit in self.thresholds.items()}

    def metrics(self, block: IntervalOptions, predictions: Predictions) -> dict[str, Metric]:
        """Compute coverage and mean size of each method's sets; coverage has random sets of that size as floor."""
        found = {}
        for method, member in self.members(predictions).items():
            covered, size = conformal.select_targets(member, predictions.targets), member.sum(axis=1)
            blind = float(size.mean()) / len(predictions.classes)
            found[f"coverage/{method}"] = compute_proportion(block, covered, predictions.units, None, blind)
            sizes = stats.build_mean_statistic(size[:, None].astype(np.float64))
            found |= bootstrap_metrics(block, [f"set_size/{method}"], sizes, predictions.units, False)
        return found

    def by_class(self, block: IntervalOptions, predictions: Predictions) -> pd.DataFrame:
        """Tabulate coverage by method and true class; rows without a class cover all images."""
        rows = []
        for method, member in self.members(predictions).items():
            covered, size = conformal.select_targets(member, predictions.targets), member.sum(axis=1)
            for index, name in enumerate(["", *predictions.classes], start=-1):
                images = predictions.targets == index if index >= 0 else np.ones(len(predictions), dtype=bool)
                if images.any():
                    share = compute_proportion(block, covered, predictions.units, among=images)
                    own = size[images]
                    sizes = (own.mean(), (own == 0).mean(), (own == 1).mean())
                    rows.append((method, name, len(own), share.value, share.low, share.high, *sizes))
        columns = ["method", "class", "n", "coverage", "low", "high", "set_size", "empty", "single"]
        table = pd.DataFrame(rows, columns=columns)
        return table.assign(threshold=table["method"].map(self.thresholds))

    def row(self, block: IntervalOptions, predictions: Predictions) -> dict[str, float | None]:
        """Compute coverage with its interval, the chance of so little, and mean size, as columns of table shift.

        The chance is that of `conformal.compute_loss_probability`, in which a group of either set counts once.
        """
        found: dict[str, float | None] = {}
        for method, member in self.members(predictions).items():
            covered = conformal.select_targets(member, predictions.targets)
            share = compute_proportion(block, covered, predictions.units)
            ends = {"": share.value, "_low": share.low, "_high": share.high}
            found |= {f"coverage_{method}{end}": value for end, value in ends.items()}
            n = len(np.unique(predictions.group_codes))
            counted = round(float(covered.mean()) * n)
            found[f"coverage_{method}_p"] = conformal.compute_loss_probability(counted, n, self.units, self.alpha)
            found[f"set_size_{method}"] = float(member.sum(axis=1).mean())
        return found


def has_lost_coverage(row: Mapping[str, Any], level: float) -> bool:
    """Return whether luck explains in no method the few sets of a row of table shift that contain the true class."""
    return bool(max(row["coverage_lac_p"], row["coverage_aps_p"]) <= (1 - level) / 2)


def draw_uniforms(n: int, seed: int, fitted: bool = False) -> Floats:
    """Draw APS's n numbers from 0 to 1: different ones for calibration images, the same for an image in each shift."""
    return np.random.default_rng((seed, int(fitted))).random(n)
