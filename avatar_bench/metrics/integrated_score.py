"""How models are ranked by several qualities at once: ranges, weighted means, ranks, the Pareto front, random weights.

M models have Q qualities each; a leading `...` stands for resamples or weightings of the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Floats = NDArray[np.float64]
_TIE_DIGITS = (
    12  # scores that agree so far are equal: sums of the same numbers in another order are not, to the last bit
)


def scale_to_range(values: ArrayLike, worst: float, best: float, log: bool = False) -> Floats:
    """Put values on a scale from 0 at `worst` to 1 at `best`, cut off beyond them; `best` may be the lower one.

    With `log`, equal ratios are equal steps; values and both ends are then above 0. NaN stays NaN.
    """
    value, low, high = (np.asarray(numbers, dtype=np.float64) for numbers in (values, worst, best))
    if log:
        value, low, high = np.log(value), np.log(low), np.log(high)
    return np.asarray(np.clip((value - low) / (high - low), 0.0, 1.0))


def scale_min_max(values: ArrayLike, higher_is_better: bool, among: NDArray[np.bool_] | None = None) -> Floats:
    """Put values (..., M) on a scale from 0, the worst of the models `among` (M,), to 1, their best; .5 if all agree.

    Another model moves it, which is why a fixed range is to be preferred.
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
    """Give the mean of qualities (..., Q) under weights (Q,) or (W, 1, Q) that sum to more than 0; NaN if one is."""
    value, weight = np.asarray(normalised, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    return np.asarray((value * weight).sum(axis=-1) / weight.sum(axis=-1))


def ranks(scores: ArrayLike) -> Floats:
    """Give the rank of each score (..., M), 1 the highest; equal ones share the better rank."""
    return np.asarray(
        rankdata(-np.round(np.asarray(scores, dtype=np.float64), _TIE_DIGITS), method="min", axis=-1), dtype=np.float64
    )


def rank_shares(rank: ArrayLike) -> Floats:
    """Give how often each model has each rank, (M, M), from ranks (B, M) with ties.

    Models that tie for some ranks hold equal parts of each, so that rows and columns sum to 1.
    """
    place = np.asarray(rank)[:, :, None]
    tied = (place == place.transpose(0, 2, 1)).sum(axis=2)[:, :, None]
    possible = np.arange(1, place.shape[1] + 1)
    held = (possible >= place) & (possible < place + tied)
    return np.asarray((held / tied).mean(axis=0))


def pareto_front(normalised: ArrayLike) -> NDArray[np.bool_]:
    """Tell which models (M, Q) no other equals in every quality and beats in one, (M,)."""
    value = np.round(np.asarray(normalised, dtype=np.float64), _TIE_DIGITS)
    least, most = (value[None] - value[:, None]).min(axis=2), (value[None] - value[:, None]).max(axis=2)
    beaten = (least >= 0) & (most > 0)
    return np.asarray(~beaten.any(axis=1))


def draw_weights(weightings: int, qualities: int, seed: int = 0) -> Floats:
    """Draw weights (W, Q) that sum to 1, every mix of the qualities as likely as another: Dirichlet(1, ..., 1)."""
    return np.random.default_rng(seed).dirichlet(np.ones(qualities), weightings)


def draw_counts(units: int, resamples: int, generator: np.random.Generator) -> Floats:
    """Draw how often each of some units is met when as many are drawn with replacement, (B, units)."""
    return generator.multinomial(units, np.full(units, 1 / units), resamples).astype(np.float64)


def rank_interval(rank: ArrayLike, level: float = 0.95) -> tuple[Floats, Floats]:
    """Give the ranks between which a share `level` of ranks (B, M) lies, each an own rank of the model, (M,)."""
    ends = np.quantile(np.asarray(rank), [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return ends[0], ends[1]
