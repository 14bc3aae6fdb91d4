"""Units of inference: sources within classes, few of them, and the rates of errors when sources differ."""

import math

import numpy as np
import pytest
from scipy.stats import norm, t

from avatar_bench.metrics import paired_tests, stats
from avatar_bench.metrics.units import Units, as_units

SOURCES = np.repeat(np.arange(5), [4, 6, 5, 3, 7])
CLASSES = np.array([0, 0, 1, 1, 1])[SOURCES]


def build(seed=0):
    hits = np.random.default_rng(seed).random(len(SOURCES)) < 0.7
    return hits, Units(np.arange(len(SOURCES)), SOURCES, CLASSES)


def test_units_count_sources_within_classes_and_groups_otherwise():
    __, units = build()
    assert (units.count, units.degrees_of_freedom, units.name, units.population) == (5, 3, "source", "new sources")
    assert (units.these.count, units.these.name, units.these.population) == (25, "image", "these sources")
    assert as_units(["a", "a", "b"]).name == "group"
    assert Units(np.arange(3), is_known=False).population == "these images"
    shared = Units(np.arange(4), np.array([7, 7, 8, 8]), np.array([0, 1, 1, 1]))  # one source of two classes
    assert (shared.count, shared.is_single.tolist()) == (3, [True, False, False, False])
    assert shared.usable.sources is None
    assert shared.take(np.array([1, 2, 3])).usable.sources is not None


def test_intervals_of_proportions_and_balanced_accuracy_are_by_hand_those_between_sources():
    hits, units = build()
    value, variance = hits.mean(), 0.0
    for label in (0, 1):
        totals = [float((hits[s == SOURCES] - value).sum()) for s in np.unique(SOURCES[label == CLASSES])]
        variance += len(totals) * np.var(totals, ddof=1) / len(hits) ** 2
    n, z = value * (1 - value) / variance, t.isf(0.025, 3)
    centre = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    interval = stats.proportion_interval_of_sources(hits, units)
    assert interval[:2] == pytest.approx((centre - half, centre + half))
    assert interval[2:] == (5, "wilson by source")
    assert stats.proportion_interval_of_sources(np.ones(25), units)[:2] == stats.wilson(5, 5, 0.95, 3)
    inside = np.where(CLASSES == 0, 1.0, np.nan)
    assert stats.proportion_interval_of_sources(inside, units)[:2] == stats.wilson(2, 2, 0.95, 1)
    assert stats.wilson(2, 5, 0.95, 10**9) == pytest.approx(stats.wilson(2, 5))
    below, above, recalls = [], [], []
    for label, of_class in ((0, [0, 1]), (1, [2, 3, 4])):
        hit = hits[label == CLASSES]
        totals = [float((hits[s == SOURCES] - hit.mean()).sum()) for s in of_class]
        variance = len(totals) * np.var(totals, ddof=1) / len(hit) ** 2
        n = min(len(hit), hit.mean() * (1 - hit.mean()) / variance)
        low, high = stats.wilson(n * hit.mean(), n, 0.95, 3)
        recalls.append(hit.mean())
        below.append(hit.mean() - low)
        above.append(high - hit.mean())
    value = np.mean(recalls)
    expected = value - math.hypot(*below) / 2, value + math.hypot(*above) / 2
    assert stats.balanced_interval_of_sources(hits, units)[:2] == pytest.approx(expected)


def test_resamples_draw_whole_sources_within_their_classes_and_are_widened_where_they_are_few():
    __, units = build()
    counts = stats.SumStatistic(np.eye(5)[SOURCES], lambda sums: sums / np.bincount(SOURCES))
    drawn = stats.resample_statistic(counts, units, 4000, seed=1)
    assert (drawn == drawn.round()).all()  # each source whole
    assert (drawn[:, :2].sum(axis=1) == 2).all()
    assert (drawn[:, 2:].sum(axis=1) == 3).all()
    both = [(drawn[:, 0] == k).mean() for k in (0, 1, 2)]
    assert both == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    hits, units = build()
    mean = stats.build_mean_statistic(hits[:, None])
    low, high = stats.percentiles(stats.resample_statistic(mean, units))
    factor = t.isf(0.025, 3) / norm.isf(0.025) * math.sqrt(5 / 3)
    value = hits.mean()
    wide = stats.bootstrap_interval(mean, units)
    assert np.ravel(wide) == pytest.approx([value - factor * (value - low[0]), value + factor * (high[0] - value)])
    assert stats.bootstrap_interval(mean, units, bounds=(0, 1))[1] <= 1
    assert stats.compute_student_factor(1000, 999) == pytest.approx(1, abs=0.01)


def test_sign_flip_tests_of_sources_are_rarely_significant_without_a_difference_and_never_of_few():
    rng, sources = np.random.default_rng(0), np.repeat(np.arange(15), 20)
    by_source = by_image = 0
    for _ in range(200):
        effect = rng.normal(0, 0.2, 15) / 2
        first, second = (rng.random(300) < np.clip(0.8 + sign * effect, 0, 1)[sources] for sign in (1, -1))
        gains = first.astype(int) - second
        by_source += paired_tests.cluster_permutation_test(gains, sources) < 0.05
        by_image += paired_tests.cluster_permutation_test(gains, np.arange(300)) < 0.05
    assert by_source / 200 <= 0.09  # 0.05 and three standard errors
    assert by_image / 200 > 0.15
    assert paired_tests.find_least_p(5) == 2 / 2**5
    for count in (1, 4, 6):
        gains = np.repeat(1, 3 * count)
        p = paired_tests.cluster_permutation_test(gains, np.repeat(np.arange(count), 3))
        assert p == pytest.approx(paired_tests.find_least_p(count))


@pytest.mark.parametrize("count", [5, 8, 22])
def test_intervals_of_few_sources_cover_the_accuracy_on_new_ones(count):
    rng, draws = np.random.default_rng(1), 150
    sources, classes = np.repeat(np.arange(count), 20), np.repeat(np.arange(count) % 2, 20)
    units = Units(np.arange(len(sources)), sources, classes)
    inside = np.zeros(2)
    for _ in range(draws):
        hits = (rng.random(len(sources)) < rng.beta(3, 0.75, count)[sources]).astype(float)  # mean .8
        for index, interval in enumerate((stats.proportion_interval_of_sources, stats.balanced_interval_of_sources)):
            low, high = interval(hits, units)[:2]
            inside[index] += low <= 0.8 <= high
    assert (inside / draws > 0.92 - 3 * math.sqrt(0.92 * 0.08 / draws)).all()
