"""Selective prediction: risk and coverage when the least confident predictions are withheld."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.ratios import ratio
from avatar_bench.metrics.stats import OrderStatistic

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]


def risk_coverage(confidence: Reals, correct: ArrayLike, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Compute coverage and risk (..., N) with each image's confidence as the threshold, most confident first.

    Coverage is the fraction of images with a prediction, risk the error rate among them, 0 to 1; ties in confidence are
    predicted together. `confidence` and `correct` are (N,), weights (..., N). Risk is NaN at coverage 0.
    """
    order, last, wrong = _rank(confidence, correct)
    return _risk_coverage(np.ones(len(order)) if weights is None else weights[..., order], last, wrong)


def build_aurc_statistic(confidence: Reals, correct: ArrayLike) -> OrderStatistic:
    """Return the area under the risk-coverage curve as a statistic (B,), 0 to 1: the mean risk over each confidence.

    Uninformative confidence yields the error rate. Geifman and El-Yaniv, NeurIPS 2017; ties as in risk_coverage.
    """
    order, last, wrong = _rank(confidence, correct)

    def compute(drawn: Floats) -> Floats:
        _, risk = _risk_coverage(drawn, last, wrong)
        return np.asarray((drawn * np.nan_to_num(risk)).sum(axis=-1) / drawn.sum(axis=-1))

    return OrderStatistic(order, compute)


def _rank(confidence: Reals, correct: ArrayLike) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Return the images by confidence, highest first, the last of those as confident as each, and the errors, (N,)."""
    order = np.argsort(-confidence, kind="stable")
    ranked = -confidence[order]
    return order, np.searchsorted(ranked, ranked, side="right") - 1, ~np.asarray(correct, dtype=bool)[order]


def _risk_coverage(drawn: Floats, last: NDArray[np.intp], wrong: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    answered, errors = (each.cumsum(axis=-1).take(last, axis=-1) for each in (drawn, drawn * wrong))
    return answered / drawn.sum(axis=-1, keepdims=True), ratio(errors, answered)


def thresholds(coverages: ArrayLike, confidence: Reals) -> Floats:
    """Return the confidence thresholds (K,) that reach each of the K coverages, above 0 to 1."""
    wanted = np.ceil(np.asarray(coverages, dtype=np.float64) * len(confidence) - 1e-9).astype(int)
    return np.asarray(np.sort(confidence)[::-1][wanted - 1], dtype=np.float64)


def abstention_losses(confidence: Reals, correct: ArrayLike, costs: ArrayLike) -> Floats:
    """Compute the loss (N, K) of each image where an error costs 1 and an abstention each of K costs, 0 to 1.

    An image is answered if its expected loss, 1 - confidence, is at most the cost of abstaining. Chow, IEEE Trans. Inf.
    Theory 16 (1970) 41.
    """
    cost = np.asarray(costs, dtype=np.float64)
    wrong = ~np.asarray(correct, dtype=bool)[:, None]
    return np.asarray(np.where(1 - np.asarray(confidence)[:, None] <= cost, wrong, cost), dtype=np.float64)


def best_abstention_costs(confidence: Reals, correct: ArrayLike, costs: ArrayLike) -> Floats:
    """Compute the lowest mean loss (K,) that any threshold of confidence has on these images, at each of K costs."""
    coverage, risk = risk_coverage(confidence, correct)
    cost = np.asarray(costs, dtype=np.float64)
    answered = (coverage * risk)[:, None] + cost * (1 - coverage)[:, None]
    return np.asarray(np.minimum(cost, answered.min(axis=0)))
