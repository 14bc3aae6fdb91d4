"""Populations with a known share of a class, of which reviewed images are drawn again and again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from avatar_bench.plugins.measure import estimators, shares
from avatar_bench.plugins.measure.population import Design, Population, PredictionReader

Row = dict[str, Any]
CLASSES = ("other", "generated")
SHARES, LABELS = (0.0005, 0.005, 0.05, 0.3), (200, 1000)
DISTANCE, SPREAD = 4.0, 1.3  # of the scores of the classes, and of the images of a class: errors of 6 % each
HIDDEN, ALARMS = 0.3, 0.01  # of images with shifted errors: generated ones like others, and others like generated ones
CALIBRATION = 150  # images of each class


def draw_scores(rng: np.random.Generator, truth: NDArray[np.bool_], detector: str) -> NDArray[np.float64]:
    """Return the probability of being generated, by a detector of equal classes, for images with this truth."""
    shifted = rng.random(len(truth)) < np.where(truth, HIDDEN, ALARMS) if detector == "shifted errors" else False
    evidence = rng.normal(np.where(truth ^ shifted, 0.5, -0.5) * DISTANCE, SPREAD) * DISTANCE / SPREAD**2
    return np.asarray(expit(2 * evidence + 1 if detector == "miscalibrated" else evidence))


def read_population(truth: NDArray[np.bool_], scores: NDArray[np.float64], folder: Path) -> Population:
    """Return the population of these images, as measure reads it from a table of predictions."""
    table = pd.DataFrame({"path": np.arange(len(truth)).astype(str), "status": "ok"})
    table["prediction"] = np.array(CLASSES, dtype=object)[(scores >= 0.5).astype(int)]
    table["prob_other"], table["prob_generated"] = 1 - scores, scores
    table.to_parquet(folder / "population.parquet")
    return PredictionReader(str(folder / "population.parquet")).scan("generated")


def draw_review(
    rng: np.random.Generator, design: Design, bins: NDArray[np.int16], truth: NDArray[np.bool_], scores: Any
) -> shares.Review:
    """Return a review of images drawn by a design."""
    strata, drawn = design.find_stratum(bins), []
    for h, rate in enumerate(design.rates):
        inside = np.flatnonzero(strata == h)
        drawn.append(inside[rng.choice(len(inside), round(rate * len(inside)), replace=False, shuffle=False)])
    at = np.concatenate(drawn)
    rows = {"label": np.where(truth[at], "generated", "other"), "stratum": strata[at]}
    return shares.Review(design, pd.DataFrame(rows | {"prob_generated": scores[at]}))


def simulate_shares(draws: int, n: int = 1_000_000) -> Iterator[Row]:
    """Intervals of 95 % of a share that contain it, and their width, from reviewed images and without them."""
    for share, detector in product(SHARES, ("calibrated", "miscalibrated", "shifted errors")):
        rng = np.random.default_rng(0)
        truth = np.arange(n) < round(share * n)
        scores = draw_scores(rng, truth, detector)
        with TemporaryDirectory() as folder:
            population = read_population(truth, scores, Path(folder))
        counted = shares.count_predictions(population.predicted)[1]
        em = shares.maximise_likelihood(population, np.array([0.5, 0.5]))[1]
        known = np.repeat([False, True], CALIBRATION)
        adjusted = 0
        for _ in range(draws):
            right = "miscalibrated" if detector == "miscalibrated" else "calibrated"
            predicted = draw_scores(rng, known, right) >= 0.5
            confusion = [[int(((known == a) & (predicted == b)).sum()) for b in (False, True)] for a in (False, True)]
            estimate = estimators.invert_confusion(population.predicted, confusion)[1]
            adjusted += estimate.low <= share <= estimate.high
        for labels in LABELS:
            design = shares.plan_review(population, "generated", labels)[0]
            cells = population.cells.assign(stratum=design.find_stratum(population.cells["bin"].to_numpy()))
            inside, widths, simple = 0, [], []
            for _ in range(draws):
                review = draw_review(rng, design, population.bins, truth, scores)
                estimate = shares.estimate_reviewed(cells, review, CLASSES, 1)
                inside += estimate.low <= share <= estimate.high
                widths.append(estimate.high - estimate.low)
                simple.append(np.diff(estimators.exact_interval(rng.binomial(labels, share), labels))[0])
            yield {
                "share_%": 100 * share,
                "labels": labels,
                "detector": detector,
                "reviewed": inside / draws,
                "width_%": 100 * np.mean(widths),
                "simple_width_%": 100 * np.mean(simple),
                "adjusted": adjusted / draws,
                "counting_says_%": 100 * counted.value,
                "em_says_%": 100 * em.value,
                "em_contains": em.low <= share <= em.high,
            }
