"""Selective prediction: how often the answers are right when the least confident ones are withheld."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]


def risk_coverage(confidence: Reals, correct: ArrayLike, weights: Floats | None = None) -> tuple[Floats, Floats]:
    """Give coverage and risk (..., N) of answering every image at least as confident as each one, most confident first.

    Coverage is the share of images answered, risk the share of errors among them, 0 to 1; equals in confidence are
    answered together. `confidence` and `correct` are (N,), weights (..., N). NaN where nothing is answered.
    """
    order = np.argsort(-confidence, kind="stable")
    ranked = -confidence[order]
    last = np.searchsorted(ranked, ranked, side="right") - 1  # of those equally confident
    drawn = np.ones(len(order)) if weights is None else weights[..., order]
    answered = drawn.cumsum(axis=-1)[..., last]
    errors = (drawn * ~np.asarray(correct, dtype=bool)[order]).cumsum(axis=-1)[..., last]
    risk = np.divide(errors, answered, out=np.full(answered.shape, np.nan), where=answered > 0)
    return answered / drawn.sum(axis=-1, keepdims=True), risk


def aurc(confidence: Reals, correct: ArrayLike, weights: Floats | None = None) -> Floats:
    """Give the area under the risk-coverage curve, (...), 0 to 1: the mean of the risks at each image's confidence.

    An order that says nothing gives the error rate. Geifman and El-Yaniv, NeurIPS 2017; with equals as risk_coverage.
    """
    _, risk = risk_coverage(confidence, correct, weights)
    if weights is None:
        return np.asarray(risk.mean(axis=-1))
    drawn = weights[..., np.argsort(-confidence, kind="stable")]
    return np.asarray((drawn * np.nan_to_num(risk)).sum(axis=-1) / drawn.sum(axis=-1))


def thresholds(coverages: ArrayLike, confidence: Reals) -> Floats:
    """Give the confidence (K,) down to which images must be answered to reach each of the K coverages, above 0 to 1."""
    wanted = np.ceil(np.asarray(coverages, dtype=np.float64) * len(confidence) - 1e-9).astype(int)
    return np.asarray(np.sort(confidence)[::-1][wanted - 1], dtype=np.float64)
