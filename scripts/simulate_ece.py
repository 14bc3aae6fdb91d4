"""Simulate the calibration error of networks of known calibration: how often it is called none, and its interval."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import Any

import numpy as np
from scipy.special import softmax
from simulate_intervals import CLASSES, SPREAD, draw_scores, find_shift

from avatar_bench.evaluation.blocks.calibration import calibration_tables as tables
from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.metrics import calibration
from avatar_bench.results.predictions import Predictions, to_string_array

MEAN = 0.75  # accuracy
SHARPER = 2.0  # the factor of the log-odds of the network that is too confident


def simulate_ece(draws: int, counts: tuple[int, ...] = (9, 15, 30, 60)) -> Iterator[dict[str, Any]]:
    """Yield how often a network is called miscalibrated, and its interval of the ECE contains that on all sources."""
    block = IntervalOptions(resamples=400)
    for factor, sizes, sources in product((1.0, SHARPER), ("equal", "53", "log-normal"), counts):
        rows = []
        for seed in range(draws):
            scores, targets, source = draw_scores(np.random.default_rng(seed), sources, sizes, MEAN)
            metrics = measure(block, scores * find_scale(factor), targets, source)
            error, floor = metrics["ece_15"], metrics["ece_floor"].value
            covered = error.low - 1e-9 <= find_ece(factor) <= error.high + 1e-9
            rows.append((error.reason is None, error.low > 0, covered, error.value, floor))
        found, above, covered, value, floor = np.array(rows, dtype=float).mean(axis=0)
        case = {"network": "calibrated" if factor == 1 else "too confident", "sizes": sizes, "sources": sources}
        rates = {"called miscalibrated": found, "low end above 0": above, "covered": covered}
        yield case | rates | {"ECE": find_ece(factor), "seen": value, "floor": floor}


def measure(block: IntervalOptions, logits: Any, targets: Any, source: Any) -> dict[str, Any]:
    """Compute the calibration errors of a set as block calibration does."""
    names = to_string_array(f"s{k}" for k in source)
    about = {"groups": to_string_array(map(str, range(len(source)))), "sources": names, "origins": source}
    paths = to_string_array(f"{k}.png" for k in range(len(source)))
    classes = tuple("abc"[:CLASSES])
    predictions = Predictions(classes, logits, logits[:, :0], targets, paths, **about)
    return tables.compute_errors(block, predictions, "", tables.tabulate_floors(block, predictions))


def find_scale(factor: float) -> float:
    """Return what turns scores into log-odds of the classes, calibrated over all sources, times the factor."""
    return factor * find_shift(MEAN) / (SPREAD**2 + 1)


@cache
def find_ece(factor: float) -> float:
    """Return the ECE in 15 bins on all sources."""
    targets = np.arange(600_000) % CLASSES
    noise = np.random.default_rng(3).normal(0, np.hypot(SPREAD, 1), (len(targets), CLASSES))
    probabilities = softmax((noise + find_shift(MEAN) * np.eye(CLASSES)[targets]) * find_scale(factor), axis=1)
    return float(calibration.calibration_errors(probabilities, targets)[calibration.ECE_KINDS.index("ece_15")])
