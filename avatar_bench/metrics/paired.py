"""Comparisons of classifiers on the same images: tests, joint resamples, ranks and compact letter displays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom

from avatar_bench.metrics import stats

Floats = NDArray[np.float64]


def cluster_permutation_test(gains: ArrayLike, groups: ArrayLike) -> float:
    """Compute the exact two-sided p-value of a sign-flip test of gains (N,) in groups (N,).

    `gains` are integers: 1 if only classifier b is correct, -1 if only a is, or sums of these over seeds. Under the
    null the gain of each whole group changes its sign at random; the distribution of the sum is computed exactly by
    convolution. Pagano and Tritchler, J. Am. Stat. Assoc. 78 (1983) 435. It equals `stats.mcnemar` if all groups have
    gains of equal size.
    """
    summed = sum_by_group(gains, groups)
    sizes, counts = np.unique(np.abs(summed[summed != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    step = np.gcd.reduce(sizes)
    chances = np.ones(1)  # distribution of the sum over groups that keep their sign
    for size, count in zip(sizes // step, counts, strict=True):
        own = np.zeros(int(size * count) + 1)
        own[::size] = binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, own)
    sums = 2 * np.arange(len(chances)) - (len(chances) - 1)
    return float(min(1.0, chances[np.abs(sums) >= abs(summed.sum()) // step].sum()))


def sum_by_group(values: ArrayLike, groups: ArrayLike) -> NDArray[np.int64]:
    """Sum integers (N,) by group (N,), in the order of the sorted groups."""
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    return np.rint(np.bincount(member, np.asarray(values, dtype=np.float64))).astype(np.int64)


def design_effect(gains: ArrayLike, groups: ArrayLike) -> float:
    """Compute the design effect of groups, at least 1: how many grouped images carry the information of one.

    It is the variance of the sum of gains by group over that of as many independent images.
    """
    gain = np.asarray(gains, dtype=np.float64)
    spread = float((gain**2).sum())
    return max(1.0, float((sum_by_group(gain, groups) ** 2).sum()) / spread) if spread else 1.0


def resample_groups_and_seeds(
    statistic: stats.Statistic,
    groups: ArrayLike,
    members: Sequence[Sequence[int]],
    seeds: Sequence[int],
    resamples: int = 2000,
    seed: int = 0,
) -> Floats:
    """Compute the mean over the runs of each recipe in B resamples, (B, R), of both groups and runs.

    `statistic` maps weights (B, N) to (B, runs); `members` are the runs of each recipe and `seeds` (runs,) their
    training seeds. All recipes share the resampled groups, and those with the same seeds the resampled seeds, so that
    columns can be subtracted. Both factors of the crossed design are drawn with replacement; Owen, Ann. Appl. Stat. 1
    (2007) 386.
    """
    by_run = stats.resample_statistic(statistic, groups, resamples, seed)
    generator = np.random.default_rng((seed, 1))
    draws: dict[tuple[int, ...], NDArray[np.int64]] = {}
    columns = []
    for runs in members:
        ordered = sorted(runs, key=lambda run: seeds[run])
        size, key = len(ordered), tuple(seeds[run] for run in ordered)
        if key not in draws:
            draws[key] = generator.integers(0, size, (resamples, size))
        columns.append(np.take_along_axis(by_run[:, ordered], draws[key], axis=1).mean(axis=1))
    return np.column_stack(columns)


def resample_units(drawn: Floats, seed: int = 0) -> Floats:
    """Compute the mean over K units in B resamples (B, K) when the units are resampled too, (B,)."""
    chosen = np.random.default_rng((seed, 2)).integers(0, drawn.shape[1], drawn.shape)
    return np.asarray(np.take_along_axis(drawn, chosen, axis=1).mean(axis=1))


def ranks(values: ArrayLike) -> NDArray[np.int64]:
    """Rank values (..., R), 1 for the largest; ties share the better rank."""
    value = np.asarray(values, dtype=np.float64)
    # tolerance for rounding
    return np.asarray(1 + (value[..., None, :] > value[..., :, None] + 1e-12).sum(axis=-1))


def find_tie_groups(apart: ArrayLike) -> list[tuple[int, ...]]:
    """Return the maximal groups without a significant difference; `apart` (R, R) is symmetric and bool.

    Each is one letter of a compact letter display, by insertion and absorption; Piepho, J. Comput. Graph. Stat. 13
    (2004) 456. Groups are sorted by their first members.
    """
    significant = np.asarray(apart, dtype=bool)
    maximal = [frozenset(range(len(significant)))]
    for a, b in combinations(range(len(significant)), 2):
        if significant[a, b]:
            divided = {part for group in maximal for part in _split_group(group, a, b)}
            maximal = [group for group in divided if not any(group < other for other in divided)]
    return sorted(tuple(sorted(group)) for group in maximal)


def assign_letters(groups: Sequence[Sequence[int]], size: int) -> list[str]:
    """Return the letters of the groups of each of `size` members: a, b, ..., z, a2, b2, ..."""
    names = [chr(ord("a") + place % 26) + (str(place // 26 + 1) if place >= 26 else "") for place in range(len(groups))]
    return ["".join(name for name, group in zip(names, groups, strict=True) if i in group) for i in range(size)]


def _split_group(group: frozenset[int], a: int, b: int) -> list[frozenset[int]]:
    return [group - {a}, group - {b}] if a in group and b in group else [group]
