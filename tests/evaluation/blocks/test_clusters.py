"""Tests of clusters: every figure recomputed by scikit-learn from the saved embeddings and tables."""

from __future__ import annotations

import json
from itertools import permutations

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

from avatar_bench.cli.app import main
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.blocks.clusters import CLUSTER_METRICS, SOURCE_METRICS, Clusters
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import draw_figures


@pytest.fixture
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
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clusters") / "clusters"


@pytest.fixture
def saved(evaluate_block, make_predictions, folder):
    """Embeddings, images.csv and metrics of a saved Result, read back as files."""
    if not folder.exists():
        evaluate_block(by_source(make_predictions)).save(folder, draw_figures)
    with np.load(folder / "embeddings.npz") as arrays:
        embeddings = arrays["embeddings"].astype(np.float64)
    metrics = json.loads((folder / "metrics.json").read_text())["metrics"]
    return embeddings, pd.read_csv(folder / "images.csv"), {name: one["value"] for name, one in metrics.items()}


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
    training_set, asked = oracle("noisy", n=90, seed=1), oracle("noisy")
    result = evaluate_block(asked, training=training_set)
    near = np.argsort(cdist(asked.embeddings, training_set.embeddings, "cosine"), axis=1)[:, :20]
    votes = np.array([np.bincount(training_set.targets[row], minlength=3) for row in near])
    clear = np.sort(votes, axis=1)[:, -1] > np.sort(votes, axis=1)[:, -2]
    answers = np.array(training_set.classes)[votes.argmax(axis=1)]
    assert clear.mean() > 0.9
    told = result.tables["images"]
    assert (told["knn"][clear] == answers[clear]).all()
    assert result.metrics["knn_accuracy"].value == (told["knn"] == told["target"]).mean()


def test_without_training_images_the_knn_probe_says_why_it_is_null(evaluate_block, oracle):
    metric = evaluate_block(oracle("noisy")).metrics["knn_accuracy"]
    assert metric.value is None
    assert metric.reason == Reason("no_training_images", why="the run does not know these images.")


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
    assert {file.stem for file in folder.glob("*.png")} == {"silhouettes", "distances", "source_distances", "pca"}


def test_every_figure_lies_in_its_interval_and_above_its_floor_where_classes_part(evaluate_block, oracle):
    result = evaluate_block(oracle("noisy"), training=oracle("noisy", seed=1))
    for name in CLUSTER_METRICS:
        metric = result.metrics[name]
        assert metric.low <= metric.value <= metric.high, name
        assert (metric.floor < metric.low) == metric.higher_is_better, name
        assert metric.n == 240


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


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_three_classes_is_refused(evaluate_block, oracle, order):
    with pytest.raises(GuardError, match="wrong order"):
        evaluate_block(oracle(("permuted", order)))


def test_a_shortcut_by_source_is_told_and_none_where_there_is_none(evaluate_block, make_predictions):
    told = evaluate_block(by_source(make_predictions))
    assert told.metrics["source_knn_purity"].low > told.metrics["source_knn_purity"].floor
    purity = told.metrics["source_knn_purity"]
    assert told.warnings == [Reason("sources_cluster", share=purity.value, chance=purity.floor)]
    silent = evaluate_block(by_source(make_predictions, spread=0.0))
    assert silent.metrics["source_knn_purity"].value == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("sources", [[""] * 240, ["one"] * 240])
def test_sources_that_cannot_be_compared_give_null_with_a_reason(evaluate_block, make_predictions, sources):
    result = evaluate_block(by_source(make_predictions, sources=sources))
    for name in SOURCE_METRICS:
        assert result.metrics[name].value is None
        assert result.metrics[name].reason == Reason("no_class_of_two_sources")
    assert "source_distances" not in result.tables or sources[0]


def test_a_class_of_one_image_or_one_group_is_no_obstacle(evaluate_block, make_predictions, draw_saved):
    given = by_source(make_predictions)
    rows = np.r_[np.flatnonzero(given.targets != 2), np.flatnonzero(given.targets == 2)[:1]]
    result = evaluate_block(given.take(rows))
    assert result.metrics["linear_probe"].reason == Reason("single_group")
    assert result.metrics["silhouette"].value is not None
    assert np.isnan(result.tables["distances"].iloc[2]["real"])
    assert "-" in [text.get_text() for text in draw_saved(result)["distances"].axes[0].texts]


def test_sets_without_two_classes_or_distances_have_maps_alone(evaluate_block, make_predictions, draw_saved):
    for given, why in (
        (by_source(make_predictions).take(np.arange(0, 240, 6)), "two classes"),
        (make_predictions(np.arange(30) % 3, np.zeros((30, 3))), "equal"),
        (make_predictions(np.full(30, -1), np.zeros((30, 3))), "known"),
    ):
        result = evaluate_block(given)
        assert why in next(one.values["why"] for one in result.warnings if one.code == "part_left_out")
        assert [*result.metrics] == ["trustworthiness"]
        assert [*draw_saved(result)] == ["pca"]


def test_a_set_too_small_for_maps_has_the_separation_alone_or_is_refused(evaluate_block, make_predictions):
    few = by_source(make_predictions).take(np.arange(6))
    assert "points" not in evaluate_block(few).tables
    with pytest.raises(BlockError, match="two classes"):
        evaluate_block(few.take(np.arange(2)))


def test_few_groups_that_mix_classes_hand_their_mix_on_or_are_refused_in_words(evaluate_block, make_predictions):
    given = by_source(make_predictions)
    few = given.take(np.concatenate([np.flatnonzero(given.targets == one)[:2] for one in (0, 1, 2)]))
    few.groups[:] = np.array(["a", "b", "a", "b", "a", "b"])
    assert all(
        evaluate_block(few).metrics[name].floor is not None for name in ("silhouette", "knn_purity", "linear_probe")
    )
    two = given.take(np.concatenate([np.flatnonzero(given.targets == one)[: 3 - one] for one in (0, 1)]))
    two.groups[:] = np.array(["b", "a", "a", "a", "a"])
    with pytest.raises(BlockError, match="mix classes"):
        evaluate_block(
            two, permutations=1, seed=3
        )  # they change places: a gets b's one class, and b happens to get the same


def test_the_probe_has_a_floor_or_none_where_dealing_leaves_a_fold_one_class(evaluate_block, make_predictions):
    given = by_source(make_predictions)
    two = given.take(np.concatenate([np.flatnonzero(given.targets == one)[: 5 - one] for one in (0, 1)]))
    two.groups[:] = np.array(["a", "a", "b", "b", "c", "a", "a", "b", "b"])
    floors = [evaluate_block(two, permutations=1, seed=seed).metrics["linear_probe"].floor for seed in range(12)]
    assert any(floor is None for floor in floors)  # of a dealing that left a class to fewer groups than there are folds
    assert all(floor is None or 0 <= floor <= 1 for floor in floors)


def test_a_limit_is_kept_and_said_and_unknown_images_are_left_out(evaluate_block, make_predictions):
    given = by_source(make_predictions)
    given.targets[:4] = -1
    result = evaluate_block(given, limit=60)
    assert result.n == len(result.tables["images"]) <= 62
    assert result.warnings[:2] == [Reason("unlabelled", n=4, all=240), Reason("limited", n=result.n, all=236)]


def test_the_same_seed_gives_the_same_figures(evaluate_block, oracle):
    first, second = (evaluate_block(oracle("noisy"), limit=100, seed=3) for _ in range(2))
    assert first.metrics == second.metrics


@pytest.mark.parametrize("option", ["neighbors", "folds", "permutations", "limit", "sources"])
def test_a_wrong_option_is_named(option):
    with pytest.raises(ConfigError, match=rf"block\.clusters\.{option}=0"):
        Clusters(**{option: 0})


def test_the_command_writes_the_tables_and_figures(tiny_run, tmp_path):
    words = ["evaluate", f"ckpt={tiny_run}", "block=clusters", f"out={tmp_path}", "block.clusters.resamples=100"]
    assert main(words) == 0
    found = {file.name for file in (tmp_path / "evaluation" / "test" / "clusters").iterdir()}
    assert {"metrics.json", "images.csv", "distances.csv", "embeddings.npz", "silhouettes.png"} <= found
