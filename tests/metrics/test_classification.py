"""Tests of the figures of merit against scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics as sk

from avatar_bench.metrics import classification
from avatar_bench.metrics.classification import bias, fragility, prediction_shifts


@pytest.fixture(params=[(3, [0, 1, 2]), (5, [0, 3, 4]), (2, [0, 1])], ids=["3", "2 of 5 absent", "2"])
def drawn(request):
    """Targets, predictions and class count, with absent classes in one case."""
    classes, present = request.param
    generator = np.random.default_rng(0)
    targets = generator.choice(present, 200)
    predicted = np.where(generator.random(200) < 0.6, targets, generator.integers(0, classes, 200))
    return targets, predicted, classes, present


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
def test_measures_equal_sklearn_over_the_classes_present_and_are_nan_for_an_absent_class(drawn):
    targets, predicted, classes, present = drawn
    confusion = classification.confusion_matrix(targets, predicted, classes)
    np.testing.assert_array_equal(confusion, sk.confusion_matrix(targets, predicted, labels=range(classes)))
    mean = {"labels": present, "average": "macro", "zero_division": 0}
    expected = {
        "accuracy": sk.accuracy_score(targets, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(targets, predicted),
        "mcc": sk.matthews_corrcoef(targets, predicted),
        "macro_f1": sk.f1_score(targets, predicted, **mean),
        "macro_precision": sk.precision_score(targets, predicted, **mean),
    }
    assert {name: getattr(classification, name)(confusion) for name in expected} == pytest.approx(expected)
    assert np.isnan([getattr(classification, name)(np.zeros((3, 3))) for name in expected]).all()
    by_class = sk.precision_recall_fscore_support(targets, predicted, labels=present)
    for name, values in zip(("precision", "recall", "f1"), by_class, strict=False):
        measured = getattr(classification, name)(confusion)
        np.testing.assert_allclose(measured[present], values)
        assert np.isnan(np.delete(measured, present)).all()


def test_a_class_never_predicted_has_no_precision_but_a_recall_an_f1_and_an_mcc_of_zero():
    confusion = np.array([[10, 0], [5, 0]])
    assert np.isnan(classification.precision(confusion)[1])
    assert classification.recall(confusion)[1] == classification.f1(confusion)[1] == classification.mcc(confusion) == 0
    expected = sk.f1_score([0] * 10 + [1] * 5, [0] * 15, average="macro")
    assert classification.macro_f1(confusion) == pytest.approx(expected)
    assert classification.macro_precision(confusion) == pytest.approx(10 / 15 / 2)
    assert np.isnan(classification.mcc([[10, 5], [0, 0]]))


def test_a_stack_of_weights_or_confusions_equals_one_after_another(drawn):
    targets, predicted, classes, _ = drawn
    weights = np.random.default_rng(1).integers(0, 4, (6, 200))
    stack = classification.confusion_matrix(targets, predicted, classes, weights)
    for row, confusion in zip(weights, stack, strict=True):
        expected = sk.confusion_matrix(targets, predicted, labels=range(classes), sample_weight=row)
        np.testing.assert_array_equal(confusion, expected)
    for function in (classification.accuracy, classification.macro_f1, classification.mcc, classification.precision):
        np.testing.assert_allclose(function(stack), [function(confusion) for confusion in stack])
    stack = np.random.default_rng(1).integers(0, 9, (2, 4, 3, 3)).astype(float) + np.eye(3)
    after = np.roll(stack, 1, axis=-1)
    moved = prediction_shifts(stack, after)
    for index in np.ndindex(2, 4):
        alone = prediction_shifts(stack[index], after[index])
        assert np.array_equal(moved[index], alone)
        assert np.array_equal(bias(moved)[index], bias(alone))
        assert np.array_equal(fragility(moved)[index], fragility(alone))


@pytest.mark.parametrize("digits", [8, 1], ids=["distinct", "tied"])
def test_auroc_equals_sklearn_with_ties_and_weights(digits):
    generator = np.random.default_rng(0)
    positive = generator.random(300) < 0.3
    scores = np.round(generator.random(300) + 0.3 * positive, digits)
    weights = np.concatenate([np.ones((1, 300)), generator.integers(0, 3, (5, 300))])
    expected = [sk.roc_auc_score(positive, scores, sample_weight=row) for row in weights]
    np.testing.assert_allclose(classification.build_auroc_statistic(scores, positive)(weights), expected)
    for scores, positive, auroc in (([1, 0], [1, 0], 1), ([0, 0], [1, 0], 0.5), ([0, 1], [1, 1], np.nan)):
        statistic = classification.build_auroc_statistic(np.array(scores, float), np.array(positive, bool))
        assert statistic(np.ones((1, 2)))[0] == pytest.approx(auroc, nan_ok=True)
    none = classification.build_auroc_statistic(np.arange(2.0), np.zeros(2, bool))
    assert np.isnan(none(np.ones((1, 2)))).all()


CLEAN = np.diag([40.0, 20.0, 10.0])


def test_shifts_show_bias_and_fragility_where_one_class_is_transformed_and_none_of_an_absent_class():
    one_class, guesses = np.zeros((3, 3)), np.repeat(CLEAN.sum(axis=1, keepdims=True) / 3, 3, axis=1)
    one_class[:, 1] = CLEAN.sum(axis=1)
    moved = prediction_shifts(CLEAN, one_class)
    assert bias(moved) == pytest.approx([-1 / 3, 2 / 3, -1 / 3])
    assert fragility(moved) == pytest.approx([1, 0, 1])
    moved = prediction_shifts(CLEAN, guesses)
    assert bias(moved) == pytest.approx([0, 0, 0])
    assert fragility(moved) == pytest.approx([2 / 3] * 3)
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1, 2], [30, 20, 10])
    before, after = rng.integers(0, 3, (2, 60))
    moved = prediction_shifts(*(sk.confusion_matrix(targets, predicted) for predicted in (before, after)))
    for k in range(3):
        mixed = np.where(targets == k, after, before)  # where class k alone is transformed
        gained = [((mixed == c).sum() - (before == c).sum()) / (targets == k).sum() for c in range(3)]
        assert moved[k] == pytest.approx(gained)
    assert moved.sum(axis=1) == pytest.approx([0, 0, 0])
    assert bias(moved).sum() == pytest.approx(0)
    assert bias(moved) == pytest.approx(moved.mean(axis=0))
    before, after = np.diag([10.0, 10.0, 0.0]), np.array([[5.0, 0, 5], [0, 10, 0], [0, 0, 0]])
    moved = prediction_shifts(before, after)
    assert np.isnan(moved[2]).all()
    assert bias(moved) == pytest.approx([-0.25, 0, 0.25])
    assert fragility(moved)[:2] == pytest.approx([0.5, 0])
    assert np.isnan(fragility(moved)[2])
    lonely = prediction_shifts(np.diag([10.0, 0, 0]), np.array([[5.0, 5, 0], [0, 0, 0], [0, 0, 0]]))
    assert np.isnan(bias(lonely)).all()
    assert fragility(lonely)[0] == 0.5
