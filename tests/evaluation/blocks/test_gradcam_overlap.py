"""Tests of the overlap in gradcam: networks whose maps are known, and figures recomputed from what it saves."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import jaccard_score

from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import align_predictions
from avatar_bench.evaluation.blocks.gradcam import GradCam
from avatar_bench.evaluation.blocks.gradcam.run_comparison import compare_overlap
from avatar_bench.metrics.attribution_maps import OVERLAP_MEASURES, chance_iou
from avatar_bench.results.reasons import Reason

SAME, APART, MIXED = (0, 1, 2), (1, 2, 0), (0, 2, 1)
CLASSES = ("drawing", "generated", "real")


def measure_overlap(runs, datasets, **options):
    block = GradCam(**{"resamples": 200, **options})
    return compare_overlap(block, runs, datasets, align_predictions(runs, datasets))


@pytest.fixture(scope="module")
def make_run(fake_run, dataset_of):
    """A run of known evidence and its dataset, the rows in an `order` of their own."""

    def build(predictions, network, images, label="a", order=None, **fields):
        order = np.arange(len(predictions)) if order is None else order
        sha256 = [f"{row:064x}" for row in order]
        own, mine = predictions.take(order), images[torch.as_tensor(order)]
        predictor = SimpleNamespace(
            module=network,
            read_inputs=lambda dataset, rows: mine[torch.as_tensor(np.asarray(rows))],
            unload=lambda: None,
        )
        stand_in = fake_run(
            own,
            **{
                "label": label,
                "recipe": label,
                "predictor": predictor,
                "batch_size": 32,
                "preprocessing": SimpleNamespace(resize="squash"),
                **fields,
            },
        )
        return stand_in, dataset_of(own, sha256=sha256)

    return build


@pytest.fixture(scope="module")
def compare_maps(make_run, colour_finder, noise):
    """Run the block on networks that look at these colours."""

    def run(predictions, *colours, inputs=None, networks=None, fields=None, **options):
        shown = noise(len(predictions)) if inputs is None else inputs
        nets = networks or [colour_finder(colour) for colour in colours]
        each = fields or [{} for _ in nets]
        pairs = [
            make_run(predictions, net, shown, label=f"run {k}", **colour)
            for k, (net, colour) in enumerate(zip(nets, each, strict=True))
        ]
        return measure_overlap(*zip(*pairs, strict=True), **options)

    return run


@pytest.fixture(scope="module")
def saved(compare_maps, oracle, tmp_path_factory):
    """The folder that the Result of three networks lies in, and its metrics."""
    result = compare_maps(oracle("noisy", 90), SAME, MIXED, APART, images=12)
    folder = result.save(tmp_path_factory.mktemp("overlap") / "gradcam")
    return folder, json.loads((folder / "metrics.json").read_text())["metrics"]


def by_hand(one, other):
    """Compare two maps without ties."""
    hot = [(shown / shown.max() >= 0.5).ravel() for shown in (one, other)]
    top = [np.isin(np.arange(one.size), np.argsort(-shown.ravel())[: round(one.size / 5)]) for shown in (one, other)]
    both = one.ravel(), other.ravel()
    return [jaccard_score(*top), jaccard_score(*hot), pearsonr(*both).statistic, spearmanr(*both).statistic]


def test_every_metric_can_be_recomputed_from_the_saved_maps(saved):
    folder, said = saved
    with np.load(folder / "maps.npz", allow_pickle=False) as stored:
        maps, targets = [stored[f"maps_{k}"] for k in range(3)], stored["targets"]
        assert stored["runs"].tolist() == ["run 0", "run 1", "run 2"]
        classes = stored["classes"].tolist()
    tables = [
        np.array([[by_hand(one, other) for other in maps[b]] for one in maps[a]]) for a, b in combinations(range(3), 2)
    ]
    same = np.mean([table[range(12), range(12)] for table in tables], axis=0)
    rival = (targets[:, None] == targets) & ~np.eye(12, dtype=bool)
    others = np.array(
        [[table[row][rival[row]].mean(0) + table[:, row][rival[row]].mean(0) for table in tables] for row in range(12)]
    )
    expected = {}
    for ending, rows in {"": targets >= 0, **{f"/{name}": targets == k for k, name in enumerate(classes)}}.items():
        expected |= {f"{metric}{ending}": same[rows, k].mean() for k, metric in enumerate(OVERLAP_MEASURES)}
        expected |= {
            f"null/{metric}{ending}": others[rows, :, k].mean() / 2 for k, metric in enumerate(OVERLAP_MEASURES)
        }
    assert {name: metric["value"] for name, metric in said.items()} == pytest.approx(expected, abs=1e-6)
    for metric in OVERLAP_MEASURES:
        assert said[metric]["floor"] == said[f"null/{metric}"]["value"]
    assert said["null/iou_top20"]["floor"] == pytest.approx(chance_iou(13, 13, 64), abs=1e-9)


def test_its_figures_are_drawn_whole_in_both_languages(drawn_whole, saved):
    drawn_whole(saved[0], {"overlap", "pairs", "maps"})


def test_two_networks_of_independent_maps_lie_within_the_null(compare_maps, oracle):
    result = compare_maps(oracle("noisy", 240), SAME, APART, images=240, resamples=200, gallery=0)
    for metric in OVERLAP_MEASURES:
        found, null = result.metrics[metric], result.metrics[f"null/{metric}"]
        assert null.low <= found.value <= null.high
        assert found.value == pytest.approx(null.floor, abs=0.02)
        assert null.value == pytest.approx(null.floor, abs=0.01)
    assert result.metrics["null/iou_top20"].floor == pytest.approx(1 / 9, abs=0.01)
    assert not result.tables["classes"]["above_null"].iloc[-4:].any()
    assert result.warnings == [Reason("not_above_null", names=OVERLAP_MEASURES)]


def test_the_same_network_twice_overlaps_wholly(compare_maps, oracle):
    result = compare_maps(oracle("noisy", 60), SAME, SAME)
    for name in (*OVERLAP_MEASURES, *(f"{metric}/{label}" for metric in OVERLAP_MEASURES for label in CLASSES)):
        assert result.metrics[name].value == pytest.approx(1, abs=1e-6)
        assert result.metrics[f"null/{name}"].high < 0.6
    assert result.tables["pairs"]["above_null"].all()
    assert result.warnings == []


def test_a_habit_that_both_share_is_no_more_than_the_null(compare_maps, oracle, noise):
    images = noise(90)
    images[:, :, 16:48, 16:48] = 192 + images[:, :, 16:48, 16:48] // 4
    result = compare_maps(oracle("noisy", 90), SAME, APART, inputs=images, resamples=500)
    assert result.metrics["pearson"].low > 0.1
    assert result.metrics["null/pearson"].low > 0.1
    assert result.metrics["null/pearson"].floor == 0
    assert result.metrics["iou_top20"].value > result.metrics["null/iou_top20"].floor + 0.05
    assert not result.tables["classes"]["above_null"].iloc[-4:].any()


def test_maps_are_those_of_the_true_class_or_of_each_network_s_own(compare_maps, make_predictions):
    targets = np.arange(30) % 3
    wrong = make_predictions(targets, 4.0 * np.eye(3)[(targets + 1) % 3])
    allow = [{"allow": {"permutation"}}] * 2
    # what the second network sees in the next class, the first sees in the true one
    assert compare_maps(wrong, SAME, SAME, fields=allow).metrics["pearson"].value == pytest.approx(1, abs=1e-6)
    mixed = compare_maps(wrong, MIXED, SAME, fields=allow, overlap_of="target").tables["classes"]
    other = compare_maps(wrong, MIXED, SAME, fields=allow, overlap_of="prediction").tables["classes"]
    alike = [set(table[(table["metric"] == "pearson") & (table["value"] > 0.99)]["class"]) for table in (mixed, other)]
    assert alike == [{"drawing"}, {"real"}]


def test_classes_are_matched_by_name_and_images_by_content(make_run, oracle, colour_finder, noise):
    predictions, images = oracle("noisy", 60), noise(60)
    first = make_run(predictions, colour_finder(SAME), images)
    back = ("real", "generated", "drawing")
    other = replace(predictions, classes=back, logits=predictions.logits[:, ::-1], targets=2 - predictions.targets)
    order = np.random.default_rng(3).permutation(60)
    second = make_run(other, colour_finder((2, 1, 0)), images, label="b", order=order)
    result = measure_overlap(*zip(first, second, strict=True), resamples=100)
    assert result.classes == CLASSES
    for metric in OVERLAP_MEASURES:
        assert result.metrics[metric].value == pytest.approx(1, abs=1e-6)


def test_networks_without_a_map_are_left_out_and_told(compare_maps, oracle, colour_finder):
    flat = colour_finder(SAME)
    flat.net.feature_info = []
    result = compare_maps(oracle("noisy", 30), networks=[colour_finder(SAME), flat, colour_finder(SAME)])
    assert result.warnings == [Reason("no_spatial_map", run="run 1")]
    assert set(result.tables["pairs"]["b"]) == {"run 2"}
    with pytest.raises(BlockError, match=r"Only one run(.|\n)*run 1 is left out"):
        compare_maps(oracle("noisy", 30), networks=[colour_finder(SAME), flat])
    with pytest.raises(BlockError, match="No run has"):
        compare_maps(oracle("noisy", 30), networks=[flat, flat])
    with pytest.raises(BlockError, match="at least 2 runs"):
        compare_maps(oracle("noisy", 30), SAME)


def test_empty_maps_have_no_overlap_and_are_told(compare_maps, oracle, colour_finder):
    networks = [colour_finder(SAME), colour_finder(SAME, weight=-80)]
    result = compare_maps(oracle("noisy", 30), networks=networks)
    assert result.warnings == [Reason("of_runs", runs="run 1", reason=Reason("empty_maps", n=30, all=30))]
    assert {metric.value for metric in result.metrics.values()} == {None}
    assert result.metrics["pearson"].reason == Reason("too_few_maps")
    assert result.tables["pairs"]["n"].tolist() == [0] * 16
