"""The solver of probes against scikit-learn, and the folds in which C is chosen."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avatar_bench.training.probe_job import LogisticProblem, choose_strength, divide_images


def draw(n, d):
    """Features of three overlapping classes on different scales, targets and sample weights."""
    features, targets = make_classification(n, d, n_informative=5, n_classes=3, weights=[0.6, 0.3], random_state=0)
    weights = np.random.default_rng(0).uniform(0.5, 2, n)
    return features * np.linspace(0.01, 100, d) + 3, targets, weights


@pytest.mark.parametrize(("n", "d"), [(150, 12), (60, 90)])
@pytest.mark.parametrize("strength", [1e-4, 0.01, 1.0])
def test_the_head_is_the_optimum_of_scikit_learn(n, d, strength):
    features, targets, weights = draw(n, d)
    head = LogisticProblem(features, targets, weights, 3).fit_head(strength)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, tol=1e-10, max_iter=10_000))
    model.fit(features, targets, logisticregression__sample_weight=weights)
    assert softmax(head.compute_logits(features), axis=1) == pytest.approx(model.predict_proba(features), abs=1e-6)


def test_a_constant_feature_and_copies_of_images_change_nothing():
    features, targets, weights = draw(60, 12)
    plain = LogisticProblem(features, targets, weights, 3).fit_head(0.1)
    padded = np.column_stack([np.tile(features, (2, 1)), np.full(120, 7.0)])
    copied = LogisticProblem(padded, np.tile(targets, 2), np.tile(weights, 2) / 2, 3).fit_head(0.1)
    assert copied.compute_logits(padded[:60]) == pytest.approx(plain.compute_logits(features), abs=1e-5)
    noise = np.float32(0.3) * (1 + 1e-7 * np.sign(targets - 0.5))  # it varies by rounding alone
    head = LogisticProblem(np.column_stack([features, noise]), targets, weights, 3).fit_head(1.0)
    assert np.abs(head.weight[:, -1]).max() == 0
    assert np.isfinite(head.bias).all()


def test_cross_validation_scores_each_held_out_image_once_with_the_standard_error_of_the_difference():
    features, targets, weights = draw(150, 12)
    features = StandardScaler().fit_transform(features)
    _, folds = divide_images(targets, [""] * 150, [str(row) for row in range(150)], seed=0)
    table = LogisticProblem(features, targets, weights, 3).cross_validate([1.0, 0.001], folds)
    assert table["C"].tolist() == [0.001, 1.0]
    for row in table.itertuples():
        model = LogisticRegression(C=row.C, tol=1e-8, max_iter=10_000)
        held_out = np.zeros((150, 3))
        for rows, tested in folds:
            model.fit(features[rows], targets[rows], sample_weight=weights[rows])
            held_out[tested] = model.predict_proba(features[tested])
        expected = log_loss(targets, held_out, sample_weight=weights)
        assert table["cv/loss"][row.Index] == pytest.approx(expected, abs=2e-3)
        score = balanced_accuracy_score(targets, held_out.argmax(axis=1))
        assert table["cv/balanced_accuracy"][row.Index] == pytest.approx(score, abs=0.02)
    problem = LogisticProblem(features, targets, weights, 3)
    table = problem.cross_validate([1e-4, 0.01, 1.0], folds)
    errors, best = table["cv/balanced_accuracy_se"], table["cv/balanced_accuracy"].idxmax()
    assert errors[best] == 0
    without = [  # each fold left out in turn
        problem.cross_validate([1e-4, 0.01, 1.0], folds[:fold] + folds[fold + 1 :])["cv/balanced_accuracy"]
        for fold in range(5)
    ]
    differences = np.array([scores - scores[best] for scores in without])
    jackknife = np.sqrt(4 / 5 * ((differences - differences.mean(axis=0)) ** 2).sum(axis=0))
    assert errors.to_numpy() == pytest.approx(jackknife)
    assert errors.max() > 0


def test_the_strongest_regularisation_within_a_standard_error_of_the_best_balanced_accuracy_is_chosen():
    table = pd.DataFrame({"C": [0.1, 1, 10], "cv/balanced_accuracy": [0.5, 0.74, 0.75], "cv/loss": [0.9, 1.2, 3.0]})
    for error, chosen in ((0, 10), (0.009, 10), (0.011, 1), (0.26, 0.1)):
        assert choose_strength(table.assign(**{"cv/balanced_accuracy_se": [error, error, 0]})) == chosen
    equal = table.assign(**{"cv/balanced_accuracy": [0.5, 0.75, 0.75], "cv/balanced_accuracy_se": 0.0})
    assert choose_strength(equal) == 1
    unknown = table.assign(**{"cv/balanced_accuracy": np.nan, "cv/balanced_accuracy_se": np.nan})
    assert choose_strength(unknown.iloc[1:2]) == 1


def test_images_of_a_source_or_a_group_are_held_out_together_and_every_class_stays_in_training():
    targets = np.repeat([0, 1, 2], [40, 30, 20])
    sources = [f"{target}{row % (4 - target)}" for row, target in enumerate(targets)]  # 4, 3 and 2 sources a class
    unit, folds = divide_images(targets, sources, [str(row) for row in range(90)], seed=0)
    assert unit == "source"
    assert sorted(np.concatenate([held_out for _, held_out in folds])) == list(range(90))
    for rows, held_out in folds:
        assert not {sources[row] for row in rows} & {sources[row] for row in held_out}
        assert set(targets[rows]) == {0, 1, 2}
    targets = np.repeat([0, 1], [20, 20])
    groups = [str(row // 2) for row in range(40)]
    unit, folds = divide_images(targets, ["one"] * 20 + ["two", "three"] * 10, groups, seed=0)
    assert (unit, len(folds)) == ("group", 5)
    assert all(not {groups[row] for row in rows} & {groups[row] for row in held_out} for rows, held_out in folds)
    assert divide_images(np.array([0, 0, 1, 1]), [""] * 4, ["a", "b", "c", "c"], seed=0) == ("group", [])
