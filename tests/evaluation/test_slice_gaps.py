"""Tests of gaps between slices, against Newcombe's interval by hand and by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binomtest

from avatar_bench.evaluation.intervals import IntervalOptions, find_gap, make_gap_metric

NAMES = ["a", "b", "c"]


def make_hits(*counts):
    """Return the hits of slices of (hits, images) each."""
    hits = np.full((sum(n for __, n in counts), len(counts)), np.nan)
    start = 0
    for index, (k, n) in enumerate(counts):
        hits[start : start + n, index] = np.arange(n) < k
        start += n
    return hits


def find(hits, minimum=1, groups=None, **options):
    given = np.arange(len(hits)) if groups is None else groups
    return find_gap(IntervalOptions(**{"resamples": 200} | options), NAMES[: hits.shape[1]], hits, given, minimum)


def test_the_gap_of_two_slices_has_newcombes_interval():
    gap = find(make_hits((40, 50), (30, 60)))
    one, two = (binomtest(k, n).proportion_ci(0.95, "wilson") for k, n in ((40, 50), (30, 60)))
    low = 0.3 - math.hypot(0.8 - one.low, two.high - 0.5)
    high = 0.3 + math.hypot(one.high - 0.8, 0.5 - two.low)
    assert (gap["gap"], gap["low"], gap["high"]) == pytest.approx((0.3, low, high))
    assert (gap["highest"], gap["lowest"], gap["slices"], gap["groups"]) == ("a", "b", 2, 110)
    turned = find(make_hits((30, 60), (40, 50)))
    assert (turned["low"], turned["high"], turned["highest"]) == pytest.approx((low, high, "b"))
    assert make_gap_metric(gap).higher_is_better is False


def test_small_and_empty_slices_do_not_count():
    assert find(make_hits((5, 5), (0, 2), (0, 0)), minimum=3) is None
    gap = find(make_hits((5, 5), (0, 2), (0, 0)))
    assert (gap["slices"], gap["gap"]) == (2, 1.0)
    equal = find(make_hits((5, 10), (5, 10)))
    assert (equal["gap"], equal["low"]) == (0.0, 0.0)
    assert equal["high"] > 0


def test_the_interval_contains_the_true_gap_of_many_slices_as_often_as_it_says():
    rng, truth = np.random.default_rng(0), np.array([0.9, 0.8, 0.85])
    held = 0
    for _ in range(300):
        gap = find(make_hits(*((rng.binomial(80, p), 80) for p in truth)))
        held += gap["low"] <= 0.1 <= gap["high"]
    assert held >= 0.95 * 300 - 1.64 * math.sqrt(300 * 0.95 * 0.05)


def test_images_of_a_group_count_once():
    hits = make_hits((40, 50), (30, 60))
    alone = find(hits)
    grouped = find(np.repeat(hits, 3, axis=0), groups=np.repeat(np.arange(110), 3), resamples=1000)
    assert grouped["groups"] == 110
    assert (grouped["low"], grouped["high"]) == pytest.approx((alone["low"], alone["high"]), abs=0.03)
