"""Tests of clusters: every number by scikit-learn from the saved embeddings and tables, and the maps of the points."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import cdist
from sklearn import metrics as sk
from sklearn.manifold import trustworthiness

from avatar_bench.errors import ConfigError
from avatar_bench.evaluation.blocks import clusters
from avatar_bench.evaluation.blocks.clusters import CLUSTER_METRICS, SOURCE_METRICS, Clusters, build_maps
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result


@pytest.fixture(scope="module")
def evaluate_block(fake_run, dataset_of):
    def build(predictions, training=None, **options):
        block = Clusters(**{"resamples": 200, "permutations": 3, "method": "pca"} | options)
        return block.evaluate(fake_run(predictions, training=training), dataset_of(predictions))

    return build


@pytest.fixture(scope="module")
def by_source(make_predictions):
    """Build Predictions whose embeddings cluster by source, two images a group."""

    def build(spread=3.0):
        rng = np.random.default_rng(1)
        targets, number = np.arange(240) // 2 % 3, np.arange(240) // 6 % 4
        centres = rng.normal(size=(3, 4, 6)) * spread
        embeddings = rng.normal(size=(240, 6)) + centres[targets, number] + 2 * np.eye(6)[targets]
        logits = rng.normal(size=(240, 3)) + 4 * np.eye(3)[targets]
        names = {"groups": [f"g{i // 2}" for i in range(240)], "sources": [f"s{source}" for source in number]}
        return make_predictions(targets, logits, embeddings=embeddings.astype(np.float32), **names)

    return build


@pytest.fixture(scope="module")
def result(evaluate_block, by_source, tmp_path_factory):
    """A Result, read back from its files."""
    saved = evaluate_block(by_source()).save(tmp_path_factory.mktemp("clusters") / "clusters")
    return Result.load(saved, arrays=True)


@pytest.fixture(scope="module")
def saved(result):
    """Embeddings, images.csv and values of the metrics of a saved Result."""
    embeddings = result.arrays["embeddings"]["embeddings"].astype(np.float64)
    return embeddings, result.tables["images"], {name: metric.value for name, metric in result.metrics.items()}


def test_silhouettes_indices_purity_and_distances_equal_sklearn_and_scipy_on_what_is_saved(saved, result):
    x, images, value = saved
    labels, far = images["target"].to_numpy(), cdist(x, x)
    same = labels[:, None] == labels
    within = [sk.silhouette_samples(x[labels == name], images["source"][labels == name]) for name in np.unique(labels)]
    expected = {
        "silhouette": sk.silhouette_score(x, labels),
        "silhouette_cosine": sk.silhouette_score(x, labels, metric="cosine"),
        "davies_bouldin": sk.davies_bouldin_score(x, labels),
        "calinski_harabasz": sk.calinski_harabasz_score(x, labels),
        "separation_ratio": far[~same].mean() / far[same & ~np.eye(len(x), dtype=bool)].mean(),
        "source_silhouette": np.concatenate(within).mean(),
    }
    assert {name: value[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert list(value) == [*CLUSTER_METRICS, *SOURCE_METRICS, "trustworthiness"]
    label, group, source = (images[name].to_numpy() for name in ("target", "group", "source"))
    for name, key in (("distances", label), ("source_distances", label + ": " + source)):
        table = result.tables[name].set_index("of")
        of, to = table.index[0], table.columns[-1]
        assert table.loc[of, to] == pytest.approx(far[np.ix_(key == of, key == to)].mean(), abs=1e-6)
    is_foreign, within_class = group[:, None] != group, label[:, None] == label
    for name, is_alike, is_candidate in (
        ("knn_purity", within_class, is_foreign),
        ("source_knn_purity", source[:, None] == source, is_foreign & within_class),
    ):
        near = np.argsort(np.where(is_candidate, far, np.inf), axis=1)[:, :10]
        assert value[name] == pytest.approx(np.take_along_axis(is_alike, near, axis=1).mean(), abs=1e-6)
    assert value["knn_purity"] == pytest.approx(images["knn_purity"].mean(), abs=1e-9)


def test_probes_and_votes_are_those_of_the_images_and_the_votes_of_training_images(saved, evaluate_block, oracle):
    _, images, value = saved
    assert value["linear_probe"] == pytest.approx((images["probe"] == images["target"]).mean(), abs=1e-9)
    training, predictions = oracle("noisy", n=90, seed=1), oracle("noisy")
    for of, is_right in ((training, True), (replace(training, targets=(training.targets + 1) % 3), False)):
        result = evaluate_block(predictions, training=of)
        images, accuracy = result.tables["images"], result.metrics["knn_accuracy"].value
        assert accuracy == (images["knn"] == images["target"]).mean()
        assert (accuracy > 0.9) == is_right


def test_embeddings_without_a_class_are_at_their_floors_and_a_perfect_oracle_separates_all(evaluate_block, oracle):
    uniform = evaluate_block(oracle("uniform"), permutations=10).metrics
    perfect = evaluate_block(oracle("perfect")).metrics
    for name in ("silhouette", "silhouette_cosine", "separation_ratio", "knn_purity", "linear_probe"):
        assert uniform[name].value == pytest.approx(uniform[name].floor, abs=0.08), name
    assert uniform["knn_purity"].floor == pytest.approx(1 / 3, abs=0.03)
    assert [perfect[name].value for name in ("linear_probe", "knn_purity")] == pytest.approx([1, 1], abs=0.02)


def test_a_shortcut_by_source_is_warned_of_and_none_where_there_is_none(result, evaluate_block, by_source):
    purity = result.metrics["source_knn_purity"]
    assert purity.low > purity.floor
    assert result.warnings == [Reason("sources_cluster", share=purity.value, chance=purity.floor)]
    silent = evaluate_block(by_source(spread=0.0)).metrics["source_knn_purity"]
    assert silent.value == pytest.approx(0.25, abs=0.05)


def make_maps(predictions, **options):
    return build_maps(Clusters(**{"method": "pca", "resamples": 100} | options), predictions, "test")


def test_maps_have_the_trustworthiness_of_sklearn_and_put_the_images_of_a_class_together(oracle, tmp_path, draw_saved):
    saved = Result.load(make_maps(oracle("noisy"), method=["tsne", "pca"]).save(tmp_path / "clusters"), arrays=True)
    x = saved.arrays["points"]["embeddings"].astype(np.float64)
    for name, table in (("trustworthiness", "points"), ("trustworthiness/pca", "points_pca")):
        points, metric = saved.tables[table], saved.metrics[name]
        assert list(points.columns) == ["path", "target", "source", "x", "y"]
        expected = trustworthiness(x, points[["x", "y"]].to_numpy(), n_neighbors=5)
        assert metric.value == pytest.approx(expected, abs=1e-6)
        assert metric.low <= metric.value <= metric.high
        assert metric.floor == pytest.approx(0.5, abs=0.05)
    centred = x - x.mean(axis=0)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)  # points of PCA are the projection on the first two
    points = np.abs(saved.tables["points_pca"][["x", "y"]])
    np.testing.assert_allclose(points, np.abs(left[:, :2] * spread[:2]), atol=1e-5)
    assert set(draw_saved(saved)) == {"tsne", "pca"}
    first, second = (make_maps(oracle("perfect", n=90), method="tsne", seed=4).tables["points"] for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    near = cdist(first[["x", "y"]], first[["x", "y"]])
    np.fill_diagonal(near, np.inf)
    target = first["target"].to_numpy()
    assert (target[near.argmin(axis=1)] == target).mean() > 0.95


@pytest.mark.slow  # its import takes seconds
def test_umap_has_its_own_table_and_figure(oracle, monkeypatch):
    umap = pytest.importorskip("umap")
    # its code would be compiled for half a minute
    monkeypatch.setattr(umap.UMAP, "fit_transform", lambda model, features: features[:, : model.n_components])
    predictions = oracle("noisy", n=60)
    result = make_maps(predictions, method=["pca", "umap"])
    assert {"points", "points_umap"} == set(result.tables)
    assert {"trustworthiness", "trustworthiness/umap"} == set(result.metrics)
    np.testing.assert_allclose(result.tables["points_umap"][["x", "y"]], predictions.embeddings[:, :2])


def test_umap_without_its_package_is_refused_with_what_to_do(monkeypatch):
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="umap-learn"):
        Clusters(method=["tsne", "umap"])
    Clusters(method="tsne")
