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

from avatar_bench.training.probe_job import LogisticProblem, choose_strength, divide_images, find_better_end


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
    losses = []  # by C and fold
    for row in table.itertuples():
        model = LogisticRegression(C=row.C, tol=1e-8, max_iter=10_000)
        held_out = np.zeros((150, 3))
        for rows, tested in folds:
            model.fit(features[rows], targets[rows], sample_weight=weights[rows])
            held_out[tested] = model.predict_proba(features[tested])
            losses.append(log_loss(targets[tested], held_out[tested], sample_weight=weights[tested]))
        expected = log_loss(targets, held_out, sample_weight=weights)
        assert table["cv/loss"][row.Index] == pytest.approx(expected, abs=2e-3)
        score = balanced_accuracy_score(targets, held_out.argmax(axis=1))
        assert table["cv/balanced_accuracy"][row.Index] == pytest.approx(score, abs=0.02)
    differences = np.subtract(losses[:5], losses[5:])
    best = table["cv/loss"].argmin()
    assert table["cv/loss_se"][best] == 0
    assert table["cv/loss_se"][1 - best] == pytest.approx(differences.std(ddof=1) / 5**0.5, abs=2e-3)


def test_the_lowest_loss_is_chosen_and_a_value_beyond_is_advised_where_the_loss_still_falls():
    table = pd.DataFrame({"C": [0.1, 1, 10], "cv/loss": [0.9, 0.7, 1.2], "cv/loss_se": 0.05})
    assert (choose_strength(table), find_better_end(table)) == (1, None)
    for losses, chosen, other in (([0.6, 0.7, 1.2], 0.1, 0.01), ([0.66, 0.7, 1.2], 0.1, None), ([2, 1, 0.9], 10, 100)):
        ended = table.assign(**{"cv/loss": losses})
        assert (choose_strength(ended), find_better_end(ended)) == (chosen, other and pytest.approx(other))
    equal = table.assign(**{"cv/loss": [0.9, 0.7, 0.7]})
    assert choose_strength(equal) == 1
    unknown = table.assign(**{"cv/loss": np.nan, "cv/loss_se": np.nan})
    assert (choose_strength(unknown.iloc[1:2]), find_better_end(unknown.iloc[1:2])) == (1, None)


@pytest.mark.parametrize("n", [60, 168])
def test_the_chosen_head_answers_with_confidence_on_few_images_of_many_features(n):
    features, targets = make_classification(
        n + 3000, 300, n_informative=20, n_redundant=100, n_classes=3, class_sep=2, random_state=n
    )
    problem = LogisticProblem(features[:n], targets[:n], np.ones(n), 3)
    folds = divide_images(targets[:n], [""] * n, [str(row) for row in range(n)], seed=0)[1]
    table = problem.cross_validate([1e-4, 1e-3, 0.01, 0.1], folds)
    strengths = table["C"][0], choose_strength(table)
    smallest, chosen = (softmax(problem.fit_head(C).compute_logits(features[n:]), axis=1) for C in strengths)
    assert log_loss(targets[n:], chosen) < log_loss(targets[n:], smallest) - 0.05
    assert chosen.max() > 0.9 > smallest.max()


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
