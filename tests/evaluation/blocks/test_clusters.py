"""Tests of clusters: every figure recomputed by scikit-learn from the saved embeddings and tables."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from avatar_bench.evaluation.blocks.clusters import CLUSTER_METRICS, SOURCE_METRICS, Clusters
from avatar_bench.results.reasons import Reason


@pytest.fixture(scope="module")
def evaluate_block(fake_run, dataset_of):
    def build(predictions, training=None, **options):
        block = Clusters(**{"resamples": 200, "permutations": 3, "method": "pca"} | options)
        return block.evaluate(fake_run(predictions, training=training), dataset_of(predictions))

    return build


def by_source(make_predictions, n=240, spread=3.0, **fields):
    """Return Predictions whose embeddings cluster by source, two images a group."""
    rng = np.random.default_rng(1)
    targets = np.arange(n) // 2 % 3
    number = np.arange(n) // 6 % 4
    places = rng.normal(size=(3, 4, 6)) * spread
    embeddings = rng.normal(size=(n, 6)) + places[targets, number] + 2 * np.eye(6)[targets]
    given = {
        "embeddings": embeddings.astype(np.float32),
        "groups": [f"g{i // 2}" for i in range(n)],
        "sources": [f"s{one}" for one in number],
    }
    logits = rng.normal(size=(n, 3)) + 4 * np.eye(3)[targets]
    return make_predictions(targets, logits, **given | fields)


@pytest.fixture(scope="module")
def folder(evaluate_block, make_predictions, tmp_path_factory):
    return evaluate_block(by_source(make_predictions)).save(tmp_path_factory.mktemp("clusters") / "clusters")


@pytest.fixture(scope="module")
def saved(folder):
    """Embeddings, images.csv and metrics of a saved Result, read back as files."""
    with np.load(folder / "embeddings.npz") as arrays:
        embeddings = arrays["embeddings"].astype(np.float64)
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return embeddings, pd.read_csv(folder / "images.csv"), {name: metric["value"] for name, metric in metrics.items()}


def test_silhouettes_and_indices_equal_sklearn_on_what_is_saved(saved):
    x, images, said = saved
    labels = images["target"]
    expected = {
        "silhouette": sk.silhouette_score(x, labels),
        "silhouette_cosine": sk.silhouette_score(x, labels, metric="cosine"),
        "davies_bouldin": sk.davies_bouldin_score(x, labels),
        "calinski_harabasz": sk.calinski_harabasz_score(x, labels),
    }
    assert {name: said[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert list(said) == [*CLUSTER_METRICS, *SOURCE_METRICS, "trustworthiness"]


def test_the_separation_ratio_equals_scipy_on_what_is_saved(saved):
    x, images, said = saved
    far, label = cdist(x, x), images["target"].to_numpy()
    same, other = label[:, None] == label, ~np.eye(len(x), dtype=bool)
    assert said["separation_ratio"] == pytest.approx(far[~same].mean() / far[same & other].mean(), abs=1e-6)


def test_knn_purity_equals_sklearns_neighbours_of_other_groups(saved):
    x, images, said = saved
    rank = NearestNeighbors(n_neighbors=len(x) - 1).fit(x).kneighbors(return_distance=False)
    label, group, source = (images[name].to_numpy() for name in ("target", "group", "source"))
    shares, of_source = [], []
    for row, near in enumerate(rank):
        foreign = near[group[near] != group[row]]
        shares.append((label[foreign[:10]] == label[row]).mean())
        own = foreign[label[foreign] == label[row]][:10]
        of_source.append((source[own] == source[row]).mean())
    assert said["knn_purity"] == pytest.approx(np.mean(shares), abs=1e-6)
    assert said["source_knn_purity"] == pytest.approx(np.mean(of_source), abs=1e-6)
    np.testing.assert_allclose(images["knn_purity"], shares, atol=1e-9)


def test_the_source_silhouette_is_the_mean_over_classes_of_sklearns(saved):
    x, images, said = saved
    found = [
        sk.silhouette_samples(x[rows], images["source"][rows])
        for rows in (np.flatnonzero(images["target"] == name) for name in images["target"].unique())
    ]
    assert said["source_silhouette"] == pytest.approx(np.concatenate(found).mean(), abs=1e-6)


def test_the_linear_probe_equals_sklearns_cross_validation_by_group(saved):
    x, images, said = saved
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    codes = pd.factorize(images["target"], sort=True)[0]
    answers = cross_val_predict(model, x, codes, groups=images["group"], cv=folds)
    assert said["linear_probe"] == pytest.approx((answers == codes).mean(), abs=1e-3)
    assert said["linear_probe"] == pytest.approx((images["probe"] == images["target"]).mean(), abs=1e-9)


def test_the_knn_probe_equals_a_count_of_votes_by_hand(evaluate_block, oracle):
    training_set, predictions = oracle("noisy", n=90, seed=1), oracle("noisy")
    result = evaluate_block(predictions, training=training_set)
    near = np.argsort(cdist(predictions.embeddings, training_set.embeddings, "cosine"), axis=1)[:, :20]
    votes = np.array([np.bincount(training_set.targets[row], minlength=3) for row in near])
    clear = np.sort(votes, axis=1)[:, -1] > np.sort(votes, axis=1)[:, -2]
    answers = np.array(training_set.classes)[votes.argmax(axis=1)]
    assert clear.mean() > 0.9
    images = result.tables["images"]
    assert (images["knn"][clear] == answers[clear]).all()
    assert result.metrics["knn_accuracy"].value == (images["knn"] == images["target"]).mean()


def test_saved_distances_are_means_over_pairs(saved, folder):
    x, images, _ = saved
    for name, key in (
        ("distances", images["target"]),
        ("source_distances", images["target"] + ": " + images["source"]),
    ):
        table = pd.read_csv(folder / f"{name}.csv").set_index("of")
        for of, to in ((table.index[0], table.columns[1]), (table.index[-1], table.columns[-1])):
            far = cdist(x[key == of], x[key == to])
            assert table.loc[of, to] == pytest.approx(far[far > 1e-9].mean(), abs=1e-6)


def test_embeddings_without_a_class_are_at_their_floors(evaluate_block, oracle):
    result = evaluate_block(oracle("uniform"), permutations=20)
    for name in ("silhouette", "silhouette_cosine", "separation_ratio", "knn_purity", "linear_probe"):
        metric = result.metrics[name]
        assert metric.value == pytest.approx(metric.floor, abs=0.08), name
    assert result.metrics["knn_purity"].floor == pytest.approx(1 / 3, abs=0.03)


def test_a_perfect_oracle_separates_all(evaluate_block, oracle):
    metrics = evaluate_block(oracle("perfect")).metrics
    assert metrics["linear_probe"].value == pytest.approx(1, abs=0.02)
    assert metrics["knn_purity"].value == pytest.approx(1, abs=0.02)


def test_a_shortcut_by_source_is_told_and_none_where_there_is_none(evaluate_block, make_predictions):
    result = evaluate_block(by_source(make_predictions))
    assert result.metrics["source_knn_purity"].low > result.metrics["source_knn_purity"].floor
    purity = result.metrics["source_knn_purity"]
    assert result.warnings == [Reason("sources_cluster", share=purity.value, chance=purity.floor)]
    silent = evaluate_block(by_source(make_predictions, spread=0.0))
    assert silent.metrics["source_knn_purity"].value == pytest.approx(0.25, abs=0.05)
