"""How well probabilities tell how often they are right, and the temperature that mends them.

The calibration errors take targets (..., N), so that many draws of them are judged at once, or weights (B, N), how
often each image was drawn in each of B resamples. The tests hold them against scikit-learn and torchmetrics.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from scipy.special import log_softmax

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
TEMPERATURE_RANGE = (0.05, 20.0)
ECE_KINDS = ("ece_10", "ece_15", "ece_adaptive", "ece_classwise")
ECE_BINS = 15  # of every kind but ece_10; Guo et al.
_TEMPERATURE_GRID = np.geomspace(*TEMPERATURE_RANGE, 161)  # 3.8 % apart, where the loss is a parabola
_CHUNK_ELEMENTS = 4_000_000  # outcomes held at once: 32 MB


def nll(logits: ArrayLike, targets: NDArray[np.integer], temperature: float = 1.0) -> float:
    """Give the mean negative log-likelihood in nats of targets (N,) under logits (N, C) / temperature."""
    return float(image_losses(logits, targets, temperature).mean())


def fit_temperature(logits: ArrayLike, targets: NDArray[np.integer]) -> float:
    """Give the temperature, .05 to 20, that minimises the negative log-likelihood of targets (N,) under logits (N, C).

    An end of the range is the answer where there is no minimum inside, as when every image is right. Raise
    ValueError without images. Guo et al., ICML 2017.
    """
    if len(targets) == 0:
        raise ValueError("a temperature cannot be fitted without images")
    from scipy.optimize import minimize_scalar  # here and not above: verdicts need no fit

    found = minimize_scalar(
        lambda log_t: nll(logits, targets, float(np.exp(log_t))),
        bounds=tuple(np.log(TEMPERATURE_RANGE)),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.clip(np.exp(found.x), *TEMPERATURE_RANGE))


def fit_resampled_temperatures(logits: ArrayLike, targets: NDArray[np.integer], weights: Floats) -> Floats:
    """Give the temperature (B,) that fits each of B resamples, weights (B, N), to 1 % where it lies inside its range.

    The losses of a grid of temperatures are one matrix product; a parabola through the best three finds the minimum.
    """
    losses = weights @ np.column_stack([image_losses(logits, targets, t) for t in _TEMPERATURE_GRID])
    best = np.clip(losses.argmin(axis=1), 1, len(_TEMPERATURE_GRID) - 2)
    left, middle, right = (losses[np.arange(len(losses)), best + step] for step in (-1, 0, 1))
    bend = left - 2 * middle + right
    shift = np.divide(left - right, 2 * bend, out=np.zeros_like(bend), where=bend > 0)
    step = np.log(_TEMPERATURE_GRID[1] / _TEMPERATURE_GRID[0])
    return np.asarray(np.exp(np.log(_TEMPERATURE_GRID[best]) + step * np.clip(shift, -1, 1)))


def image_losses(logits: ArrayLike, targets: NDArray[np.integer], temperature: float = 1.0) -> Floats:
    """Give each image's negative log-likelihood in nats, (N,), under logits (N, C) / temperature."""
    log_probabilities = log_softmax(np.asarray(logits, dtype=np.float64) / temperature, axis=1)
    return np.asarray(-log_probabilities[np.arange(len(targets)), targets])


def brier_scores(probabilities: Reals, targets: NDArray[np.integer]) -> Floats:
    """Give each image's squared distance of its probabilities (N, C) from the truth, summed over classes, 0 to 2.

    Brier, Mon. Weather Rev. 78 (1950) 1.
    """
    return np.asarray(((probabilities - np.eye(probabilities.shape[1])[targets]) ** 2).sum(axis=1))


def equal_width_edges(bins: int) -> Floats:
    """Give the edges (bins + 1,) of bins of one width from 0 to 1; a bin holds its upper edge."""
    return np.linspace(0.0, 1.0, bins + 1)


def equal_mass_edges(confidence: Reals, bins: int = ECE_BINS) -> Floats:
    """Give the edges of bins that hold equally many of the confidences (N,); fewer bins where many are equal."""
    return np.unique(np.quantile(confidence, np.linspace(0.0, 1.0, bins + 1)))


def assign_bins(confidence: Reals, edges: Reals) -> NDArray[np.intp]:
    """Give the number of the bin (N,) of each confidence; the lowest edge belongs to the first bin."""
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, max(0, len(edges) - 2))


def ece(confidence: Reals, correct: ArrayLike, edges: Reals, weights: Floats | None = None) -> Floats:
    """Give the expected calibration error, 0 to 1: the gap between confidence and accuracy, averaged over the bins.

    `confidence` is (N,); `correct` (..., N) gives (...), or `weights` (..., N) do. Naeini et al., AAAI 2015.
    """
    return np.asarray(np.abs(_bin_gaps(confidence, correct, edges, weights)).sum(axis=-1))


def bin_gaps(probabilities: Reals, targets: NDArray[np.integer], weights: Floats | None = None) -> list[Floats]:
    """Give by kind of ECE_KINDS the gap of each bin, accuracy minus confidence times its share of the images.

    Each is (..., bins) and its absolute values sum to the error. `targets` are (..., N), or `weights` are. The bins
    are of the predicted class, 10 and 15 equal ones and 15 of equal mass (Nguyen and O'Connor, EMNLP 2015), and 15
    equal ones of each class's probability, divided by the number of classes (Kull et al., NeurIPS 2019).
    """
    confidence, correct = probabilities.max(axis=1), targets == probabilities.argmax(axis=1)
    kinds = (equal_width_edges(10), equal_width_edges(ECE_BINS), equal_mass_edges(confidence))
    top = [_bin_gaps(confidence, correct, edges, weights) for edges in kinds]
    columns = enumerate(probabilities.T)
    by_class = [_bin_gaps(column, targets == index, equal_width_edges(ECE_BINS), weights) for index, column in columns]
    return [*top, np.concatenate(by_class, axis=-1) / len(by_class)]


def calibration_errors(probabilities: Reals, targets: NDArray[np.integer], weights: Floats | None = None) -> Floats:
    """Give the errors of ECE_KINDS, (..., 4), as `bin_gaps` bins them, for targets (..., N) or weights (..., N)."""
    return np.stack([np.abs(gaps).sum(axis=-1) for gaps in bin_gaps(probabilities, targets, weights)], axis=-1)


def make_deviation_statistic(
    probabilities: Reals, targets: NDArray[np.integer], groups: ArrayLike
) -> Callable[[Floats], Floats]:
    """Give what maps weights (B, N) to how far chance moves the errors of ECE_KINDS, (B, 16), four columns each.

    The columns are the errors that chance makes of no gap at all; what it adds to the error of gaps one standard
    error (by group) smaller than those seen; and what it adds to, and takes from, that of gaps too large to change
    sign. Chance adds most to small gaps and never takes more than from large ones, so the second column bounds
    how far an error lies too high, and the last two how far too low.
    """
    seen = bin_gaps(probabilities, targets)
    errors = _gap_standard_errors(probabilities, targets, groups)
    smaller = [_shrink_gaps(gaps, error) for gaps, error in zip(seen, errors, strict=True)]

    def deviations(weights: Floats) -> Floats:
        noise = [drawn - gaps for drawn, gaps in zip(bin_gaps(probabilities, targets, weights), seen, strict=True)]
        alone = [np.abs(moved) for moved in noise]
        added = [np.abs(gaps + moved) - np.abs(gaps) for gaps, moved in zip(smaller, noise, strict=True)]
        signed = [np.sign(gaps) * moved for gaps, moved in zip(seen, noise, strict=True)]
        return np.stack([part.sum(axis=1) for part in (*alone, *added, *signed, *(-s for s in signed))], axis=1)

    return deviations


def simulate_noise_floor(
    probabilities: Reals, draws: int = 2000, seed: int = 0, groups: ArrayLike | None = None, correlation: float = 0.0
) -> Floats:
    """Give the errors of ECE_KINDS, (draws, 4), of a perfectly calibrated network that is as confident as this one.

    The true classes are drawn from the probabilities (N, C) themselves, so that chance alone makes the errors;
    Vaicenavicius et al., AISTATS 2019. Two images of one of the `groups` (N,) are right or wrong by one and the same
    draw with a chance of `correlation`, 0 to 1.
    """
    generator, n = np.random.default_rng(seed), len(probabilities)
    member = None if groups is None or correlation <= 0 else np.unique(np.asarray(groups), return_inverse=True)[1]
    # the likeliest class comes first, so that one number decides for a whole group whether it is right
    order = np.argsort(-probabilities, axis=1, kind="stable")
    below = np.take_along_axis(probabilities, order, axis=1).cumsum(axis=1)[:, :-1]
    found = []
    for start in range(0, draws, step := max(1, _CHUNK_ELEMENTS // n)):
        uniform = generator.random((min(step, draws - start), n))
        if member is not None:
            shared = generator.random((len(uniform), int(member.max()) + 1))[:, member]
            uniform = np.where(generator.random(uniform.shape) < np.sqrt(correlation), shared, uniform)
        rank = (uniform[..., None] >= below).sum(axis=-1)
        found.append(calibration_errors(probabilities, order[np.arange(n), rank]))
    return np.concatenate(found)


def group_correlation(gaps: ArrayLike, groups: ArrayLike) -> float:
    """Give the correlation, 0 to 1, of two images of one group in their gaps (N,) of correctness and confidence.

    The mean product over all such pairs, divided by the variance; 0 where no group has two images.
    """
    _, member, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    centred = np.asarray(gaps, dtype=np.float64)
    centred = centred - centred.mean()
    pairs, variance = float((sizes * (sizes - 1)).sum()), float((centred**2).mean())
    if pairs == 0 or variance == 0:
        return 0.0
    products = (np.bincount(member, weights=centred) ** 2).sum() - (centred**2).sum()
    return float(np.clip(products / pairs / variance, 0.0, 1.0))


def reliability_bins(confidence: Reals, correct: NDArray[np.bool_], edges: Reals) -> dict[str, NDArray[np.generic]]:
    """Give a reliability diagram's bins: bin, low, high, count, mean confidence and accuracy (NaN where empty)."""
    bins, size = assign_bins(confidence, edges), len(edges) - 1
    count = np.bincount(bins, minlength=size)
    sums = (np.bincount(bins, weights=values, minlength=size) for values in (confidence, correct))
    means = [np.divide(total, count, out=np.full(size, np.nan), where=count > 0) for total in sums]
    keys = ("bin", "low", "high", "count", "confidence", "accuracy")
    return dict(zip(keys, (np.arange(size), edges[:-1], edges[1:], count, *means), strict=True))


def _bin_gaps(confidence: Reals, correct: ArrayLike, edges: Reals, weights: Floats | None) -> Floats:
    """Give each bin's sum of correctness minus confidence, divided by all images, (..., bins)."""
    bins, gap = assign_bins(confidence, edges), np.asarray(correct, dtype=np.float64) - confidence
    member = np.zeros((len(bins), int(bins.max()) + 1))
    member[np.arange(len(bins)), bins] = 1.0
    if weights is None:
        return np.asarray(gap @ member / len(bins))
    total = weights @ np.ones(len(bins))
    return np.asarray(weights @ (gap[:, None] * member) / total[..., None])


def _gap_standard_errors(probabilities: Reals, targets: NDArray[np.integer], groups: ArrayLike) -> list[Floats]:
    """Give the standard error of every bin's gap, by kind as in `bin_gaps`, when whole groups are drawn."""
    _, member, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    # a resample for each group, of its images alone; sparse, as there may be as many groups as images
    alone: Any = csr_array((np.ones(len(member)), (member, np.arange(len(member)))))
    share = sizes[:, None] / len(member)
    return [np.sqrt(((gaps * share) ** 2).sum(axis=0)) for gaps in bin_gaps(probabilities, targets, alone)]


def _shrink_gaps(gaps: Floats, error: Floats) -> Floats:
    return np.asarray(np.sign(gaps) * np.maximum(0.0, np.abs(gaps) - error))
