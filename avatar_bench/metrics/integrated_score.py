"""Ranking of models by several qualities: scaling, weighted means, ranks and Pareto front.

M models have Q qualities each; leading dimensions `...` are draws or weightings.
"""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
_TIE_DIGITS = 12  # scores that agree to these digits are ties: rounding depends on the order of summation


def scale_to_range(values: ArrayLike, worst: float, best: float, log: bool = False) -> Floats:
    """Scale values from 0 at `worst` to 1 at `best`, clipped; `best` may be below `worst`.

    With `log` the scale is logarithmic; values and both ends must be above 0. NaN stays NaN.
    """
    value, low, high = (np.asarray(numbers, dtype=np.float64) for numbers in (values, worst, best))
    if log:
        value, low, high = np.log(value), np.log(low), np.log(high)
    return np.asarray(np.clip((value - low) / (high - low), 0.0, 1.0))


def scale_min_max(values: ArrayLike, higher_is_better: bool, among: NDArray[np.bool_] | None = None) -> Floats:
    """Scale values (..., M) from 0, the worst of the models `among` (M,), to 1, the best; .5 if all are equal.

    The scale depends on the models compared, so a fixed range is preferable.
    """
    value = np.asarray(values, dtype=np.float64) * (1 if higher_is_better else -1)
    known = value if among is None else value[..., among]
    if not known.shape[-1]:
        return np.full(value.shape, np.nan)
    low, high = known.min(axis=-1, keepdims=True), known.max(axis=-1, keepdims=True)
    span = np.broadcast_to(high - low, value.shape)
    scaled = np.divide(value - low, span, out=np.full(value.shape, 0.5), where=span > 0)
    return np.asarray(np.where(np.isnan(value), np.nan, np.clip(scaled, 0.0, 1.0)))


def weighted_mean(normalised: ArrayLike, weights: ArrayLike) -> Floats:
    """Compute the mean of qualities (..., Q) with weights (Q,) or (W, 1, Q) of positive sum; NaN if one is NaN."""
    value, weight = np.asarray(normalised, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    return np.asarray((value * weight).sum(axis=-1) / weight.sum(axis=-1))


def rank_shares(rank: ArrayLike) -> Floats:
    """Compute the frequency of each rank per model, (M, M), from ranks (B, M) with ties.

    Tied models share their ranks in equal parts, so that rows and columns sum to 1.
    """
    ranks = np.asarray(rank)[:, :, None]
    tied = (ranks == ranks.transpose(0, 2, 1)).sum(axis=2)[:, :, None]
    possible = np.arange(1, ranks.shape[1] + 1)
    held = (possible >= ranks) & (possible < ranks + tied)
    return np.asarray((held / tied).mean(axis=0))


def pareto_front(normalised: ArrayLike) -> NDArray[np.bool_]:
    """Find the Pareto-optimal models (M,) of qualities (M, Q): no other is at least equal in all and better in one."""
    value = np.round(np.asarray(normalised, dtype=np.float64), _TIE_DIGITS)
    least, most = (value[None] - value[:, None]).min(axis=2), (value[None] - value[:, None]).max(axis=2)
    beaten = (least >= 0) & (most > 0)
    return np.asarray(~beaten.any(axis=1))


def draw_from_interval(
    normal: ArrayLike, value: float, low: float, high: float, level: float = 0.95, log: bool = False
) -> Floats:
    """Map standard normal numbers to numbers with the median `value` and the quantiles `low` and `high` at `level`.

    Each side is half a normal distribution (split normal), with `log` on a logarithmic scale.
    """
    if log:
        below, above = (float(np.log(end / value)) for end in (low, high))
        return np.asarray(value * np.exp(draw_from_interval(normal, 0.0, below, above, level)))
    number = np.asarray(normal, dtype=np.float64) / NormalDist().inv_cdf((1 + level) / 2)
    return np.asarray(value + number * np.where(number > 0, max(high - value, 0.0), max(value - low, 0.0)))


def rank_interval(rank: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Compute the central interval of ranks (B, M) at a level, both ends (M,) observed ranks of the model."""
    ends = np.quantile(np.asarray(rank), [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return ends[0], ends[1]
