"""Tests of the maps in clusters: their points, and how far they are to be trusted."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.manifold import trustworthiness

from avatar_bench.errors import ConfigError
from avatar_bench.evaluation.blocks import clusters
from avatar_bench.evaluation.blocks.clusters import Clusters, build_maps
from avatar_bench.results.result import draw_figures


@pytest.fixture
def make_maps():
    def build(predictions, **options):
        return build_maps(Clusters(**{"method": "pca", "resamples": 100} | options), predictions, "test")

    return build


def test_trustworthiness_of_each_map_equals_sklearn_on_what_is_saved(make_maps, oracle, tmp_path):
    folder = make_maps(oracle("noisy"), method=["tsne", "pca"]).save(tmp_path / "clusters", draw_figures)
    said = json.loads((folder / "metrics.json").read_text())["metrics"]
    with np.load(folder / "points.npz") as arrays:
        x = arrays["embeddings"].astype(np.float64)
    for name, file in (("trustworthiness", "points"), ("trustworthiness/pca", "points_pca")):
        points = pd.read_csv(folder / f"{file}.csv")
        assert list(points.columns) == ["path", "target", "source", "x", "y"]
        expected = trustworthiness(x, points[["x", "y"]].to_numpy(), n_neighbors=5)
        assert said[name]["value"] == pytest.approx(expected, abs=1e-6)
        assert said[name]["low"] <= said[name]["value"] <= said[name]["high"]
        assert said[name]["floor"] == pytest.approx(0.5, abs=0.05)
    assert {file.stem for file in folder.glob("*.png")} == {"tsne", "pca"}


def test_pca_is_the_projection_on_the_first_two_singular_vectors(make_maps, oracle):
    predictions = oracle("noisy")
    points = make_maps(predictions).tables["points"][["x", "y"]].to_numpy()
    centred = predictions.embeddings - predictions.embeddings.mean(axis=0, dtype=np.float64)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * spread[:2]), atol=1e-6)


def test_tsne_puts_the_images_of_a_class_together_and_is_repeatable(make_maps, oracle):
    predictions = oracle("perfect", n=90)
    first, second = (make_maps(predictions, method="tsne", seed=4).tables["points"] for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    near = np.linalg.norm(first[["x", "y"]].to_numpy()[:, None] - first[["x", "y"]].to_numpy(), axis=2)
    np.fill_diagonal(near, np.inf)
    same = first["target"].to_numpy()[near.argmin(axis=1)] == first["target"].to_numpy()
    assert same.mean() > 0.95


@pytest.mark.slow  # its import takes seconds
def test_umap_has_its_own_table_and_figure(make_maps, oracle, monkeypatch):
    umap = pytest.importorskip("umap")
    # its code would be compiled for half a minute
    monkeypatch.setattr(umap.UMAP, "fit_transform", lambda model, given: given[:, : model.n_components])
    given = oracle("noisy", n=60)
    result = make_maps(given, method=["pca", "umap"])
    assert {"points", "points_umap"} == set(result.tables)
    assert {"trustworthiness", "trustworthiness/umap"} == set(result.metrics)
    np.testing.assert_allclose(result.tables["points_umap"][["x", "y"]], given.embeddings[:, :2])


def test_umap_without_its_package_is_refused_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="umap-learn"):
        Clusters(method=["tsne", "umap"])
    Clusters(method="tsne")
