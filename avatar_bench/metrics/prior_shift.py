"""Performance under prior shift: other class proportions, with and without correction.

The assumption is label shift: the images of a class have the same distribution, and only the class proportions change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax

from avatar_bench.metrics import classification
from avatar_bench.metrics.stats import ratio

Floats = NDArray[np.float64]
_TOLERANCE = 1e-7  # of an estimated proportion
_RESAMPLE_TOLERANCE = 1e-4  # of resamples, whose spread is much larger
PRIOR_PREFIXES = ("", "corrected/", "estimated/")  # of metric names: no correction, known priors, estimated priors
_METRICS = {"accuracy": classification.accuracy, "macro_f1": classification.macro_f1}
PRIOR_SHIFT_COLUMNS = (
    *(f"{prefix}{metric}" for metric in _METRICS for prefix in PRIOR_PREFIXES),
    *(f"{prefix}gain" for prefix in PRIOR_PREFIXES[1:]),
    "prior_error",
)


def make_prior(index: int, proportion: float, classes: int) -> Floats:
    """Return class proportions (C,) with `proportion` for class `index` and equal parts of the rest for the others."""
    prior = np.full(classes, (1 - proportion) / max(1, classes - 1))
    prior[index] = proportion
    return prior


def reweight_confusion(confusion: ArrayLike, prior: ArrayLike) -> Floats:
    """Scale the rows of a confusion matrix (..., C, C), targets by predictions, to the class proportions `prior` (C,).

    All NaN if a class with a positive proportion has no image.
    """
    table, proportion = np.asarray(confusion, dtype=np.float64), np.asarray(prior, dtype=np.float64)[:, None]
    scaled = np.where(proportion > 0, ratio(table, table.sum(axis=-1, keepdims=True)), 0.0) * proportion
    return np.where(np.isnan(scaled).any(axis=(-2, -1), keepdims=True), np.nan, scaled)


def reweight_images(weights: ArrayLike, targets: NDArray[np.integer], prior: ArrayLike) -> Floats:
    """Scale the weights (B, N) of images so that each class of `targets` (N,) has its proportion of `prior` (C,).

    A row is NaN if a class with a positive proportion has no weight.
    """
    unscaled, proportion = np.asarray(weights, dtype=np.float64), np.asarray(prior, dtype=np.float64)
    factor = np.where(proportion > 0, ratio(proportion, unscaled @ np.eye(len(proportion))[targets]), 0.0)
    factor[np.isnan(factor).any(axis=1)] = np.nan
    return np.asarray(unscaled * factor[:, targets])


def correct_prior(logits: ArrayLike, training: ArrayLike, prior: ArrayLike) -> Floats:
    """Compute the posteriors (..., N, C) under class proportions `prior` (..., C) instead of those of training (C,).

    `logits` (N, C) are already divided by the temperature; their softmax must be calibrated for the proportions of
    training. Each posterior is multiplied by prior / training and normalised.
    Saerens, Latinne and Decaestecker, Neural Comput. 14 (2002) 21, eq. 2.4.
    """
    with np.errstate(divide="ignore"):  # a proportion of 0 excludes a class
        shift = np.log(np.asarray(prior, dtype=np.float64)) - np.log(np.asarray(training, dtype=np.float64))
    return np.asarray(softmax(np.asarray(logits, dtype=np.float64) + shift[..., None, :], axis=-1))


def estimate_prior(
    probabilities: Floats, training: Floats, weights: Floats, start: Floats, tolerance: float, iterations: int = 300
) -> Floats:
    """Estimate the class proportions (B, C) of unlabelled images by maximum likelihood, with expectation maximisation.

    `probabilities` (N, C) are posteriors under the proportions of training (C,), `weights` (B, N) the counts of images.
    It begins with the proportions `start` (C,) and stops when none changes by more than `tolerance`; a row of NaN
    weights returns NaN.
    Saerens, Latinne and Decaestecker, Neural Comput. 14 (2002) 21, eq. 2.9.
    """
    likelihood = probabilities / training
    part = weights / weights.sum(axis=1, keepdims=True)
    evidence = np.empty_like(part)  # reused by all steps, since allocation is slower than the arithmetic

    def step(prior: Floats) -> Floats:
        np.matmul(prior, likelihood.T, out=evidence)
        np.maximum(evidence, np.finfo(float).tiny, out=evidence)
        return np.asarray(prior * (np.divide(part, evidence, out=evidence) @ likelihood))

    prior = np.array(np.broadcast_to(start, (len(part), len(training))))
    for _ in range(iterations):
        once = step(prior)
        if not (np.abs(once - prior) > tolerance).any():
            return once
        prior = step(_extrapolate(prior, once, step(once)))
    return prior


def _extrapolate(prior: Floats, once: Floats, twice: Floats) -> Floats:
    """Extrapolate two EM steps (B, C) within the simplex to speed up convergence.

    Scheme SqS3 of Varadhan and Roland, Scand. J. Stat. 35 (2008) 335; plain steps need hundreds where classes overlap.
    """
    first, bend = once - prior, twice - 2 * once + prior
    bent = np.linalg.norm(bend, axis=1, keepdims=True)
    length = np.linalg.norm(first, axis=1, keepdims=True)
    far = np.maximum(1.0, np.divide(length, bent, out=np.ones_like(bent), where=bent > 0))
    there = np.maximum(prior + 2 * far * first + far**2 * bend, twice / 10)  # 0 could never increase again
    return np.asarray(there / there.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class PriorShiftStatistic:
    """Statistic of image weights under class proportions `prior` (C,).

    `logits` (N, C) are divided by the temperature, `targets` (N,) are classes, `training` (C,) the proportions of
    training.
    """

    logits: Floats
    targets: NDArray[np.integer]
    training: Floats
    prior: Floats

    def __call__(self, weights: Floats) -> Floats:
        """Compute PRIOR_SHIFT_COLUMNS and the estimated proportion of each class for weights (B, N), (B, 9 + C).

        Metrics without a prefix use the network's predictions; `corrected/` uses the known proportions, `estimated/`
        those estimated from the unlabelled images. Gains are in accuracy over the network's predictions; `prior_error`
        is the total variation distance of the estimated proportions from the true ones, 0 to 1.
        """
        estimate = self._estimate(weights, self._start, _RESAMPLE_TOLERANCE if len(weights) > 1 else _TOLERANCE)
        known = correct_prior(self.logits, self.training, self.prior).argmax(axis=1)
        shift = np.log(np.maximum(estimate, np.finfo(float).tiny) / self.training)
        estimated = (self.logits + shift[:, None, :]).argmax(axis=2)
        tables = [self._confusion(weights, predicted) for predicted in (self.logits.argmax(axis=1), known, estimated)]
        accuracy, macro_f1 = (np.stack([metric(table) for table in tables]) for metric in _METRICS.values())
        gains = accuracy[1:] - accuracy[:1]
        error = np.abs(estimate - self.prior).sum(axis=1) / 2
        return np.column_stack([*accuracy, *macro_f1, *gains, error, estimate])

    @cached_property
    def _start(self) -> Floats:
        """Return the estimate from all images, the starting point for resamples."""
        return np.asarray(self._estimate(np.ones((1, len(self.targets))), self.training, _TOLERANCE)[0])

    def _estimate(self, weights: Floats, start: Floats, tolerance: float) -> Floats:
        mixed = reweight_images(weights, self.targets, self.prior)
        probabilities = np.asarray(softmax(self.logits, axis=1))
        return estimate_prior(probabilities, self.training, mixed, start, tolerance)

    def _confusion(self, weights: Floats, predicted: NDArray[np.intp]) -> Floats:
        """Compute the reweighted confusion matrices (B, C, C) of predictions (N,), or (B, N) if resamples differ."""
        classes = np.arange(len(self.prior))
        member = np.asarray(self.targets[:, None] == classes, dtype=np.float64)
        table = np.stack([(weights * (predicted == name)) @ member for name in classes], axis=-1)
        return reweight_confusion(table, self.prior)


def guessing_floor(column: str, training: Floats, prior: Floats) -> float:
    """Return the value of one of PRIOR_SHIFT_COLUMNS under `prior` (C,) for a network that ignores the images.

    Without correction it predicts each class equally often; with known or estimated proportions it predicts the
    majority class; its estimate stays at the proportions of training (C,).
    """
    prefix, _, metric = column.rpartition("/")
    if metric == "gain":
        return guessing_floor(f"{prefix}/accuracy", training, prior) - guessing_floor("accuracy", training, prior)
    if metric == "prior_error":
        return float(np.abs(training - prior).sum() / 2)
    guesses = np.eye(len(prior))[prior.argmax()] if prefix else np.full(len(prior), 1 / len(prior))
    table = prior[:, None] * guesses
    return float(_METRICS[metric](table))
