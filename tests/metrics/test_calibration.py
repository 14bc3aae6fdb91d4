"""Tests of the figures of calibration, and of the temperature."""

import time

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import chi2
from sklearn import metrics as sk
from statsmodels.api import Logit
from torchmetrics.functional import classification as tm

from avatar_bench.metrics import calibration, stats
from avatar_bench.metrics.calibration import compute_balanced_accuracy, find_fences, fit_platt
from avatar_bench.metrics.units import Units


def calibrated_logits(n=20_000):
    """Logits whose softmax is the true distribution of the targets drawn from it."""
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 1.5, (n, 3))
    targets = (softmax(logits, axis=1).cumsum(axis=1) < generator.random((n, 1))).sum(axis=1)
    return logits, np.minimum(targets, 2)


def test_nll_and_brier_score_equal_sklearn_and_stay_in_their_range():
    logits, targets = calibrated_logits(500)
    expected = sk.log_loss(targets, softmax(logits / 1.7, axis=1))
    assert calibration.nll(logits, targets, 1.7) == pytest.approx(expected)
    assert calibration.nll([[5000.0, 0.0]], np.array([1])) == pytest.approx(5000)
    probabilities, targets = overconfident()
    expected = sk.brier_score_loss(targets, probabilities, scale_by_half=False)
    assert calibration.brier_scores(probabilities, targets).mean() == pytest.approx(expected, abs=1e-12)
    assert calibration.brier_scores(np.eye(2), np.array([0, 0])).tolist() == [0, 2]


def test_temperatures_are_true_the_best_of_a_grid_those_of_copies_and_stop_at_their_ends():
    logits, targets = calibrated_logits()
    assert calibration.fit_temperature(logits, targets) == pytest.approx(1, abs=0.04)
    assert calibration.fit_temperature(3 * logits, targets) == pytest.approx(3, abs=0.1)
    logits, targets = calibrated_logits(400)
    grid = np.linspace(0.5, 4, 3501)
    best = grid[np.argmin([calibration.nll(2 * logits, targets, t) for t in grid])]
    assert calibration.fit_temperature(2 * logits, targets) == pytest.approx(best, abs=0.002)
    targets = np.array([0, 1, 2] * 5)
    for predicted, end in ((targets, 0.05), ((targets + 1) % 3, 20)):
        assert calibration.fit_temperature(np.eye(3)[predicted], targets) == pytest.approx(end, rel=1e-3)
        resampled = calibration.build_temperature_statistic(np.eye(3)[predicted], targets)(np.ones((1, 15)))
        assert resampled == pytest.approx(end, rel=0.05)
    with pytest.raises(ValueError, match="without images"):
        calibration.fit_temperature(np.zeros((0, 3)), np.zeros(0, int))
    logits, targets = calibrated_logits(150)
    weights = np.random.default_rng(1).multinomial(150, np.full(150, 1 / 150), size=8).astype(float)
    temperatures = calibration.build_temperature_statistic(2 * logits, targets)(weights)[:, 0]
    copies = [np.repeat(np.arange(150), row) for row in weights.astype(int)]
    expected = [calibration.fit_temperature(2 * logits[rows], targets[rows]) for rows in copies]
    np.testing.assert_allclose(temperatures, expected, rtol=2e-3)


def overconfident(n=500):
    logits, targets = calibrated_logits(n)
    return softmax(2 * logits, axis=1), targets


def pick(kind, probabilities, targets):
    return calibration.calibration_errors(probabilities, targets)[..., calibration.ECE_KINDS.index(kind)]


def test_ece_and_classwise_ece_equal_torchmetrics_and_adaptive_ece_bins_cut_by_pandas():
    probabilities, targets = overconfident()
    tensors = torch.from_numpy(probabilities), torch.from_numpy(targets)
    for bins in (10, 15):
        expected = tm.multiclass_calibration_error(*tensors, num_classes=3, n_bins=bins, norm="l1")
        assert pick(f"ece_{bins}", probabilities, targets) == pytest.approx(float(expected), abs=1e-6)
    by_class = [tm.binary_calibration_error(tensors[0][:, k].clone(), tensors[1] == k, n_bins=15) for k in range(3)]
    assert pick("ece_classwise", probabilities, targets) == pytest.approx(float(np.mean(by_class)), abs=1e-6)
    for n in (14, 15, 500, 503):
        probabilities, targets = overconfident(n)
        confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
        gaps = pd.Series(correct - confidence).groupby(pd.qcut(confidence, 15, duplicates="drop"), observed=True)
        assert pick("ece_adaptive", probabilities, targets) == pytest.approx(gaps.sum().abs().sum() / n, abs=1e-12)
    table = pd.DataFrame(calibration.reliability_bins(confidence, correct, calibration.equal_width_edges(15)))
    assert list(table) == ["bin", "low", "high", "count", "confidence", "accuracy"]
    assert table["count"].sum() == n
    assert table.loc[table["count"] == 0, ["confidence", "accuracy"]].isna().all(axis=None)
    gaps = (table["count"] * (table["accuracy"] - table["confidence"]).abs()).sum() / n
    assert gaps == pytest.approx(pick("ece_15", probabilities, targets))


def test_a_confidence_of_one_is_in_the_last_bin_an_edge_in_the_bin_below_and_equal_ones_share_a_bin():
    confidences = np.array([0.0, 0.1, 0.10001, 0.3, 0.7, 0.95, 1.0])
    bins = calibration.assign_bins(confidences, calibration.equal_width_edges(10))
    assert bins.tolist() == [0, 0, 1, 2, 6, 9, 9]
    # by hand: bin of .95 and 1: |1 + 0 - 1.95| / 3, bin of .7: |1 - .7| / 3
    error = calibration.ece(np.array([0.95, 1.0, 0.7]), [True, False, True])
    assert error == pytest.approx((0.95 + 0.3) / 3)
    probabilities, targets = np.tile([0.8, 0.2], (20, 1)), np.arange(20) % 2
    assert calibration.equal_mass_edges(probabilities.max(axis=1)).tolist() == [0.8]
    assert pick("ece_adaptive", probabilities, targets) == pytest.approx(0.3)
    assert calibration.calibration_errors(np.array([[0.6, 0.4]]), np.array([1])) == pytest.approx([0.6] * 4)
    assert calibration.calibration_errors(np.eye(3), np.arange(3)) == pytest.approx([0] * 4)


def test_noise_floors_are_those_of_drawn_outcomes_repeat_and_know_how_groups_correlate():
    probabilities = softmax(calibrated_logits(300)[0], axis=1)
    generator = np.random.default_rng(5)
    drawn = []
    for _ in range(400):
        targets = generator.multinomial(1, probabilities).argmax(axis=1)
        tensors = torch.from_numpy(probabilities), torch.from_numpy(targets)
        drawn.append(float(tm.multiclass_calibration_error(*tensors, num_classes=3, n_bins=15)))
    floor = calibration.simulate_noise_floor(probabilities)[:, 1]
    assert floor.mean() == pytest.approx(np.mean(drawn), abs=2e-3)
    assert np.quantile(floor, 0.95) == pytest.approx(np.quantile(drawn, 0.95), abs=4e-3)
    simulate = calibration.simulate_noise_floor
    assert simulate(np.eye(3)[np.arange(30) % 3], 100).max() == 0
    probabilities = softmax(calibrated_logits(100)[0], axis=1)
    copies, groups = np.repeat(probabilities, 5, axis=0), Units(np.repeat(np.arange(100), 5))
    together = simulate(copies, 1000, units=groups, correlation=1)[:, [0, 1, 3]].mean(axis=0)
    np.testing.assert_allclose(together, simulate(probabilities, 1000)[:, [0, 1, 3]].mean(axis=0), 0.05)
    apart = simulate(copies, 100, units=groups, correlation=0)
    np.testing.assert_array_equal(apart, simulate(copies, 100))
    # two images of one bin: the error is .6 or .4 where both agree and .1 where they do not
    drawn = simulate(np.array([[0.6, 0.4], [0.6, 0.4]]), 20_000, units=Units(np.zeros(2)), correlation=0.5)[:, 0]
    assert np.isclose(drawn, 0.1).mean() == pytest.approx(0.5 * 2 * 0.6 * 0.4, abs=0.015)
    assert np.isclose(drawn, 0.4).mean() == pytest.approx(0.5 * 0.6 + 0.5 * 0.36, abs=0.015)


def test_errors_and_floors_of_new_sources_weigh_sources_alike():
    probabilities, targets = overconfident(120)
    sources = np.where(np.arange(120) < 90, 0, 1 + np.arange(120) % 6)
    units = Units(np.arange(120), sources, np.zeros(120, int))
    weighted = calibration.calibration_errors(probabilities, targets, units.weights)
    times = np.where(sources == 0, 1, 18)  # images of a source of five, repeated until it has as many as that of 90
    repeated = calibration.calibration_errors(probabilities.repeat(times, axis=0), targets.repeat(times))
    assert weighted[[0, 1, 3]] == pytest.approx(repeated[[0, 1, 3]])  # adaptive bins are those of the images
    assert calibration.calibration_errors(probabilities, np.tile(targets, (2, 1)), units.weights)[1] == pytest.approx(
        weighted
    )
    plain, floor = (calibration.simulate_noise_floor(probabilities, 500, units=of)[:, 1].mean() for of in (None, units))
    assert floor > 1.2 * plain  # fewer images count
    moves = calibration.make_deviation_statistic(probabilities, targets, units)
    assert moves(np.ones((1, 120))) == pytest.approx(0, abs=1e-12)


def test_bin_gaps_deviations_and_group_correlations_are_those_counted_by_hand():
    probabilities, targets = overconfident(300)
    gaps = calibration.bin_gaps(probabilities, targets)
    errors = calibration.calibration_errors(probabilities, targets)
    assert [np.abs(part).sum() for part in gaps] == pytest.approx(errors.tolist())
    confidence = probabilities.max(axis=1)
    frame = pd.DataFrame({"gap": (probabilities.argmax(axis=1) == targets) - confidence})
    expected = frame.groupby(pd.cut(confidence, np.linspace(0, 1, 11)), observed=False)["gap"].sum() / 300
    np.testing.assert_allclose(gaps[0], expected[: len(gaps[0])], atol=1e-12)
    probabilities, targets = overconfident(120)
    groups, weights = np.arange(120) // 2, np.zeros(120)
    weights[np.random.default_rng(4).integers(0, 60, 60).repeat(2) * 2 + np.tile([0, 1], 60)] += 1
    confidence, hit = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    alone = added = signed = 0.0
    for start in range(10):
        inside = (confidence > start / 10) & (confidence <= (start + 1) / 10)
        gap = inside * (hit - confidence)
        seen, drawn = gap.mean(), np.average(gap, weights=weights)
        error = np.sqrt(sum(gap[groups == group].sum() ** 2 for group in range(60))) / 120
        smaller = np.sign(seen) * max(0, abs(seen) - error)
        alone += abs(drawn - seen)
        added += abs(smaller + drawn - seen) - abs(smaller)
        signed += np.sign(seen) * (drawn - seen)
    deviations = calibration.make_deviation_statistic(probabilities, targets, groups)(weights[None])
    assert deviations.shape == (1, 16)
    assert deviations[0, ::4] == pytest.approx([alone, added, signed, -signed])
    assert calibration.make_deviation_statistic(probabilities, targets, groups)(np.ones((1, 120))) == pytest.approx(0)
    generator = np.random.default_rng(2)
    groups = generator.integers(0, 40, 120)
    gaps = generator.normal(size=40)[groups] + generator.normal(size=120)
    pairs = [(i, j) for i in range(120) for j in range(120) if i != j and groups[i] == groups[j]]
    expected = np.mean([gaps[i] * gaps[j] for i, j in pairs]) / np.mean(gaps**2)
    assert calibration.group_correlation(gaps, groups) == pytest.approx(expected)
    assert calibration.group_correlation([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"]) == pytest.approx(1)
    for equal, names in (([1.0, 0.0], "aa"), ([1.0, 0.0, 0.5], "abc"), ([0.0, 0.0], "aa"), ([0.3, -0.3], "aa")):
        assert calibration.group_correlation(equal, list(names)) == 0


def test_two_thousand_resamples_of_ten_thousand_images_take_seconds():
    probabilities, targets = overconfident(10_000)
    begin = time.process_time()
    groups = np.arange(10_000) // 2
    stats.bootstrap_interval(calibration.make_deviation_statistic(probabilities, targets, groups), groups)
    calibration.simulate_noise_floor(probabilities, units=Units(groups), correlation=0.5)
    assert time.process_time() - begin < 6


def test_a_temperature_is_applied_only_where_its_interval_excludes_1_and_a_saved_fit_is_read():
    """Its interval is that of refits of whole groups, widened to that of the likelihood, both by hand."""
    logits, targets = calibrated_logits(60)
    for scale, is_applied in ((1.3, False), (3.0, True)):
        doubled, groups = np.repeat(scale * logits, 2, axis=0), np.repeat(np.arange(60), 2)
        fit = calibration.fit_temperature_of_logits(doubled, np.repeat(targets, 2), groups)
        fitted = calibration.fit_temperature(scale * logits, targets)
        assert fit.fitted == pytest.approx(fitted, rel=1e-6)
        rng = np.random.default_rng(3)
        drawn = [rng.integers(0, 60, 60) for _ in range(300)]
        refits = [calibration.fit_temperature(scale * logits[rows], targets[rows]) for rows in drawn]
        low, high = np.quantile(refits, [0.025, 0.975])
        losses = {t: calibration.nll(scale * logits, targets, t) for t in np.geomspace(0.3, 10, 400)}
        likely = [t for t, loss in losses.items() if 2 * 60 * (loss - min(losses.values())) <= chi2.ppf(0.95, 1)]
        ends = min(low, likely[0]), max(high, likely[-1])
        assert (fit.low, fit.high) == pytest.approx(ends, rel=0.05)
        assert (fit.is_applied, fit.n) == (is_applied, 120)
        assert fit.value == (pytest.approx(fitted, rel=1e-6) if is_applied else 1)
        assert ("its interval contains 1" in str(fit)) != is_applied
    # All resamples have the low end of the range, however sure the network was of its correct answers.
    targets = np.array([0, 1, 2] * 5)
    for margin, is_applied in ((1.0, True), (6.0, False)):
        logits = margin * np.eye(3)[targets]
        fit = calibration.fit_temperature_of_logits(logits, targets, np.arange(15))
        assert fit.is_applied is is_applied
        assert fit.fitted < 0.06
        # all losses are log(1 + 2 exp(-margin / t)); twice their sum is chi-squared
        end = -margin / np.log((np.exp(chi2.ppf(0.95, 1) / 30) - 1) / 2)
        assert 0.96 * end < fit.high <= end  # a step of the grid
    fit = calibration.TemperatureFit(0.674, 0.05, 1.064, 38)
    assert calibration.TemperatureFit.parse(fit.plain) == fit
    for damaged in (None, [], {}, fit.plain | {"low": None}, fit.plain | {"n": "many"}, fit.plain | {"high": np.inf}):
        assert calibration.TemperatureFit.parse(damaged) is None


RNG = np.random.default_rng(0)
POSITIVE = RNG.random(400) < 0.3
SCORES = RNG.normal(size=400) + 2 * POSITIVE


@pytest.mark.parametrize(("factor", "centre"), [(1, 0), (1e-4, 0), (300, 0), (5, 1000)])
def test_slope_and_intercept_are_those_of_statsmodels_on_any_scale(factor, centre):
    scores = factor * SCORES + centre
    intercept, slope = Logit(POSITIVE, np.column_stack([np.ones(400), SCORES])).fit(disp=False).params
    platt = fit_platt(scores, POSITIVE)
    assert platt.slope * factor == pytest.approx(slope, rel=1e-4)
    np.testing.assert_allclose(platt.slope * scores + platt.intercept, slope * SCORES + intercept, atol=1e-3)
    quarters = np.quantile(SCORES, [0.25, 0.75])
    assert platt.steepness == pytest.approx(slope * (quarters[1] - quarters[0]), rel=1e-4)


@pytest.mark.parametrize("outlier", [1e4, -1e4, 1e30])
def test_an_outlier_counts_as_a_score_at_the_fence_three_interquartile_ranges_away(outlier):
    assert find_fences(np.arange(101)) == (25 - 150, 75 + 150)
    assert find_fences([0, 0, 0, 0, 7]) == (0, 7)
    low, high = find_fences(np.append(SCORES, outlier))
    platt = fit_platt(np.append(SCORES, outlier), np.append(POSITIVE, True))
    assert platt == fit_platt(np.append(SCORES, np.clip(outlier, low, high)), np.append(POSITIVE, True))
    without = fit_platt(SCORES, POSITIVE)
    before, now = (expit(scaling.slope * SCORES + scaling.intercept) for scaling in (without, platt))
    assert np.abs(now - before).max() < 0.1


def test_the_steepness_ends_where_nothing_determines_it_and_balanced_accuracy_is_scikit_learns():
    separated, reversed_order = fit_platt(np.arange(40), np.arange(40) >= 20), fit_platt(-SCORES, POSITIVE)
    assert (separated.steepness, reversed_order.steepness) == pytest.approx((20, 0.05))
    assert -separated.intercept / separated.slope == pytest.approx(19.5, abs=1e-3)
    for scores, positive in (([1, 1], [0, 1]), ([1, 2], [1, 1]), ([1, 2], [0, 0]), ([], [])):
        with pytest.raises(ValueError, match="needs two scores"):
            fit_platt(scores, np.array(positive, dtype=bool))
    scores = np.round(SCORES, 1)  # with ties
    tried = [*np.unique(scores), 99.0]
    expected = [sk.balanced_accuracy_score(POSITIVE, scores >= threshold) for threshold in tried]
    np.testing.assert_allclose(compute_balanced_accuracy(scores, POSITIVE, tried), expected, atol=1e-12)
