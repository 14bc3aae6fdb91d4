"""Estimators of the share of a class in a population, from predictions, calibration images and reviewed labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv
from scipy.stats import norm

from avatar_bench.metrics.stats import Floats, compute_student_factor, percentiles, ratio

FEWEST = 8  # reviewed images of either kind in a stratum from which on its errors are taken for normal
_PROPORTIONAL = 2 / 3  # of the labels, drawn in proportion to the strata, whatever the scores promise
_FEWEST_DRAWN = 2  # in a stratum
_RESAMPLES = 2000


class Share(NamedTuple):
    """Estimated share with the ends of its interval, 0 to 1; `is_clipped` where the estimate was outside of that."""

    value: float
    low: float
    high: float
    is_clipped: bool = False


def invert_confusion(predicted: ArrayLike, confusion: ArrayLike, level: float = 0.95, seed: int = 0) -> list[Share]:
    """Estimate the share of each class from `predicted` counts (C,) and the `confusion` (C, C) of calibration images.

    The confusion matrix, targets by predictions, must have no empty row. The shares solve predicted = confusion^T x
    shares; shares below 0 are clipped, and all divided by their sum. The interval has the percentiles of multinomial
    resamples of the calibration images of each class, and of the predictions.
    Of two classes: Rogan and Gladen, Am. J. Epidemiol. 107 (1978) 71.
    """
    counts, table = np.asarray(predicted, dtype=np.int64), np.asarray(confusion, dtype=np.int64)
    rng = np.random.default_rng(seed)
    rows = [rng.multinomial(row.sum(), row / row.sum(), _RESAMPLES) for row in table]
    drawn = rng.multinomial(counts.sum(), counts / counts.sum(), _RESAMPLES)
    value, is_clipped = _invert(counts[None], table[None])
    ends = percentiles(_invert(drawn, np.stack(rows, axis=1))[0], level)
    triples = zip(value[0].tolist(), *(end.tolist() for end in ends), strict=True)
    return [Share(share, low, high, bool(is_clipped[0])) for share, low, high in triples]


def _invert(predicted: NDArray[np.int64], confusion: NDArray[np.int64]) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the shares (B, C) of counts (B, C) by confusion matrices (B, C, C), and whether they were clipped."""
    rates = ratio(confusion, confusion.sum(axis=-1, keepdims=True))
    observed = ratio(predicted, predicted.sum(axis=-1, keepdims=True))
    raw = (np.linalg.pinv(np.swapaxes(rates, -1, -2)) @ observed[..., None])[..., 0]
    kept = np.maximum(raw, 0)
    return ratio(kept, kept.sum(axis=-1, keepdims=True)), np.asarray((raw < -1e-12).any(axis=-1))


def prediction_powered_mean(
    labels: Floats, scores: Floats, mean: float, variance: float, size: float, level: float = 0.95
) -> tuple[Share, float]:
    """Estimate the mean of `labels` (n,) in a population of `size`, with the power that was tuned, 0 to 1.

    `scores` (n,) predict the labels; `mean` and `variance` are those of the scores in the population. The power scales
    the scores so that the variance of the estimate is least. The interval is normal.
    Angelopoulos and others, Science 382 (2023) 669; tuned: arXiv 2311.01453, section 6.
    """
    n = len(labels)
    centre = (n * scores.mean() + size * mean) / (n + size)
    squares = n * (scores.var() + (scores.mean() - centre) ** 2) + size * (variance + (mean - centre) ** 2)
    spread = (1 + n / size) * squares / (n + size - 1)
    covariance = float(((labels - labels.mean()) * (scores - scores.mean())).mean())
    power = float(np.clip(covariance / spread, 0, 1)) if spread > 0 else 0.0
    rest = labels - power * scores
    value = power * mean + rest.mean()
    half = norm.isf((1 - level) / 2) * np.sqrt(power**2 * variance / size + rest.var() / n)
    return Share(float(value), float(value - half), float(value + half)), power


def exact_interval(positives: ArrayLike, n: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Compute the interval of Clopper and Pearson of `positives` in n; 0 to 1 where n is 0."""
    hits, size = np.asarray(positives, dtype=np.float64), np.asarray(n, dtype=np.float64)
    tail, least = (1 - level) / 2, 1e-300  # a parameter of 0 is replaced: its value is not used
    low = betaincinv(np.maximum(hits, least), size - hits + 1, tail)
    high = betaincinv(hits + 1, np.maximum(size - hits, least), 1 - tail)
    return np.where(hits > 0, low, 0.0), np.where(hits < size, high, 1.0)


def stratified_exact(
    sizes: ArrayLike, reviewed: ArrayLike, positives: ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats, Floats]:
    """Compute share, low and high, each (H,), of strata by exact intervals; 0 to 1 where no image was reviewed.

    Fewer images remain uncertain where many of a stratum are reviewed: the distances are scaled by the finite
    population correction.
    """
    size, n, hits = (np.asarray(part, dtype=np.float64) for part in (sizes, reviewed, positives))
    share = np.divide(hits, n, out=np.full(len(n), 0.5), where=n > 0)
    low, high = exact_interval(hits, n, level)
    left = np.sqrt(np.maximum(1 - n / size, 0))
    return share, share - (share - low) * left, share + (high - share) * left


def combine_strata(
    sizes: ArrayLike,
    reviewed: ArrayLike,
    positives: ArrayLike,
    share: Floats,
    low: Floats,
    high: Floats,
    level: float = 0.95,
) -> Share:
    """Combine the shares (H,) of strata, in the order of their scores.

    Distances to the ends of their intervals add up as variances do (Zou and Donner, Stat. Med. 27 (2008) 1693). The
    lowest strata without a positive have one distance in common, the exact bound of their part of all positives, and so
    have the highest without a negative: see `bound_empty`.
    """
    size, n, hits = (np.asarray(part, dtype=np.float64) for part in (sizes, reviewed, positives))
    weight, tail = size / size.sum(), (1 - level) / 2
    below, above = weight * (share - low), weight * (high - share)
    empty, most = bound_empty(size, n, hits, tail)
    full, fewest = bound_empty(size[::-1], n[::-1], (n - hits)[::-1], tail)
    below[full[::-1]], above[empty] = 0, 0
    value = float(weight @ share)
    low_end, high_end = (float(np.linalg.norm([*parts, bound])) for parts, bound in ((below, fewest), (above, most)))
    return Share(value, max(0.0, value - low_end), min(1.0, value + high_end))


def bound_empty(sizes: Floats, reviewed: Floats, positives: Floats, tail: float) -> tuple[NDArray[np.bool_], float]:
    """Return which strata (H,) have only strata without a positive up to them, and the bound of their positives.

    The bound is a share of all images. Were the positives of the first j strata more, none of them would be drawn with
    a probability below `tail`, which is at most exp(-sum of reviewed x share). Of sets of strata that contain one
    another, the smallest for which that holds decides, so that they need not share the tail.
    """
    hits = np.cumsum(positives)
    empty = (hits <= 0) & (reviewed > 0)
    left = np.sqrt(np.maximum(1 - reviewed / sizes, 0))
    rates = np.where(empty, sizes / np.maximum(reviewed, 1) * left, 0.0) / sizes.sum()
    return empty, min(float(-np.log(tail) * rates.max()), float(sizes[empty].sum() / sizes.sum()))


def estimate_from_review(
    sizes: Floats,
    means: Floats,
    variances: Floats,
    stratum: NDArray[np.integer],
    labels: Floats,
    scores: Floats,
    level: float = 0.95,
) -> Share:
    """Estimate the share of a class from `labels` (n,), 0 or 1, of images drawn at random within strata.

    `sizes`, `means` and `variances` (H,) are those of the strata and of the scores in them. It is the difference
    estimator of survey sampling: in each stratum with FEWEST reviewed images of either kind, prediction-powered and
    widened for few images; elsewhere, by the exact interval of the reviewed images alone, which is 0 to 1 without any.
    """
    n = np.bincount(stratum, minlength=len(sizes)).astype(float)
    hits = np.bincount(stratum, labels, minlength=len(sizes))
    share, low, high = stratified_exact(sizes, n, hits, level)
    share = np.where(n > 0, share, means)
    for h in np.flatnonzero(np.minimum(hits, n - hits) >= FEWEST):
        inside = stratum == h
        powered, _ = prediction_powered_mean(labels[inside], scores[inside], means[h], variances[h], sizes[h], level)
        wide = compute_student_factor(int(n[h]), int(n[h]) - 1, level) * np.sqrt(max(0.0, 1 - n[h] / sizes[h]))
        share[h] = powered.value
        low[h], high[h] = (powered.value + wide * (end - powered.value) for end in powered[1:3])
    return combine_strata(sizes, n, hits, share, low, high, level)


def cut_strata(counts: Floats, shares: Floats, strata: int) -> NDArray[np.intp]:
    """Return where strata of score bins begin after the first, (H - 1,): each has an equal part of the deviations.

    `counts` and `shares` (B,) are the number of images in a bin and the share of the class that their scores promise.
    A stratum without an image is none.
    """
    deviation, total = np.cumsum(counts * np.sqrt(shares * (1 - shares))), np.cumsum(counts)
    cuts = np.unique(np.searchsorted(deviation, deviation[-1] * np.arange(1, strata) / strata) + 1)
    cuts = cuts[cuts < len(counts)]
    sizes = np.diff(total[cuts - 1], prepend=0.0)
    return np.asarray(cuts[(sizes > 0) & (total[cuts - 1] < total[-1])])


def allocate(sizes: Floats, deviations: Floats, n: int) -> NDArray[np.int64]:
    """Return how many of n labels each stratum (H,) gets, at most its size.

    Two thirds are in proportion to the sizes, which bounds the weights whatever the scores are worth, one third in
    proportion to sizes times deviations (Neyman, J. R. Stat. Soc. 97 (1934) 558).
    """
    neyman = sizes * np.maximum(deviations, 1e-9)
    wanted = n * (_PROPORTIONAL * sizes / sizes.sum() + (1 - _PROPORTIONAL) * neyman / neyman.sum())
    drawn = np.minimum(np.maximum(np.floor(wanted), _FEWEST_DRAWN), sizes).astype(np.int64)
    while drawn.sum() < min(n, sizes.sum()):
        drawn[np.argmax(np.where(drawn < sizes, wanted - drawn, -np.inf))] += 1
    return np.asarray(drawn)
