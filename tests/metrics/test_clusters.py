"""Tests of how far apart classes lie, against scikit-learn and sums by hand."""

from collections import Counter
from fractions import Fraction
from itertools import permutations, product

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import chisquare
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from threadpoolctl import threadpool_info, threadpool_limits

from avatar_bench.metrics import clusters
from avatar_bench.metrics.neighbours import distances


def two_scales(n=90, apart=0.8, seed=0):
    """Return embeddings far from zero, and labels with gaps between their numbers."""
    rng = np.random.default_rng(seed)
    labels = np.array([0, 2, 5])[np.arange(n) % 3]
    return rng.normal(size=(n, 12)) * (1 + labels[:, None] / 5) + apart * labels[:, None] + 100, labels


def once(labels):
    """Return weights (1, N) that count each image once."""
    return np.ones((1, len(labels)))


def replicated(x, labels, seed=0):
    """Return weights (1, N), and the data with as many copies of each row."""
    weights = np.random.default_rng(seed).integers(0, 4, len(x))
    return weights[None].astype(float), np.repeat(x, weights, axis=0), np.repeat(labels, weights)


def test_davies_bouldin_and_calinski_harabasz_equal_sklearn_where_weights_count_as_copies():
    x, labels = two_scales()
    weights, copies, names = replicated(x, labels)
    products = clusters.EmbeddingSpace(x, ()).products
    for name in ("davies_bouldin", "calinski_harabasz"):
        compute, reference = getattr(clusters, name), getattr(sk, f"{name}_score")
        assert compute(products, labels, once(labels)) == pytest.approx([reference(x, labels)], rel=1e-9)
        assert compute(products, labels, weights) == pytest.approx([reference(copies, names)], rel=1e-9)
        assert np.isnan(compute(products, labels, (labels != 5).astype(float)[None])).all()  # without a class


def by_hand(x, labels, origin):
    """Return mean distances between and within classes, copies of one image never compared."""
    between, within = [], []
    for i in range(len(x)):
        for j in range(len(x)):
            if origin[i] != origin[j]:
                (within if labels[i] == labels[j] else between).append(np.linalg.norm(x[i] - x[j]))
    return np.mean(between), np.mean(within)


def test_silhouettes_and_distances_are_those_of_sklearn_and_of_pairs():
    x, labels = two_scales()
    scores = clusters.EmbeddingSpace(x, np.arange(90).astype(str), 10).image_scores(labels)
    np.testing.assert_allclose(scores[:, 0], sk.silhouette_samples(x, labels), atol=1e-6)
    np.testing.assert_allclose(scores[:, 1], sk.silhouette_samples(x, labels, metric="cosine"), atol=1e-6)
    assert ((scores[:, 2] >= 0) & (scores[:, 2] <= 1)).all()
    kind = np.repeat([0, 1, 2], 30)
    labels[kind == 2] = 0
    within = clusters.silhouettes_within(distances(x), labels, kind)
    np.testing.assert_allclose(within[:30], sk.silhouette_samples(x[:30], labels[:30]), atol=1e-6)
    assert np.isnan(within[60:]).all()  # one label there
    x, labels = two_scales(30)
    between, within = by_hand(x, labels, np.arange(30))
    assert clusters.separation_ratio(distances(x), labels, once(labels)) == pytest.approx([between / within])
    weights, copies, names = replicated(x, labels)
    origin = np.repeat(np.arange(30), weights[0].astype(int))
    between, within = by_hand(copies, names, origin)
    assert clusters.separation_ratio(distances(x), labels, weights) == pytest.approx([between / within], rel=1e-9)
    far = distances(x)
    table = clusters.mean_distances(far, labels)
    first, second = np.flatnonzero(labels == 0), np.flatnonzero(labels == 2)
    np.testing.assert_allclose(table, table.T)
    assert table[0, 1] == pytest.approx(far[np.ix_(first, second)].mean())
    inner = far[np.ix_(first, first)]
    assert table[0, 0] == pytest.approx(inner[~np.eye(len(first), dtype=bool)].mean())
    alone = clusters.mean_distances(far[:4, :4], np.array([0, 0, 0, 1]))
    assert np.isnan(alone[1, 1])
    assert np.isfinite(alone[0]).all()
    x = np.repeat(np.array([[0.0, 0.0], [3.0, 4.0]]), 5, axis=0)
    labels = np.repeat([0, 1], 5)
    products = clusters.EmbeddingSpace(x, ()).products
    assert clusters.davies_bouldin(products, labels, once(labels)) == pytest.approx([0], abs=1e-6)
    assert np.isnan(clusters.separation_ratio(distances(x), labels, once(labels))).all()  # nothing to divide by


def test_the_probe_equals_logistic_regression_and_never_trains_on_the_group_that_it_predicts():
    x, labels = two_scales(apart=0.1)
    groups = np.arange(90) // 2
    expected = np.empty(90, dtype=int)
    for train, test in StratifiedGroupKFold(3, shuffle=True, random_state=7).split(x, labels, groups):
        mean, spread = x[train].mean(axis=0), x[train].std(axis=0)
        model = LogisticRegression(max_iter=1000).fit((x[train] - mean) / spread, labels[train])
        expected[test] = model.predict((x[test] - mean) / spread)
    assert (clusters.predict_by_linear_probe(x, labels, groups, 3, seed=7) == expected).mean() > 0.98
    rng = np.random.default_rng(3)
    x = np.repeat(rng.normal(size=(40, 30)), 5, axis=0) + 0.01 * rng.normal(size=(200, 30))
    groups = np.repeat(np.arange(40), 5)
    labels = rng.permutation(np.arange(40) % 2)[groups]  # a group's images give each other's label away
    apart = (clusters.predict_by_linear_probe(x, labels, groups, 5) == labels).mean()
    leaking = (clusters.predict_by_linear_probe(x, labels, np.arange(200), 5) == labels).mean()
    assert leaking > 0.95
    assert apart < 0.7


def test_the_probe_computes_in_one_thread_and_leaves_the_others_as_they_were(monkeypatch):
    def threads():
        return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

    def fit(*arguments):
        seen.extend(threads())
        return learn(*arguments)

    (x, labels), seen, learn = two_scales(), [], LogisticRegression.fit
    monkeypatch.setattr(LogisticRegression, "fit", fit)
    with threadpool_limits(2, "blas"):
        before = threads()
        clusters.predict_by_linear_probe(x, labels, np.arange(90), 3)
        assert threads() == before
    assert set(seen) == ({1} if before else set())


def test_labels_are_dealt_by_group_within_their_kind_as_an_enumeration_of_all_dealings_says():
    groups = np.repeat(np.arange(20), 3)
    labels, kind = np.arange(20)[groups] % 4, np.arange(20)[groups] % 2
    dealt = clusters.permute_labels(labels, groups, np.random.default_rng(0))
    assert all(len(set(dealt[groups == group])) == 1 for group in range(20))
    assert sorted(dealt) == sorted(labels)
    assert (dealt != labels).any()
    inside = clusters.permute_labels(labels, groups, np.random.default_rng(0), within=kind)
    assert (inside % 2 == labels % 2).all()  # odd labels belong to odd kinds
    groups, classes = np.repeat(np.arange(10), 2), np.tile([0, 1], 10)  # groups mix classes
    sources = 2 * (np.arange(20) // 2 % 3) + classes  # odd sources are of odd classes
    dealt = clusters.permute_labels(sources, groups, np.random.default_rng(0), within=classes)
    assert (dealt % 2 == classes).all()
    assert sorted(dealt) == sorted(sources)
    assert (dealt != sources).any()
    groups, labels = np.array(["a", "b", "a", "b", "c"]), np.array([0, 1, 1, 2, 3])
    expected = Counter()
    for a, b, c in permutations(([0, 1], [1, 2], [3])):
        for first, second, third in product(permutations(a), permutations(b), permutations(c)):
            share = Fraction(1, 6 * len(list(product(permutations(a), permutations(b), permutations(c)))))
            expected[(*(first * 2)[:2], *(second * 2)[:2], third[0])] += share
    generator = np.random.default_rng(0)
    dealt = (clusters.permute_labels(labels, groups, generator)[[0, 2, 1, 3, 4]] for _ in range(6000))
    counts = Counter(tuple(labels.tolist()) for labels in dealt)
    assert set(counts) == set(expected)
    shares = [6000 * float(share) for share in expected.values()]
    assert chisquare([counts[labels] for labels in expected], shares).pvalue > 0.01


def test_the_silhouette_of_labels_without_meaning_is_that_of_dealt_ones_where_groups_mix_labels():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(6), 20)
    places = rng.normal(size=(6, 4))[groups] * 5 + rng.normal(size=(120, 4))  # a group lies in one place
    between = cdist(places, places)

    def score(labels):
        return sk.silhouette_score(between, labels, metric="precomputed")

    truth = [score(rng.permuted(np.tile([0, 1], (6, 10)), axis=1).ravel()) for _ in range(20)]  # half of each group
    labels = np.tile([0, 1], 60)
    floor = [score(clusters.permute_labels(labels, groups, rng)) for _ in range(20)]
    assert np.mean(floor) == pytest.approx(np.mean(truth), abs=0.01)
    whole = [score(rng.permutation(np.arange(6) % 2)[groups]) for _ in range(20)]
    assert np.mean(whole) > np.mean(truth) + 0.05  # whole groups of one label each part where nothing does
