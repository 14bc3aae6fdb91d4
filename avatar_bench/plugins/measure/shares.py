"""Shares of classes in a population, and in groups of it, by several estimators, and the images to review for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, norm

from avatar_bench.metrics.prior_shift import estimate_prior
from avatar_bench.metrics.stats import Floats, percentiles, wilson
from avatar_bench.plugins.measure import estimators
from avatar_bench.plugins.measure.estimators import Share
from avatar_bench.plugins.measure.population import Design, Population

COUNTING, ADJUSTED, EM, REVIEWED = "counting", "adjusted", "em", "reviewed"
FEWEST_REVIEWED = 30
FEWEST_IMAGES = 30  # in a group
_STRATA = 4
_RESAMPLES = 200  # of EM
_ORDERED = ("month", "year", "date")


@dataclass(frozen=True)
class CalibrationImages:
    """Confusion matrix (C, C), targets by predictions, of calibration images, and class shares (C,) in training."""

    confusion: NDArray[np.int64]
    training: Floats

    @property
    def has_all_classes(self) -> bool:
        """Return whether each class has calibration images, without which its errors are not known."""
        return bool((self.confusion.sum(axis=1) > 0).all())


@dataclass(frozen=True)
class Review:
    """Reviewed images that a design has drawn: rows of the population, with `label` and `stratum`."""

    design: Design
    rows: pd.DataFrame


def plan_review(population: Population, target: str, n: int, seed: int = 0) -> tuple[Design, Share]:
    """Return the design of a review of n images, and the interval to expect if the probabilities are calibrated."""
    counts, means = population.sum_scores(population.classes.index(target))
    cuts = estimators.cut_strata(counts, means, min(_STRATA, max(1, n // 10)))
    strata = np.searchsorted(cuts, np.arange(len(counts)), side="right")
    sizes = np.asarray(np.bincount(strata, counts), dtype=np.float64)
    shares = np.bincount(strata, counts * means) / sizes
    drawn = estimators.allocate(sizes, np.sqrt(shares * (1 - shares)), n)
    counted = sizes, drawn, np.rint(drawn * shares)
    expected = estimators.combine_strata(*counted, *estimators.stratified_exact(*counted))
    return Design(target, cuts, drawn / sizes, seed), expected


def count_required(population: Population, target: str, width: float) -> int:
    """Return how many images, to two digits, must be reviewed for an interval of this width; at most all."""
    n = FEWEST_REVIEWED
    while n < population.n:
        expected = plan_review(population, target, n)[1]
        if expected.high - expected.low <= width:
            break
        n = int(float(f"{n * 1.05 + 1:.2g}"))
    return min(n, population.n)


def measure_classes(
    population: Population, calibration: CalibrationImages | None, review: Review | None
) -> pd.DataFrame:
    """Return the share of each class, with its interval of 95 %, by each estimator that can be computed."""
    shares = {COUNTING: count_predictions(population.predicted)}
    if calibration is not None and calibration.has_all_classes:
        shares[ADJUSTED] = estimators.invert_confusion(population.predicted, calibration.confusion)
    if calibration is not None and (calibration.training > 0).all():
        shares[EM] = maximise_likelihood(population, calibration.training)
    if review is not None:
        cells = population.cells.assign(stratum=review.design.find_stratum(population.cells["bin"].to_numpy()))
        classes = range(len(population.classes))
        shares[REVIEWED] = [estimate_reviewed(cells, review, population.classes, k) for k in classes]
    rows = [
        {"class": name, "estimator": estimator, **share._asdict()}
        for estimator, by_class in shares.items()
        for name, share in zip(population.classes, by_class, strict=True)
    ]
    return pd.DataFrame(rows)


def count_predictions(predicted: NDArray[np.int64]) -> list[Share]:
    """Return the share of predictions of each class, with Wilson's interval, as if none were incorrect."""
    n = int(predicted.sum())
    return [Share(count / n, *wilson(count, n)) for count in predicted.tolist()]


def maximise_likelihood(population: Population, training: Floats) -> list[Share]:
    """Estimate the shares by expectation maximisation, with intervals from resamples of the images."""
    cells = population.cells
    n = cells["n"].to_numpy()
    chances = cells[[f"p{k}" for k in range(len(population.classes))]].to_numpy() / n[:, None]
    value = estimate_prior(chances, training, n[None], training, 1e-9, 2000)[0]
    drawn = np.random.default_rng(0).multinomial(int(n.sum()), n / n.sum(), _RESAMPLES).astype(float)
    ends = percentiles(estimate_prior(chances, training, drawn, value, 1e-5))
    triples = zip(value.tolist(), *(end.tolist() for end in ends), strict=True)
    return [Share(share, low, high) for share, low, high in triples]


def estimate_reviewed(cells: pd.DataFrame, review: Review, classes: tuple[str, ...], k: int) -> Share:
    """Estimate the share of class k from the reviewed images, in the rows that `cells`, with `stratum`, are sums of."""
    sums = cells.groupby("stratum")[["n", f"p{k}", f"q{k}"]].sum().reindex(range(len(review.design.rates)))
    there = np.flatnonzero(sums["n"].to_numpy() > 0)
    size, first, second = sums.iloc[there].to_numpy().T
    rows = review.rows
    stratum = np.searchsorted(there, rows["stratum"].to_numpy(dtype=np.int64))
    labels = np.asarray(rows["label"] == classes[k], dtype=np.float64)
    scores = rows[f"prob_{classes[k]}"].to_numpy(dtype=np.float64)
    variance = np.maximum(second / size - (first / size) ** 2, 0)
    return estimators.estimate_from_review(size, first / size, variance, stratum, labels, scores)


def measure_groups(
    population: Population, column: str, target: str, calibration: CalibrationImages | None, review: Review | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the share of the target in each group of a column, and what is known of all: groups left out, the trend.

    All groups have the best estimator that at least one of them has images for. `p` compares a group with all others;
    `p_fdr` is the false discovery rate at which it differs, by Benjamini and Hochberg.
    """
    table, k = population.groups[column], population.classes.index(target)
    rows = review.rows if review is not None else pd.DataFrame({f"by_{column}": []})
    values = rows[f"by_{column}"]
    reviewed = values.value_counts()
    estimator = ADJUSTED if calibration is not None and calibration.has_all_classes else COUNTING
    if (reviewed >= FEWEST_REVIEWED).any():
        estimator = REVIEWED

    def estimate(cells: pd.DataFrame, inside: Any) -> Share:
        predicted = np.bincount(cells["predicted"], cells["n"], len(population.classes)).astype(np.int64)
        if estimator == REVIEWED and review is not None:
            return estimate_reviewed(cells, Review(review.design, rows[inside]), population.classes, k)
        if estimator == ADJUSTED and calibration is not None:
            return estimators.invert_confusion(predicted, calibration.confusion)[k]
        return count_predictions(predicted)[k]

    measured, left_out = [], []
    for value, cells in table.groupby("value", sort=True):
        n, labels = int(cells["n"].sum()), int(reviewed.get(value, 0))
        if n < FEWEST_IMAGES or (estimator == REVIEWED and labels < FEWEST_REVIEWED):
            left_out.append(str(value))
            continue
        share, rest = estimate(cells, values == value), table[table["value"] != value]
        row = {"by": column, "group": value, "n": n, "reviewed": labels, "estimator": estimator, **share._asdict()}
        # counted predictions differ by errors as well as by shares: no test of them
        enough = estimator == ADJUSTED or (estimator == REVIEWED and len(rows) - labels >= FEWEST_REVIEWED)
        other = estimate(rest, values != value) if len(rest) and enough else None
        measured.append(row | {"p": np.nan if other is None else compare(share, other)})
    groups = pd.DataFrame(measured)
    if len(groups) and (known := groups["p"].notna()).any():
        groups.loc[known, "p_fdr"] = false_discovery_control(groups.loc[known, "p"])
    about: dict[str, Any] = {"by": column, "estimator": estimator, "left_out": left_out}
    if column in _ORDERED and len(groups) >= 3 and estimator != COUNTING:
        about |= fit_trend(groups)
    return groups, about


def compare(first: Share, second: Share) -> float:
    """Return the two-sided p-value of the difference of two independent shares, from the ends that face each other."""
    (low, high) = (first, second) if first.value <= second.value else (second, first)
    spread = float(np.hypot(low.high - low.value, high.value - high.low)) / norm.isf(0.025)
    return float(2 * norm.sf((high.value - low.value) / spread)) if spread > 0 else float(high.value == low.value)


def fit_trend(groups: pd.DataFrame) -> dict[str, float]:
    """Return the slope of the share from one group to the next, by weighted least squares, and its p-value."""
    error = (groups["high"] - groups["low"]).to_numpy() / (2 * norm.isf(0.025))
    weight = 1 / np.maximum(error, 1e-9) ** 2
    step = np.arange(len(groups)) - np.average(np.arange(len(groups)), weights=weight)
    slope = float((weight * step * groups["value"]).sum() / (weight * step**2).sum())
    return {"slope": slope, "p_trend": float(2 * norm.sf(abs(slope) * np.sqrt((weight * step**2).sum())))}
