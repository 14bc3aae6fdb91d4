"""Tests of the out-of-domain scores against pytorch-ood, and of their figures of merit against scikit-learn."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn import metrics as sk
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from avatar_bench.config.entries import find_entries
from avatar_bench.metrics import detection
from avatar_bench.metrics.ood_scores import MAX_CONDITION


def roc(scores, positive, weights=None):
    """Return the curve that the measures of a statistic get, of all images or of each row of weights."""
    curves = []
    statistic = detection.build_roc_statistic(scores, positive, [lambda curve: curves.append(curve) or curve.recall])
    drawn = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=float)
    statistic(np.atleast_2d(drawn))
    (curve,) = curves
    return curve if drawn.ndim > 1 else curve._replace(**{name: getattr(curve, name)[0] for name in curve._fields[:3]})


@pytest.fixture(scope="module")
def features():
    """Training embeddings and targets; embeddings and logits of 90 images of the domain and of 60 others."""
    rng = np.random.default_rng(0)
    centres, mix = rng.normal(0, 1.5, (3, 12)), np.eye(12) + 0.2 * rng.normal(size=(12, 12))
    targets = np.arange(300) % 3
    training = centres[targets] + rng.normal(size=(300, 12)) @ mix
    inside = centres[np.arange(90) % 3] + rng.normal(size=(90, 12)) @ mix
    outside = rng.normal(0.6, 2.0, (60, 12)) @ mix
    embeddings = np.concatenate([inside, outside]).astype(np.float32)
    logits = (0.1 * embeddings @ centres.T).astype(np.float32)
    return training.astype(np.float32), targets, embeddings, logits, np.arange(150) >= 90


def oracle(name, features):
    """Return the scores of pytorch-ood's detector."""
    from pytorch_ood import detector

    training, targets, embeddings, logits, _ = (torch.as_tensor(part) for part in features)
    if name == "mahalanobis":
        return detector.Mahalanobis(None).fit_features(training, targets).predict_features(embeddings).numpy()
    if name == "knn":
        return detector.KNN(None, k=50).fit_features(training, targets).predict_features(embeddings).numpy()
    kind = {"msp": detector.MaxSoftmax, "max_logit": detector.MaxLogit, "energy": detector.EnergyBased}[name]
    return kind.score(logits).numpy()


def fitted(name, training, targets=(), **options):
    scorer = find_entries("ood_score")[name].build(options)
    scorer.fit(SimpleNamespace(embeddings=training, targets=targets))
    return scorer


def scored(scorer, embeddings=None, logits=None):
    return scorer.score(SimpleNamespace(embeddings=embeddings, logits=logits))


@pytest.mark.parametrize("name", ["msp", "max_logit", "energy", "mahalanobis", "knn"])
def test_scores_and_their_auroc_equal_those_of_pytorch_ood(name, features):
    training, targets, embeddings, logits, outside = features
    theirs, mine = oracle(name, features), scored(fitted(name, training, targets), embeddings, logits)
    if name == "mahalanobis":
        theirs = theirs * 2 * len(features[0])  # it halves the distance, and leaves the covariance a sum
    np.testing.assert_allclose(mine, theirs, rtol=1e-2 if name == "mahalanobis" else 1e-5)  # a float32 inverse
    expected = sk.roc_auc_score(outside, theirs)
    assert detection.auroc(roc(mine, outside)) == pytest.approx(expected, abs=1e-3)
    assert 0.5 < expected < 1 or name in ("msp", "max_logit", "energy")
    if name == "msp":  # certain and uniform logits end its range
        ends = scored(fitted(name, training), logits=np.array([[1000.0, 0, 0], [0, 0, 0]]))
        np.testing.assert_allclose(ends, [-1, -1 / 3])


def test_mahalanobis_distances_are_those_of_a_discriminant_analysis_or_shrunk_by_ledoit_and_wolf(features):
    training, targets, embeddings, *_ = features
    analysis = LinearDiscriminantAnalysis(solver="lsqr", store_covariance=True).fit(training, targets)
    inverse = np.linalg.inv(analysis.covariance_)
    apart = embeddings[:, None] - analysis.means_
    expected = np.einsum("nci,ij,ncj->nc", apart, inverse, apart).min(axis=1)
    measured = scored(fitted("mahalanobis", training, targets), embeddings)
    np.testing.assert_allclose(measured, expected, rtol=1e-4)
    few, of = training[:9], targets[:9]
    scorer = fitted("mahalanobis", few, of)
    centred = few - np.stack([few[of == target].mean(axis=0) for target in of])
    reference = LedoitWolf(assume_centered=True).fit(centred.astype(np.float64))
    assert scorer.shrinkage == pytest.approx(reference.shrinkage_)
    apart = embeddings[:, None] - scorer.means
    expected = np.einsum("nci,ij,ncj->nc", apart, reference.precision_, apart).min(axis=1)
    np.testing.assert_allclose(scored(scorer, embeddings), expected, rtol=1e-4)
    assert fitted("mahalanobis", training, targets).shrinkage == 0


def test_an_ill_conditioned_covariance_is_shrunk_and_one_below_the_limit_is_not(features):
    training, targets, embeddings, *_ = features
    rng = np.random.default_rng(3)
    for spread, bad in ((1e-2, False), (1e-5, True)):
        faint = spread * rng.normal(size=(300, 1))
        wider = np.column_stack([training, faint]).astype(np.float64)
        centred = wider - np.stack([wider[targets == target].mean(axis=0) for target in range(3)])[targets]
        covariance = centred.T @ centred / 300
        assert (np.linalg.cond(covariance) > MAX_CONDITION) == bad
        scorer = fitted("mahalanobis", wider, targets)
        assert (scorer.shrinkage > 0) == bad
        kept = np.linalg.inv(scorer.whitening @ scorer.whitening.T)
        mixed = (1 - scorer.shrinkage) * covariance + scorer.shrinkage * np.trace(covariance) / 13 * np.eye(13)
        np.testing.assert_allclose(kept, mixed, rtol=1e-6, atol=1e-9)
        assert np.linalg.cond(kept) <= MAX_CONDITION
        # an image that is off by .01 in the faint feature alone is no longer thrown out of all proportion
        far = scored(scorer, np.column_stack([embeddings, np.full(150, 0.01)]))
        near = scored(scorer, np.column_stack([embeddings, np.zeros(150)]))
        np.testing.assert_allclose(far, near, rtol=0.1, atol=1.5)


def test_the_least_weight_that_suffices_is_taken_and_constant_features_and_single_images_are_no_obstacle(features):
    signs = np.stack([np.arange(400) % 2, np.arange(400) // 2 % 2], axis=1) * 2.0 - 1  # whose covariance is certain
    embeddings = signs * (1e4, 1e-1)
    weight = LedoitWolf(assume_centered=True).fit(embeddings).shrinkage_
    detector = fitted("mahalanobis", embeddings, np.zeros(400))
    kept = np.linalg.inv(detector.whitening @ detector.whitening.T)
    assert weight < detector.shrinkage
    assert np.linalg.cond(kept) == pytest.approx(MAX_CONDITION, rel=1e-6)
    training, targets, embeddings, *_ = features
    dead = fitted("mahalanobis", np.column_stack([training, np.zeros(300)]), targets)
    assert 0 < dead.shrinkage <= 1
    assert np.isfinite(scored(dead, np.column_stack([embeddings, np.ones(150)]))).all()
    alone = fitted("mahalanobis", training[:3], targets[:3])
    expected = ((embeddings[:, None] - training[:3]) ** 2).sum(axis=2).min(axis=1)
    np.testing.assert_allclose(scored(alone, embeddings), expected, rtol=1e-4)


def test_knn_takes_the_farthest_where_there_are_too_few_and_minds_direction_alone(features):
    training, _, embeddings, *_ = features
    whole, few, fewer = (fitted("knn", training[:n], k=k) for n, k in ((None, 50), (4, 50), (4, 4)))
    np.testing.assert_allclose(scored(few, embeddings), scored(fewer, embeddings))
    np.testing.assert_allclose(scored(whole, 3 * embeddings), scored(whole, embeddings), atol=1e-6)
    assert np.isfinite(scored(whole, np.zeros((1, 12)))).all()


@pytest.mark.parametrize("rounded", [False, True], ids=["distinct", "tied"])
def test_aupr_and_fpr_equal_sklearn_with_and_without_ties(rounded):
    rng = np.random.default_rng(1)
    positive = rng.random(200) < 0.3
    scores = rng.normal(size=200) + positive
    scores = np.round(scores, 1) if rounded else scores
    assert detection.aupr(roc(scores, positive)) == pytest.approx(sk.average_precision_score(positive, scores))
    alarm, recall, _ = sk.roc_curve(positive, scores, drop_intermediate=False)
    assert detection.fpr95(roc(scores, positive)) == pytest.approx(alarm[recall >= 0.95].min())
    assert detection.auroc(roc(scores, positive)) == pytest.approx(sk.roc_auc_score(positive, scores))
    weights = rng.integers(0, 3, (4, 200)).astype(float)
    expected = [sk.roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    assert detection.auroc(roc(scores, positive, weights)) == pytest.approx(expected)
    for row, value in zip(weights, detection.fpr95(roc(scores, positive, weights)), strict=True):
        alarm, recall, _ = sk.roc_curve(positive, scores, sample_weight=row, drop_intermediate=False)
        assert value == pytest.approx(alarm[recall >= 0.95 - 1e-12].min())
    share = positive.mean()
    for row, value in zip(weights, detection.aupr(roc(scores, positive, weights)), strict=True):
        kept = np.where(positive, row * share / row[positive].sum(), row * (1 - share) / row[~positive].sum())
        assert value == pytest.approx(sk.average_precision_score(positive, scores, sample_weight=kept))


def test_fpr_equals_pytorch_ood():
    from pytorch_ood.metrics import functional

    rng = np.random.default_rng(2)
    positive = np.arange(140) < 40
    scores = rng.normal(size=140) + positive
    expected = functional.fpr_at_tpr(torch.tensor(scores), torch.tensor(np.where(positive, -1, 0)))
    assert detection.fpr95(roc(scores, positive)) == pytest.approx(float(expected))


def test_a_perfect_score_and_one_that_knows_nothing_end_the_scales_and_without_both_kinds_there_is_none():
    positive = np.arange(40) < 10
    perfect, ignorant = roc(positive, positive), roc(np.zeros(40), positive)
    assert (detection.aupr(perfect), detection.fpr95(perfect)) == (1, 0)
    assert (detection.aupr(ignorant), detection.fpr95(ignorant)) == pytest.approx((0.25, 1))
    weights = np.array([[1, 1, 0.0], [0, 0, 1], [1, 1, 1]])
    for measure in (detection.auroc, detection.aupr, detection.fpr95):
        assert np.isnan([measure(roc([1, 2, 3], np.full(3, kind))) for kind in (True, False)]).all()
        drawn = measure(roc([1, 2, 3], [True, True, False], weights))
        np.testing.assert_array_equal(np.isnan(drawn), [True, True, False])


def drawn(n=200, distinct=40, seed=0):
    rng = np.random.default_rng(seed)
    positive = np.arange(n) % 3 == 0
    return np.round((rng.normal(size=n) + positive) * distinct / 4), positive


def test_recall_at_a_rate_of_false_alarms_and_precision_at_a_recall_are_those_of_scikit_learn():
    scores, positive = drawn()
    alarms, recalls, thresholds = sk.roc_curve(positive, scores, drop_intermediate=False)
    for rate in (0.0, 0.01, 0.05, 0.3, 1.0):
        expected = pytest.approx(recalls[alarms <= rate + 1e-12].max())
        assert detection.compute_recall_at(roc(scores, positive), rate) == expected
        threshold = detection.find_threshold(scores, positive, rate)
        assert (scores[positive] >= threshold).mean() == expected
        assert (scores[~positive] >= threshold).mean() <= rate + 1e-12
        assert threshold in thresholds or not (scores >= threshold).any()
    scores, positive = drawn(seed=1)
    precisions, recalls, _ = sk.precision_recall_curve(positive, scores)
    for recall in (0.025, 0.5, 0.9, 1.0):
        expected = precisions[recalls >= recall - 1e-12][-1]  # recalls fall: the last one is of the highest threshold
        assert detection.compute_precision_at(roc(scores, positive), recall) == pytest.approx(expected)


def test_resamples_are_those_of_the_resampled_images_and_equal_scores_and_absent_images_are_no_finding():
    scores, positive = drawn(60, seed=2)
    rows = np.random.default_rng(3).integers(0, 60, 60)
    curve = roc(scores, positive, np.bincount(rows, minlength=60)[None].astype(float))
    again = roc(scores[rows], positive[rows])
    assert detection.compute_recall_at(curve, 0.1)[0] == pytest.approx(detection.compute_recall_at(again, 0.1))
    positive = np.array([True, False, True, False])
    equal = roc(np.ones(4), positive)
    assert detection.compute_recall_at(equal, 0.5) == 0
    assert detection.compute_recall_at(equal, 1.0) == 1
    assert detection.compute_precision_at(equal, 0.1) == pytest.approx(0.5)
    assert detection.find_threshold(np.ones(4), positive, 0.5) == math.inf
    ranked, is_positive = np.arange(6.0), np.arange(6) % 2 == 0  # negative are 1, 3, 5
    assert detection.find_threshold(ranked, is_positive, 0.34) == 4
    assert detection.find_threshold(ranked, is_positive, 0.34, np.array([1, 1, 1, 1, 1, 8])) == math.inf
    assert detection.find_threshold(ranked, is_positive, 0.34, np.array([1, 4, 1, 1, 1, 1])) == 2
    only = roc(np.arange(4.0), positive, np.array([[1.0, 0, 1, 0], [0, 1, 0, 1]]))  # one kind in each draw
    assert np.isnan(detection.compute_recall_at(only, 0.5)).all()
    assert np.isnan(detection.compute_precision_at(only, 0.5)[1])
