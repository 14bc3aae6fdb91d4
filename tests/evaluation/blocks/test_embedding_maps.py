"""Tests of the maps in clusters: their points, and how far they are to be trusted."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
from sklearn.manifold import trustworthiness

from avatar_bench.cli.app import main
from avatar_bench.errors import BlockError, ConfigError
from avatar_bench.evaluation.blocks import clusters
from avatar_bench.evaluation.blocks.clusters import Clusters
from avatar_bench.evaluation.blocks.clusters.embedding_maps import build_maps
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import draw_figures

needs_umap = pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="umap-learn is not installed")


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
    given = oracle("noisy")
    points = make_maps(given).tables["points"][["x", "y"]].to_numpy()
    centred = given.embeddings - given.embeddings.mean(axis=0, dtype=np.float64)
    left, spread, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(points), np.abs(left[:, :2] * spread[:2]), atol=1e-6)


def test_tsne_puts_the_images_of_a_class_together_and_is_repeatable(make_maps, oracle):
    given = oracle("perfect", n=90)
    first, second = (make_maps(given, method="tsne", seed=4).tables["points"] for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    near = np.linalg.norm(first[["x", "y"]].to_numpy()[:, None] - first[["x", "y"]].to_numpy(), axis=2)
    np.fill_diagonal(near, np.inf)
    same = first["target"].to_numpy()[near.argmin(axis=1)] == first["target"].to_numpy()
    assert same.mean() > 0.95


@pytest.mark.slow  # it compiles itself on first use
@needs_umap
def test_umap_has_its_own_table_and_figure(make_maps, oracle):
    result = make_maps(oracle("noisy", n=60), method=["pca", "umap"])
    assert {"points", "points_umap"} == set(result.tables)
    assert {"trustworthiness", "trustworthiness/umap"} == set(result.metrics)


def test_umap_without_its_package_is_refused_and_says_what_to_do(monkeypatch):
    monkeypatch.setattr(clusters, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="umap-learn"):
        Clusters(method=["tsne", "umap"])
    Clusters(method="tsne")


def test_perplexity_is_lowered_with_a_word_where_there_are_few_images(make_maps, oracle):
    result = make_maps(oracle("noisy", n=20), method="tsne")
    assert result.warnings == [Reason("perplexity_lowered", value=19 / 3, n=20)]
    assert np.isfinite(result.tables["points"][["x", "y"]].to_numpy()).all()
    assert make_maps(oracle("noisy", n=200), method="tsne").warnings == []


def test_a_limit_draws_the_same_share_of_each_class_and_says_so(make_maps, oracle):
    result = make_maps(oracle("noisy"), limit=60)
    assert result.tables["points"]["target"].value_counts().tolist() == [20, 20, 20]
    assert len(result.arrays["points"]["embeddings"]) == result.n == 60
    assert result.warnings == [Reason("limited", n=60, all=240)]


def test_images_of_unknown_class_and_source_are_drawn_too(make_maps, make_predictions, oracle, draw_saved):
    embeddings = oracle("noisy", n=40).embeddings
    given = make_predictions(np.full(40, -1), np.zeros((40, 3)), embeddings=embeddings, sources=[""] * 40)
    result = make_maps(given)
    assert result.n == 40
    assert set(result.tables["points"]["target"]) == {""}
    right = draw_saved(result)["pca"].axes[1].get_legend()
    assert [text.get_text() for text in right.get_texts()] == ["not known (40)"]


def test_the_largest_sources_are_named_and_the_others_are_one_grey(make_maps, oracle, draw_saved):
    figure = draw_saved(make_maps(oracle("noisy"), named_sources=3))["pca"]
    names = [text.get_text() for text in figure.axes[1].get_legend().get_texts()]
    assert len(names) == 4
    assert names[-1] == "9 others (180)"


@pytest.mark.parametrize("kind", ["perfect", "uniform"])
def test_oracles_are_drawn(make_maps, oracle, kind):
    assert 0.5 < make_maps(oracle(kind)).metrics["trustworthiness"].value <= 1


def test_a_handful_of_images_is_refused(make_maps, oracle):
    with pytest.raises(BlockError, match="too few"):
        make_maps(oracle("noisy", n=7))
    assert make_maps(oracle("noisy", n=8)).n == 8


@pytest.mark.parametrize(
    "options",
    [{"method": "mds"}, {"method": []}, {"perplexity": 0}, {"umap_neighbors": 1}, {"trust_neighbors": 0}, {"limit": 3}],
)
def test_a_wrong_option_is_named(options):
    with pytest.raises(ConfigError, match=f"block.clusters.{next(iter(options))}="):
        Clusters(**options)


def test_the_command_takes_several_methods(tiny_run, tmp_path):
    words = ["evaluate", f"ckpt={tiny_run}", "block=clusters", f"out={tmp_path}", "block.clusters.method=[tsne,pca]"]
    assert main([*words, "block.clusters.resamples=100"]) == 0
    found = {file.name for file in (tmp_path / "evaluation" / "test" / "clusters").iterdir()}
    figures = {f"{method}.{ending}" for method in ("tsne", "pca") for ending in ("png", "svg")}
    assert found >= {"metrics.json", "points.csv", "points_pca.csv", "points.npz", *figures}
