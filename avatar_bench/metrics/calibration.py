"""How well probabilities tell how often they are right, and the temperature that mends them.

The calibration errors take targets (..., N), so that many draws of them are judged at once, and weights (B, N), how
often each image was drawn in each of B resamples. The tests hold them against scikit-learn and torchmetrics.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
TEMPERATURE_RANGE = (0.05, 20.0)
ECE_KINDS = ("ece_10", "ece_15", "ece_adaptive", "ece_classwise")
BINS = 15  # of every kind but ece_10; Guo et al.
_GRID = np.geomspace(*TEMPERATURE_RANGE, 161)  # 3.8 % apart, where the loss is a parabola
_CHUNK_ELEMENTS = 4_000_000  # outcomes held at once: 32 MB


def nll(logits: ArrayLike, targets: NDArray[np.integer], temperature: float = 1.0) -> float:
    """Give the mean negative log-likelihood in nats of targets (N,) under logits (N, C) / temperature."""
    return float(losses_of(logits, targets, temperature).mean())


def fit_temperature(logits: ArrayLike, targets: NDArray[np.integer]) -> float:
    """Give the temperature, .05 to 20, that minimises the negative log-likelihood of targets (N,) under logits (N, C).

    An end of the range is the answer where there is no minimum inside, as when every image is right. Raise
    ValueError without images. Guo et al., ICML 2017.
    """
    if len(targets) == 0:
        raise ValueError("a temperature cannot be fitted without images")
    found = minimize_scalar(
        lambda log_t: nll(logits, targets, float(np.exp(log_t))),
        bounds=tuple(np.log(TEMPERATURE_RANGE)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.clip(np.exp(found.x), *TEMPERATURE_RANGE))


def resampled_temperatures(logits: ArrayLike, targets: NDArray[np.integer], weights: Floats) -> Floats:
    """Give the temperature (B,) that fits each of B resamples, weights (B, N), to 1 % where it lies inside its range.

    The losses of a grid of temperatures are one matrix product; a parabola through the best three finds the minimum.
    """
    losses = weights @ np.column_stack([losses_of(logits, targets, t) for t in _GRID])
    best = np.clip(losses.argmin(axis=1), 1, len(_GRID) - 2)
    left, middle, right = (losses[np.arange(len(losses)), best + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    step = np.log(_GRID[1] / _GRID[0])
    return np.asarray(np.exp(np.log(_GRID[best]) + step * np.clip(shift, -1, 1)))


def losses_of(logits: ArrayLike, targets: NDArray[np.integer], temperature: float = 1.0) -> Floats:
    """Give each image's negative log-likelihood in nats, (N,), under logits (N, C) / temperature."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return np.asarray(-log_probabilities[np.arange(len(targets)), targets])


def brier_scores(probabilities: Reals, targets: NDArray[np.integer]) -> Floats:
    """Give each image's squared distance of its probabilities (N, C) from the truth, summed over classes, 0 to 2.

    Brier, Mon. Weather Rev. 78 (1950) 1.
    """
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(axis=1))


def equal_width(bins: int) -> Floats:
    """Give the edges (bins + 1,) of bins of one width from 0 to 1; a bin holds its upper edge."""
    return np.linspace(0.0, 1.0, bins + 1)


def equal_mass(confidence: Reals, bins: int = BINS) -> Floats:
    """Give the edges of bins that hold equally many of the confidences (N,); fewer bins where many are equal."""
    return np.unique(np.quantile(confidence, np.linspace(0.0, 1.0, bins + 1)))


def bin_of(confidence: Reals, edges: Reals) -> NDArray[np.intp]:
    """Give the number of the bin (N,) of each confidence; the lowest edge belongs to the first bin."""
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, max(0, len(edges) - 2))


def ece(confidence: Reals, correct: ArrayLike, edges: Reals, weights: Floats | None = None) -> Floats:
    """Give the expected calibration error, 0 to 1: the gap between confidence and accuracy, averaged over the bins.

    `confidence` is (N,); `correct` (..., N) and `weights` (..., N) give (...). Naeini et al., AAAI 2015.
    """
    gap = np.asarray(correct, dtype=np.float64) - confidence
    mass = gap if weights is None else weights * gap
    total = len(confidence) if weights is None else weights.sum(axis=-1)
    bins = bin_of(confidence, edges)
    member = np.zeros((len(bins), int(bins.max()) + 1))
    member[np.arange(len(bins)), bins] = 1.0
    return np.asarray(np.abs(mass @ member).sum(axis=-1) / total)


def calibration_errors(probabilities: Reals, targets: NDArray[np.integer], weights: Floats | None = None) -> Floats:
    """Give the errors of ECE_KINDS, (..., 4), for probabilities (N, C), targets (..., N) and weights (..., N).

    Of the predicted class in 10 and 15 equal bins and in 15 of equal mass (Nguyen and O'Connor, EMNLP 2015), and the
    mean over the classes of the error of each one's probability in 15 equal bins (Kull et al., NeurIPS 2019).
    """
    confidence, correct = probabilities.max(axis=1), targets == probabilities.argmax(axis=1)
    top = [
        ece(confidence, correct, edges, weights)
        for edges in (equal_width(10), equal_width(BINS), equal_mass(confidence))
    ]
    by_class = [
        ece(column, targets == index, equal_width(BINS), weights) for index, column in enumerate(probabilities.T)
    ]
    return np.stack([*top, np.mean(by_class, axis=0)], axis=-1)


def noise_floor(probabilities: Reals, draws: int = 2000, seed: int = 0) -> Floats:
    """Give the errors of ECE_KINDS, (draws, 4), of a perfectly calibrated network that is as confident as this one.

    The true classes are drawn from the probabilities (N, C) themselves, so that chance alone makes the errors;
    Vaicenavicius et al., AISTATS 2019.
    """
    generator, n = np.random.default_rng(seed), len(probabilities)
    below = probabilities.cumsum(axis=1)[:, :-1]  # a class is drawn where a uniform number lies in its share
    found = []
    for start in range(0, draws, step := max(1, _CHUNK_ELEMENTS // n)):
        uniform = generator.random((min(step, draws - start), n))
        found.append(calibration_errors(probabilities, (uniform[..., None] >= below).sum(axis=-1)))
    return np.concatenate(found)


def reliability(confidence: Reals, correct: NDArray[np.bool_], edges: Reals) -> dict[str, NDArray[np.generic]]:
    """Give a reliability diagram's bins: bin, low, high, count, mean confidence and accuracy (NaN where empty)."""
    bins, size = bin_of(confidence, edges), len(edges) - 1
    count = np.bincount(bins, minlength=size)
    sums = (np.bincount(bins, weights=values, minlength=size) for values in (confidence, correct))
    means = [np.divide(total, count, out=np.full(size, np.nan), where=count > 0) for total in sums]
    keys = ("bin", "low", "high", "count", "confidence", "accuracy")
    return dict(zip(keys, (np.arange(size), edges[:-1], edges[1:], count, *means), strict=True))
