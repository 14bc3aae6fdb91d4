"""Tests of the overlap in gradcam: networks whose maps are known, and figures recomputed from what it saves."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import combinations, permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import jaccard_score

from avatar_bench.errors import BlockError, GuardError
from avatar_bench.evaluation.block import align_predictions
from avatar_bench.evaluation.blocks.gradcam import GradCam
from avatar_bench.evaluation.blocks.gradcam.overlap_tables import ALL_CLASSES
from avatar_bench.evaluation.blocks.gradcam.run_comparison import compare_overlap
from avatar_bench.i18n import use_language
from avatar_bench.metrics.attribution_maps import OVERLAP_MEASURES, chance_iou
from avatar_bench.results.headings import find_word
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result, draw_figures
from avatar_bench.runs.run import Run

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
        nets = networks or [colour_finder(own) for own in colours]
        each = fields or [{} for _ in nets]
        pairs = [
            make_run(predictions, net, shown, label=f"run {k}", **own)
            for k, (net, own) in enumerate(zip(nets, each, strict=True))
        ]
        return measure_overlap(*zip(*pairs, strict=True), **options)

    return run


@pytest.fixture(scope="module")
def saved(compare_maps, oracle, tmp_path_factory):
    """The folder that the Result of three networks lies in, and its metrics."""
    result = compare_maps(oracle("noisy", 90), SAME, MIXED, APART, images=12)
    folder = result.save(tmp_path_factory.mktemp("overlap") / "gradcam", draw_figures)
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


def test_the_tables_say_the_same(saved):
    folder, said = saved
    classes, pairs, each = (pd.read_csv(folder / f"{name}.csv") for name in ("classes", "pairs", "images"))
    for row in classes.itertuples():
        name = row.metric if row[1] == "(all)" else f"{row.metric}/{row[1]}"
        assert row.value == pytest.approx(said[name]["value"], abs=1e-9)
        assert (row.low, row.high) == pytest.approx((said[name]["low"], said[name]["high"]), abs=1e-9)
        ends = said[f"null/{name}"]["low"], said[f"null/{name}"]["high"]
        assert (row.null_low, row.null_high) == pytest.approx(ends, abs=1e-9)
        assert row.n == (12 if row[1] == "(all)" else 4)
    assert len(pairs) == 3 * 4 * len(OVERLAP_MEASURES)
    assert len(each) == 3 * 12
    for row in pairs[pairs["class"] != "(all)"].itertuples():
        mine = each[(each["a"] == row.a) & (each["b"] == row.b) & (each["class"] == row[3])]
        assert row.value == pytest.approx(mine[row.metric].mean(), abs=1e-9)
        assert row.null == pytest.approx(mine[f"null_{row.metric}"].mean(), abs=1e-9)
    assert (pairs["null_low"] <= pairs["null"]).all()
    assert (pairs["null"] <= pairs["null_high"]).all()
    assert (pairs["above_null"] == (pairs["p"] <= 0.05)).all()


def test_its_figures_are_drawn(saved):
    for name in ("overlap", "pairs", "maps"):
        with Image.open(saved[0] / f"{name}.png") as figure:
            assert figure.width > 900


@pytest.mark.parametrize("language", ["en", "ru"])
def test_the_rows_of_pairs_of_similar_names_differ_and_each_iou_says_which_it_is(inside, draw_saved, language):
    names = [f"mobilenetv3_small few_shot 10 shots · seed {seed}" for seed in range(1, 5)]
    plain = dict.fromkeys(("value", "low", "high", "null_low", "null_high", "null_random"), 0.5)
    rows = [
        {"a": a, "b": b, "class": ALL_CLASSES, "metric": metric, "n": 9, "above_null": True, **plain}
        for a, b in combinations(names, 2)
        for metric in OVERLAP_MEASURES
    ]
    tables = {"pairs": pd.DataFrame(rows)}
    with use_language(language):
        figure = draw_saved(Result("gradcam", "test", 9, CLASSES, tables=tables))["pairs"]
        words = [find_word(name, "gradcam") for name in ("iou_top20", "iou_half")]
    assert inside(figure)
    assert len({tick.get_text() for tick in figure.axes[0].get_yticklabels()}) == 6
    assert [axes.get_title() for axes in figure.axes[2:]] == words
    assert "20 %" in words[0]
    assert "5" in words[1]


def test_two_networks_of_independent_maps_lie_within_the_null(compare_maps, oracle):
    result = compare_maps(oracle("noisy", 240), SAME, APART, images=240, resamples=500, gallery=0)
    for metric in OVERLAP_MEASURES:
        found, null = result.metrics[metric], result.metrics[f"null/{metric}"]
        assert null.low <= found.value <= null.high
        assert found.value == pytest.approx(null.floor, abs=0.02)
        assert null.value == pytest.approx(null.floor, abs=0.01)
    assert result.metrics["null/iou_top20"].floor == pytest.approx(1 / 9, abs=0.01)
    assert not result.tables["classes"]["above_null"].iloc[-4:].any()
    assert result.warnings == [Reason("not_above_null", names=OVERLAP_MEASURES)]


def test_the_test_of_a_null_that_is_true_is_rarely_significant(compare_maps, oracle, noise):
    chances = []
    for seed in range(12):
        result = compare_maps(oracle("noisy", 36), SAME, APART, inputs=noise(36, seed), resamples=100, gallery=0)
        chances.append(result.tables["classes"]["p"].to_numpy())
    assert np.mean(np.array(chances) <= 0.05) < 0.15
    assert np.mean(chances) == pytest.approx(0.5, abs=0.12)


def test_the_same_network_twice_overlaps_wholly(compare_maps, oracle):
    result = compare_maps(oracle("noisy", 60), SAME, SAME)
    for name in (*OVERLAP_MEASURES, *(f"{metric}/{label}" for metric in OVERLAP_MEASURES for label in CLASSES)):
        assert result.metrics[name].value == pytest.approx(1, abs=1e-6)
        assert result.metrics[f"null/{name}"].high < 0.6
    assert result.tables["pairs"]["above_null"].all()
    assert result.warnings == []


def test_sparse_maps_of_the_same_network_overlap_wholly_too(compare_maps, oracle, colour_finder):
    networks = [colour_finder(SAME, above=0.95) for _ in range(2)]  # one cell in twenty is above 0
    result = compare_maps(oracle("noisy", 60), networks=networks)
    assert result.metrics["iou_top20"].value == pytest.approx(1, abs=1e-6)
    assert result.metrics["null/iou_top20"].value < 0.2


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


def test_no_two_images_of_a_group_are_drawn(compare_maps, oracle):
    twins = replace(oracle("noisy", 60), groups=np.array([f"g{i // 6}" for i in range(60)]))
    result = compare_maps(twins, SAME, APART)
    assert result.n == 10
    assert len(set(result.arrays["maps"]["groups"])) == 10


def test_maps_of_other_grids_are_brought_to_one(compare_maps, oracle, colour_finder):
    result = compare_maps(oracle("noisy", 30), networks=[colour_finder(SAME), colour_finder(SAME, cells=4)])
    maps = result.arrays["maps"]
    assert (maps["maps_0"].shape[1:], maps["maps_1"].shape[1:]) == ((8, 8), (4, 4))
    assert 0.3 < result.metrics["pearson"].low < result.metrics["pearson"].high < 0.9
    assert result.tables["classes"]["above_null"].iloc[-4:].all()


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


def test_other_ways_to_resize_are_told(compare_maps, oracle):
    ways = [{"preprocessing": SimpleNamespace(resize=way)} for way in ("squash", "crop")]
    found = compare_maps(oracle("noisy", 30), SAME, SAME, fields=ways)
    assert found.warnings == [Reason("resized_differently", ways=["crop", "squash"])]


@pytest.mark.parametrize("kind", ["perfect", "uniform"])
def test_oracles_pass_through(compare_maps, oracle, kind):
    result = compare_maps(oracle(kind), SAME, SAME, images=12)
    assert result.n == 12
    assert result.metrics["spearman"].value == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_the_classes_raises_the_alarm(compare_maps, oracle, order):
    with pytest.raises(GuardError, match="wrong order"):
        compare_maps(oracle(("permuted", order)), SAME, SAME)


def test_a_class_without_images_and_one_of_a_single_one_have_no_null(compare_maps, make_predictions):
    result = compare_maps(make_predictions([0, 1, 1, 1], 4.0 * np.eye(3)[[0, 1, 1, 1]]), SAME, MIXED)
    assert result.metrics["pearson/real"].reason == Reason("class_not_sampled")
    assert result.metrics["pearson/drawing"].value == pytest.approx(1, abs=1e-6)
    assert result.metrics["null/pearson/drawing"].value is None
    assert result.metrics["null/pearson/generated"].value is not None
    drawing = result.tables["pairs"].query("`class` == 'drawing'")
    assert drawing["p"].tolist() == [1] * 4
    assert not drawing["above_null"].any()


def test_the_same_seed_gives_the_same_figures(compare_maps, oracle):
    first, again, other = (compare_maps(oracle("noisy"), SAME, MIXED, images=12, seed=seed) for seed in (0, 0, 1))
    assert first.metrics == again.metrics
    assert first.arrays["maps"]["paths"].tolist() != other.arrays["maps"]["paths"].tolist()


def test_two_trained_runs_go_through(tiny_run, tmp_path):
    run = Run.open(tiny_run, accelerator="cpu", label="tiny", recipe="tiny")
    twin = Run.open(tiny_run, accelerator="cpu", label="twin", recipe="twin")
    both = [one.dataset("test") for one in (run, twin)]
    result = measure_overlap([run, twin], both, images=12, resamples=100)
    result.save(tmp_path / "gradcam")
    assert result.arrays["maps"]["maps_0"].shape[1:] == (2, 2)
    assert result.metrics["pearson"].value == pytest.approx(1, abs=1e-6)
