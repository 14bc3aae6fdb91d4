"""Units of inference: sources within classes, few of them, and the rates of errors when sources differ."""

import math

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from avatar_bench.metrics import paired_tests, stats
from avatar_bench.metrics.classification import build_auroc_statistic
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


def test_sources_of_a_class_weigh_alike_and_classes_by_their_images():
    hits, units = build()
    means = np.array([hits[s == SOURCES].mean() for s in range(5)])
    by_class = np.array([means[:2].mean(), means[2:].mean()])
    assert units.weights @ hits == pytest.approx(by_class @ [10 / 25, 15 / 25])  # the class mix of the set
    assert units.weights[CLASSES == 0].sum() == pytest.approx(10 / 25)
    assert units.weights[SOURCES == 2].sum() == pytest.approx(units.weights[SOURCES == 3].sum())
    assert (units.fewest, units.these.fewest) == (2, 25)
    np.testing.assert_allclose(units.these.weights, 1 / 25)


def test_intervals_of_proportions_and_balanced_accuracy_are_by_hand_those_between_sources():
    hits, units = build()
    means = np.array([hits[s == SOURCES].mean() for s in range(5)])
    variances = [means[:2].var(ddof=1) / 2, means[2:].var(ddof=1) / 3]
    by_class = np.array([means[:2].mean(), means[2:].mean()])
    for shares, interval in (
        ([10 / 25, 15 / 25], stats.proportion_interval_of_sources(hits, units)),
        ([1 / 2, 1 / 2], stats.balanced_interval_of_sources(hits, units)),
    ):
        value, error = by_class @ shares, math.sqrt(np.square(shares) @ variances)
        half = t.isf(0.025, 3) * error / (value * (1 - value))  # on the scale of the log-odds
        assert interval[:2] == pytest.approx(expit(logit(value) + np.array([-half, half])))
        assert interval[2:] == (5, "logit by source")
    recall = stats.proportion_interval_of_sources(np.where(CLASSES == 1, hits, np.nan), units)
    half = t.isf(0.025, 2) * math.sqrt(variances[1]) / (by_class[1] * (1 - by_class[1]))
    assert recall[:2] == pytest.approx(expit(logit(by_class[1]) + np.array([-half, half])))
    inside = np.where(CLASSES == 0, 1.0, np.nan)  # sources that agree have the number that they are
    assert stats.proportion_interval_of_sources(inside, units)[:2] == pytest.approx(stats.wilson(2, 2))
    assert stats.balanced_interval_of_sources(np.ones(25), units)[:2] == pytest.approx(stats.wilson(4.8, 4.8))


def test_jackknifes_of_other_metrics_leave_out_each_source_and_end_inside_the_bounds():
    rng = np.random.default_rng(3)
    sources, classes = np.repeat(np.arange(8), rng.integers(2, 30, 8)), (np.arange(8) % 2)
    targets, units = classes[sources], Units(np.arange(len(sources)), sources, classes[sources])
    scores = rng.normal(1.2 * targets + rng.normal(0, 0.4, 8)[sources], 1)
    losses = np.logaddexp(0, scores * (1 - 2 * targets))
    statistic = stats.JoinedStatistic(
        [build_auroc_statistic(scores, targets == 1), stats.build_mean_statistic(np.column_stack([losses, scores]))]
    )
    bounds = np.array([0, 0, -np.inf]), np.array([1, np.inf, np.inf])
    low, high = stats.jackknife_interval(statistic, units, 0.9, bounds)
    seen = []
    for left in (None, *range(8)):  # by scikit-learn and by a sum, on the sources that are left
        mix, weights = np.bincount(targets) / len(targets), np.zeros(len(sources))
        for source in set(range(8)) - {left}:
            others = ((classes == classes[source]) & (np.arange(8) != left)).sum()
            weights[sources == source] = mix[classes[source]] / others / (sources == source).sum()
        seen.append([roc_auc_score(targets, scores, sample_weight=weights), weights @ losses, weights @ scores])
    (value, *deleted), scales = np.array(seen), (logit, np.log, np.asarray)
    for index, (scale, back) in enumerate(zip(scales, (expit, np.exp, np.asarray), strict=True)):
        moved = scale(np.array(deleted)[:, index])
        error = math.sqrt(sum(3 / 4 * np.square(part - part.mean()).sum() for part in (moved[::2], moved[1::2])))
        ends = back(scale(value[index]) + t.isf(0.05, 6) * error * np.array([-1, 1]))
        assert (low[index], high[index]) == pytest.approx(tuple(ends), rel=1e-6)


def test_jackknifes_at_the_bounds_are_wilsons_and_there_is_none_where_nothing_varies():
    units = Units(np.arange(25), SOURCES, CLASSES)
    once = np.column_stack([np.ones(25), np.zeros(25), np.zeros(25), np.zeros(25), np.full(25, 0.3)])
    bounds = np.array([0, 0, -1, 0, 0.0]), np.array([1, 1, 1, np.inf, 1])
    low, high = stats.jackknife_interval(stats.build_mean_statistic(once), units, 0.95, bounds)
    few = stats.wilson(2, 2)[0]  # of the class with the fewest sources
    np.testing.assert_allclose(low, [few, 0, np.nan, np.nan, np.nan])
    np.testing.assert_allclose(high, [1, 1 - few, np.nan, np.nan, np.nan])
    # without the one source with errors, a value is at its bound: a third of the way, not farther
    single = stats.build_mean_statistic((SOURCES != 4)[:, None].astype(float))
    value, moves = 1 - 15 / 25 / 3, np.array([math.log(1 / 3) - math.log(25 / 20), *[0.0] * 2])
    low, high = stats.jackknife_interval(single, units, 0.95, (0.0, 1.0))
    moves[1:] = logit(1 - 15 / 25 / 2) - logit(value)
    error = math.sqrt(2 / 3 * np.square(np.array([-moves[0], *moves[1:]]) - np.mean([-moves[0], *moves[1:]])).sum())
    half = t.isf(0.025, 3) * error
    assert (low[0], high[0]) == pytest.approx(tuple(expit(logit(value) + np.array([-half, half]))))
    alone = Units(np.arange(4), np.array([0, 0, 1, 2]), np.array([0, 0, 1, 1]))
    assert np.isnan(stats.jackknife_interval(stats.build_mean_statistic(np.eye(4)), alone)).all()


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
    groups = stats.bootstrap_interval(mean, units.these)  # few units of any kind
    low, high = stats.percentiles(stats.resample_statistic(mean, units.these))
    factor = stats.compute_student_factor(25, 24)
    assert np.ravel(groups) == pytest.approx([value - factor * (value - low[0]), value + factor * (high[0] - value)])
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
