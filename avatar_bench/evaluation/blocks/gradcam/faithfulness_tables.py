"""Tables of gradcam: images, curves and correlations, from the arrays saved beside them."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.block import tabulate_predictions
from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.metrics import stats
from avatar_bench.metrics.faithfulness import area_under_curve, rank_correlation
from avatar_bench.results.predictions import Predictions

CURVE_NAMES = ("deletion", "insertion", "deletion_random", "insertion_random")
FAITHFULNESS_GAINS = ("deletion_gain", "insertion_gain")
ROLLOUT_SUFFIX = "_rollout"  # suffix of names that belong to attention rollout instead of Grad-CAM
SANITY_METRIC = "sanity_correlation"

MapArrays = dict[str, NDArray[np.float32]]


def list_suffixes(curves: MapArrays) -> tuple[str, ...]:
    """Return the name suffix of each kind of map: "" for Grad-CAM, and ROLLOUT_SUFFIX if there is a rollout."""
    return ("", ROLLOUT_SUFFIX) if f"deletion{ROLLOUT_SUFFIX}" in curves else ("",)


def tabulate_images(predictions: Predictions, faded: MapArrays, found: MapArrays) -> pd.DataFrame:
    """Return one row per image; errors added for the gallery only have no metrics."""
    n = len(faded["deletion"])
    areas = {name: area_under_curve(curve) for name, curve in faded.items()}
    for ending in list_suffixes(faded):
        areas[f"deletion_gain{ending}"] = areas["deletion_random"] - areas[f"deletion{ending}"]
        areas[f"insertion_gain{ending}"] = areas[f"insertion{ending}"] - areas["insertion_random"]
    areas[SANITY_METRIC] = np.abs(rank_correlation(found["trained"], found["randomised"][-1]))
    table = tabulate_predictions(predictions).assign(drawn=np.arange(len(predictions)) < n)
    return table.join(pd.DataFrame(areas))


def tabulate_curves(found: MapArrays, groups: NDArray[np.str_], options: IntervalOptions) -> pd.DataFrame:
    """Compute the mean of each curve (n, steps + 1) by step, with its interval."""
    values = np.concatenate([*found.values()], axis=1).astype(np.float64)
    points = values.shape[1] // len(found)
    shares = np.tile(np.linspace(0, 1, points), len(found))
    table = pd.DataFrame({"curve": np.repeat([*found], points), "share": shares, "probability": values.mean(axis=0)})
    return _add_intervals(table, values, groups, options)


def tabulate_sanity(found: MapArrays, groups: NDArray[np.str_], options: IntervalOptions) -> pd.DataFrame:
    """Compute the mean correlation with the maps of each network with random weights, with its interval."""
    correlations = np.abs([rank_correlation(found["trained"], maps) for maps in found["randomised"]]).T
    mean = stats.build_mean_statistic(correlations)(np.ones((1, len(correlations))))[0]
    table = pd.DataFrame({name: found[name] for name in ("groups_randomised", "groups")} | {"correlation": mean})
    return _add_intervals(table, correlations, groups, options)


def _add_intervals(
    table: pd.DataFrame, values: NDArray[np.float64], groups: NDArray[np.str_], options: IntervalOptions
) -> pd.DataFrame:
    """Add the ends of the intervals of the means of columns (n, K), and their numbers of values, to K rows."""
    mean = stats.build_mean_statistic(values)
    low, high = stats.bootstrap_interval(mean, groups, options.resamples, options.level, options.seed)
    return table.assign(low=low, high=high, n=(~np.isnan(values)).sum(axis=0))
