"""Numbers on attribution maps: pixel ranks, areas under curves, rank correlation, and overlap of two networks."""

from __future__ import annotations

import zlib

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import ArrayLike, NDArray

from avatar_bench.metrics.stats import nan_mean, ratio

Floats = NDArray[np.float64]
Masks = NDArray[np.bool_]

OVERLAP_MEASURES = ("iou_top20", "iou_half", "pearson", "spearman")


def upsample(maps: ArrayLike, size: int) -> Floats:
    """Upsample maps (N, h, w) bilinearly to (N, size, size), with aligned pixel centres and replicated borders."""
    values = np.asarray(maps, dtype=np.float64)
    rows, columns = (_weights(length, size) for length in values.shape[1:])
    return np.asarray(rows @ values @ columns.T)


def rank_pixels(maps: ArrayLike, size: int, generator: np.random.Generator) -> NDArray[np.int32]:
    """Rank the pixels of images by their maps, (N, h, w) to (N, size, size); 0 is the most important.

    Ties, such as the zeros of a rectified map, are ordered at random.
    """
    values = upsample(maps, size).reshape(len(np.asarray(maps)), -1)
    ties = generator.random(values.shape)
    order = np.lexsort((ties, -values))
    ranks = np.empty(order.shape, dtype=np.int32)
    np.put_along_axis(ranks, order, np.arange(size * size, dtype=np.int32)[None], axis=1)
    return ranks.reshape(-1, size, size)


def area_under_curve(curves: ArrayLike) -> Floats:
    """Compute the area (N,) under each curve (N, K + 1) over K equal steps from 0 to 1, by the trapezoidal rule."""
    heights = np.asarray(curves, dtype=np.float64)
    return np.asarray(np.trapezoid(heights, dx=1 / (heights.shape[1] - 1), axis=1))


def rank_correlation(first: ArrayLike, second: ArrayLike) -> Floats:
    """Compute Spearman's correlation (N,) of each pair of maps (N, h, w); NaN if a map is constant."""
    left, right = (_ranks(np.asarray(maps)).reshape(len(np.asarray(maps)), -1) for maps in (first, second))
    left, right = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (left, right))
    norms = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return ratio((left * right).sum(axis=1), norms)


def overlaps(first: ArrayLike, second: ArrayLike) -> dict[str, Floats]:
    """Compute the OVERLAP_MEASURES (N, M) of every map of one network (N, h, w) with every map of another (M, H, W).

    The diagonal compares maps of the same image, the rest maps of different images. NaN if a map is constant.
    """
    left, right = upsample_to_common_grid(first, second)
    ious = (iou(mask(left), mask(right)) for mask in (top_cells, hot_cells))
    measured = (*ious, correlation(left, right), correlation(_ranks(left), _ranks(right)))
    return dict(zip(OVERLAP_MEASURES, measured, strict=True))


def chance_overlaps(first: ArrayLike, second: ArrayLike) -> dict[str, Floats]:
    """Compute the expected OVERLAP_MEASURES (N,) of N pairs of maps if the cells of one are shuffled."""
    left, right = upsample_to_common_grid(first, second)
    none, expected = np.where(_constant(left) | _constant(right), np.nan, 0.0), []
    for mask in (top_cells, hot_cells):
        sizes = zip(*(mask(maps).sum(axis=(1, 2)).tolist() for maps in (left, right)), strict=True)
        expected.append(np.array([chance_iou(a, b, left[0].size) if a and b else np.nan for a, b in sizes]))
    return dict(zip(OVERLAP_MEASURES, (*expected, none, none), strict=True))


def upsample_to_common_grid(first: ArrayLike, second: ArrayLike) -> tuple[Floats, Floats]:
    """Return maps (N, h, w) and (M, H, W) on one grid: unchanged, or upsampled to a square of the longest side."""
    left, right = (np.asarray(maps, dtype=np.float64) for maps in (first, second))
    if left.shape[1:] == right.shape[1:]:
        return left, right
    side = max(*left.shape[1:], *right.shape[1:])
    return upsample(left, side), upsample(right, side)


def top_cells(maps: ArrayLike, fraction: float = 0.2) -> Masks:
    """Mark the most important cells of maps (N, h, w): the same fraction of each map, rounded, at least one cell.

    Ties are broken at random, seeded by the map's values: a map always has the same top cells, but two maps with
    zeros in the same places do not. A constant map has none.
    """
    values = np.asarray(maps, dtype=np.float64)
    count = max(1, round(fraction * values[0].size)) if len(values) else 0
    flat = values.reshape(len(values), values[0].size if len(values) else 0)
    top = np.zeros(flat.shape, dtype=np.bool_)
    for row, mask in zip(flat, top, strict=True):
        ties = np.random.default_rng(zlib.crc32(row.tobytes())).random(len(row))
        mask[np.lexsort((ties, -row))[:count]] = True
    return np.asarray(top.reshape(values.shape) & ~_constant(values)[:, None, None])


def hot_cells(maps: ArrayLike, level: float = 0.5) -> Masks:
    """Mark the cells of maps (N, h, w) with at least this fraction of the map's maximum.

    A map that is constant or nowhere above 0 has none.
    """
    values = np.asarray(maps, dtype=np.float64)
    largest = values.max(axis=(1, 2), keepdims=True)
    return np.asarray((values >= level * largest) & (largest > 0) & ~_constant(values)[:, None, None])


def iou(first: Masks, second: Masks) -> Floats:
    """Compute the IoU (N, M) of every mask (N, h, w) with every other (M, h, w); NaN if one is empty."""
    left, right = (masks.reshape(len(masks), -1).astype(np.float64) for masks in (first, second))
    shared, sizes, others = left @ right.T, left.sum(axis=1)[:, None], right.sum(axis=1)[None]
    return ratio(shared, np.where((sizes > 0) & (others > 0), sizes + others - shared, 0))


def correlation(first: ArrayLike, second: ArrayLike) -> Floats:
    """Compute Pearson's correlation (N, M) of every map (N, h, w) with every other (M, h, w); NaN if constant."""
    left, right = (_standardise(maps) for maps in (first, second))
    return np.asarray(np.clip(left @ right.T, -1, 1))  # NaN stays


def chance_iou(size: int, right: int, cells: int) -> float:
    """Compute the expected IoU of independent random sets of `size` and `other` out of `cells`; sizes above 0.

    The size of the intersection is hypergeometric. Example: two sets of 20 % of many cells have an IoU of about .111,
    with .04 of the cells in the intersection and .36 in the union.
    """
    shared = np.arange(min(size, right) + 1)
    return float(scipy.stats.hypergeom.pmf(shared, cells, size, right) @ (shared / (size + right - shared)))


def overlap_with_other_images(table: Floats, strata: ArrayLike) -> Floats:
    """Compute the mean overlap (n,) of each image's two maps with those of other images of its stratum.

    `table` (n, n) is the overlap of one network's maps (rows) with another's (columns); `strata` (n,) are labels. NaN
    is ignored; a stratum of one image is NaN.
    """
    labels = np.asarray(strata)
    right = (labels[:, None] == labels[None]) & ~np.eye(len(labels), dtype=np.bool_)
    apart = np.where(right, table, np.nan)
    return nan_mean(np.concatenate([apart, apart.T], axis=1), axis=1)


def shuffle_within_strata(strata: ArrayLike, times: int, generator: np.random.Generator) -> NDArray[np.intp]:
    """Draw random permutations of n images within their strata, (times, n) positions."""
    labels = np.unique(np.asarray(strata), return_inverse=True)[1]
    drawn = generator.random((times, len(labels)))
    places = np.empty(drawn.shape, dtype=np.intp)
    places[:, np.argsort(labels, kind="stable")] = np.lexsort((drawn, np.broadcast_to(labels, drawn.shape)), axis=1)
    return places


def _constant(maps: Floats) -> Masks:
    return np.asarray(maps.max(axis=(1, 2)) <= maps.min(axis=(1, 2)))


def _ranks(maps: Floats) -> Floats:
    return np.asarray(scipy.stats.rankdata(maps.reshape(len(maps), -1), axis=1).reshape(maps.shape))


def _standardise(maps: ArrayLike) -> Floats:
    """Return each map as a row of mean 0 and norm 1; NaN if it is constant."""
    values = np.asarray(maps, dtype=np.float64)
    flat = values.reshape(len(values), -1)
    centred = flat - flat.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    length[_constant(values)] = np.nan
    return np.asarray(centred / length)


def _weights(length: int, size: int) -> Floats:
    """Return the matrix (size, length) of linear interpolation between cell centres."""
    places = np.clip((np.arange(size) + 0.5) * length / size - 0.5, 0, length - 1)
    return np.asarray(np.maximum(0.0, 1 - np.abs(places[:, None] - np.arange(length))))
