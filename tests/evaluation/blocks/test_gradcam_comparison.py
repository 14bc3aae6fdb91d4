"""Tests of what gradcam compares between runs: the overlap of their maps, by hand, and the wall of their maps."""

from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avatar_bench.errors import BlockError
from avatar_bench.evaluation.block import align_predictions
from avatar_bench.evaluation.blocks.gradcam import GradCam
from avatar_bench.evaluation.blocks.gradcam.run_comparison import build_wall, compare_overlap
from avatar_bench.metrics.attribution_maps import OVERLAP_MEASURES, chance_iou, overlaps
from avatar_bench.models import attribution
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run
from tests.evaluation.conftest import CLASSES

SAME, APART, MIXED = (0, 1, 2), (1, 2, 0), (0, 2, 1)  # the colours that a network looks at, by class
ALLOW_ORDER = {"allow": frozenset({"permutation"})}


@pytest.fixture(scope="module")
def make_run(fake_run, dataset_of):
    """Build a run of known evidence and its dataset, the rows in an `order` of their own."""

    def build(predictions, network, images, label, order=None, **fields):
        order = np.arange(len(predictions)) if order is None else order
        predictions, images = predictions.take(order), images[torch.as_tensor(order)]
        predictor = SimpleNamespace(module=network, unload=lambda: None)
        predictor.read_inputs = lambda dataset, rows: images[torch.as_tensor(np.asarray(rows))]
        plain = {"predictor": predictor, "batch_size": 32, "preprocessing": SimpleNamespace(resize="squash")}
        run = fake_run(predictions, label=label, recipe=label, **plain | fields)
        return run, dataset_of(predictions, sha256=[f"{row:064x}" for row in order])

    return build


def measure_overlap(runs, datasets, **options):
    block = GradCam(**{"resamples": 200, **options})
    return compare_overlap(block, runs, datasets, align_predictions(runs, datasets))


def make_wall(runs, datasets, **options):
    return build_wall(GradCam(**options), runs, datasets, align_predictions(runs, datasets))


@pytest.fixture(scope="module")
def make_runs(make_run, noise):
    """Build a run of each network, "run 0" and so on, on the same images, and their datasets."""

    def build(predictions, networks, inputs=None, **fields):
        images = noise(len(predictions[0])) if inputs is None else inputs
        pairs = zip(predictions, networks, strict=True)
        return zip(*(make_run(of, net, images, f"run {k}", **fields) for k, (of, net) in enumerate(pairs)), strict=True)

    return build


@pytest.fixture(scope="module")
def compare_maps(make_runs, colour_finder):
    """Measure the overlap of networks, of those that look at these colours by default."""

    def compare(predictions, *colours, inputs=None, networks=None, fields=None, **options):
        networks = networks or [colour_finder(of_network) for of_network in colours]
        return measure_overlap(*make_runs([predictions] * len(networks), networks, inputs, **fields or {}), **options)

    return compare


@pytest.fixture(scope="module")
def compute_wall(make_runs, colour_finder):
    """Build the wall of the predictions of several runs for the same images."""

    def compute(*predictions, networks=None, fields=None, **options):
        networks = networks or [colour_finder()] * len(predictions)
        return make_wall(*make_runs(predictions, networks, **fields or {}), **options)

    return compute


def test_every_metric_of_overlap_can_be_recomputed_from_the_saved_maps(compare_maps, oracle, tmp_path, drawn_whole):
    result = compare_maps(oracle("noisy", 90), SAME, MIXED, APART, images=12)
    saved = Result.load(result.save(tmp_path / "gradcam"), arrays=True)
    stored = saved.arrays["maps"]
    maps, targets = [stored[f"maps_{k}"] for k in range(3)], stored["targets"]
    assert stored["runs"].tolist() == ["run 0", "run 1", "run 2"]
    rivals = (targets[:, None] == targets) & ~np.eye(12, dtype=bool)
    same, others = np.zeros((12, 4)), np.zeros((12, 4))  # means over the pairs of runs, for each image
    for a, b in combinations(range(3), 2):
        tables = np.stack([*overlaps(maps[a], maps[b]).values()], axis=2)
        for row in range(12):
            columns = np.flatnonzero(rivals[row])
            same[row] += tables[row, row] / 3
            others[row] += (tables[row, columns] + tables[columns, row]).mean(axis=0) / 6
    expected = {}
    for ending, rows in {"": targets >= 0, **{f"/{name}": targets == k for k, name in enumerate(CLASSES)}}.items():
        for k, metric in enumerate(OVERLAP_MEASURES):
            expected |= {f"{metric}{ending}": same[rows, k].mean(), f"null/{metric}{ending}": others[rows, k].mean()}
    assert {name: metric.value for name, metric in saved.metrics.items()} == pytest.approx(expected, abs=1e-6)
    for metric in OVERLAP_MEASURES:
        assert saved.metrics[metric].floor == saved.metrics[f"null/{metric}"].value
    assert saved.metrics["null/iou_top20"].floor == pytest.approx(chance_iou(13, 13, 64), abs=1e-9)
    drawn_whole(saved.folder, {"overlap", "pairs", "maps"})


def test_the_same_network_twice_overlaps_wholly_and_a_shared_habit_not_above_the_null(compare_maps, oracle, noise):
    result = compare_maps(oracle("noisy", 60), SAME, SAME)
    for name in (*OVERLAP_MEASURES, *(f"{metric}/{label}" for metric in OVERLAP_MEASURES for label in CLASSES)):
        assert result.metrics[name].value == pytest.approx(1, abs=1e-6)
        assert result.metrics[f"null/{name}"].high < 0.6
    assert result.tables["pairs"]["above_null"].all()
    assert result.warnings == []
    images = noise(90)
    images[:, :, 16:48, 16:48] = 192 + images[:, :, 16:48, 16:48] // 4
    result = compare_maps(oracle("noisy", 90), SAME, APART, inputs=images, resamples=500)
    assert result.metrics["pearson"].low > 0.1
    assert result.metrics["null/pearson"].low > 0.1
    assert result.metrics["null/pearson"].floor == 0
    assert result.metrics["iou_top20"].value > result.metrics["null/iou_top20"].floor + 0.05
    assert not result.tables["classes"]["above_null"].iloc[-4:].any()
    assert result.warnings == [Reason("not_above_null", names=OVERLAP_MEASURES)]


def test_maps_are_matched_by_class_and_content(compare_maps, make_predictions, make_run, oracle, colour_finder, noise):
    targets = np.arange(30) % 3
    wrong = make_predictions(targets, 4.0 * np.eye(3)[(targets + 1) % 3])
    # what the second network sees in the next class, the first sees in the true one
    same = compare_maps(wrong, SAME, SAME, fields=ALLOW_ORDER)
    assert same.metrics["pearson"].value == pytest.approx(1, abs=1e-6)
    for of, classes in (("target", ["drawing"]), ("prediction", ["real"])):
        table = compare_maps(wrong, MIXED, SAME, fields=ALLOW_ORDER, overlap_of=of).tables["classes"]
        assert table[(table["metric"] == "pearson") & (table["value"] > 0.99)]["class"].tolist() == classes
    predictions, images = oracle("noisy", 60), noise(60)
    order = np.random.default_rng(3).permutation(60)
    first = make_run(predictions, colour_finder(SAME), images, "a")
    second = make_run(predictions.reorder(CLASSES[::-1]), colour_finder(SAME[::-1]), images, "b", order=order)
    result = measure_overlap(*zip(first, second, strict=True), resamples=100)
    assert result.classes == CLASSES
    assert [result.metrics[metric].value for metric in OVERLAP_MEASURES] == pytest.approx([1] * 4, abs=1e-6)


def test_networks_without_a_map_or_with_empty_ones_are_named(compare_maps, oracle, colour_finder):
    predictions, seeing, flat = oracle("noisy", 30), colour_finder(SAME), colour_finder(SAME)
    flat.net.feature_info = []
    result = compare_maps(predictions, networks=[seeing, flat, seeing])
    assert result.warnings == [Reason("no_spatial_map", run="run 1")]
    assert set(result.tables["pairs"]["b"]) == {"run 2"}
    for networks, message in (
        ([seeing, flat], r"Only one run(.|\n)*run 1 is left out"),
        ([flat, flat], "No run has"),
        ([seeing], "at least 2 runs"),
    ):
        with pytest.raises(BlockError, match=message):
            compare_maps(predictions, networks=networks)
    networks = [colour_finder(SAME), colour_finder(SAME, weight=-80)]
    result = compare_maps(predictions, networks=networks)
    assert result.warnings == [Reason("of_runs", runs="run 1", reason=Reason("empty_maps", n=30, all=30))]
    assert {metric.value for metric in result.metrics.values()} == {None}
    assert result.metrics["pearson"].reason == Reason("too_few_maps")
    assert result.tables["pairs"]["n"].tolist() == [0] * 16


def test_the_wall_has_the_predictions_of_every_run_for_the_same_images_and_counts_unanimous_ones(compute_wall, oracle):
    both = [oracle("noisy", 60), oracle("noisy", 60, seed=1)]
    result = compute_wall(*both, collage=4)
    table = result.tables["wall"]
    assert result.n == 12
    assert len(table) == 24
    assert table.columns.tolist() == ["path", "target", "run", "prediction", "confidence", "correct"]
    for k, predictions in enumerate(both):
        of_run = table[table["run"] == f"run {k}"]
        rows = [int(path.split(".")[0]) for path in of_run["path"]]
        assert of_run["prediction"].tolist() == np.array(predictions.classes)[predictions.predicted[rows]].tolist()
        assert of_run["target"].value_counts().tolist() == [4, 4, 4]
        np.testing.assert_allclose(of_run["confidence"], predictions.confidence[rows])
        np.testing.assert_array_equal(of_run["correct"], predictions.correct[rows])
    first, second = (table[table["run"] == f"run {k}"]["path"].tolist() for k in range(2))
    assert first == second
    result = compute_wall(*(oracle("noisy", 240, seed=seed) for seed in range(3)), collage=30, wall=1)
    predictions = result.tables["wall"].pivot(index="path", columns="run", values="prediction")
    metric = result.metrics["unanimous"]
    assert metric.value == pytest.approx((predictions.nunique(axis=1) == 1).mean(), abs=1e-6)
    assert 0 < metric.low < metric.value < metric.high < 1
    assert compute_wall(*[oracle("noisy", 60)] * 2).metrics["unanimous"].value == 1


def test_walls_show_predictions_and_maps_as_asked(compute_wall, make_predictions, draw_saved, colour_finder, noise):
    targets = np.arange(6) % 3
    right, wrong = (make_predictions(targets, 5.0 * np.eye(3)[classes]) for classes in (targets, [1, 1, 2, 0, 1, 2]))
    figures = draw_saved(compute_wall(right, wrong, collage=2, wall=1))
    confidence = f"{right.confidence[0]:.0%}"
    texts = [axes.get_xlabel() for axes in figures["class_1_drawing"].axes if axes.get_xlabel()]
    names = ["✓ drawing", "✓ drawing", "✗ generated", "✓ drawing"]
    assert texts[:4] == [f"{name}\n{confidence}" for name in names]
    titles = [axes.get_title() for axes in figures["wall"].axes if axes.get_title()]
    assert titles == ["drawing", "generated", "real"]
    wrong = make_predictions(targets, 4.0 * np.eye(3)[(targets + 1) % 3])
    networks = [colour_finder(SAME), colour_finder((2, 0, 1))]
    for of, classes in (("prediction", (targets + 1) % 3), ("target", targets)):
        result = compute_wall(wrong, wrong, networks=networks, fields=ALLOW_ORDER, wall_of=of, collage=2, wall=1)
        maps = result.arrays["wall"]
        np.testing.assert_array_equal(maps["shown"], [classes, classes])
        for number, network in enumerate(networks):
            layer = attribution.find_spatial_layer(network, noise(6))
            expected = attribution.compute_grad_cam(network, layer, noise(6), classes)
            np.testing.assert_allclose(maps[f"maps_{number}"], expected, rtol=1e-5)


def test_a_wall_is_saved_and_one_of_an_earlier_version_is_drawn(tiny_run, tmp_path, compute_wall, oracle, draw_saved):
    runs = [Run.open(tiny_run, accelerator="cpu", label=name, recipe=name) for name in ("tiny", "twin")]
    result = make_wall(runs, [run.dataset("blind") for run in runs], collage=2, wall=1)
    result.save(tmp_path / "wall")
    np.testing.assert_array_equal(result.arrays["wall"]["maps_0"], result.arrays["wall"]["maps_1"])
    result = compute_wall(*[oracle("noisy", 12)] * 2, collage=1, wall=1)
    names = ("rows", "of", "input", "of_all_classes", "images_0")
    arrays, result.block = result.arrays["wall"], "gradcam_wall"
    result.arrays["wall"] = {name: arrays[name] for name in names}
    result.arrays["maps"] = {name: values for name, values in arrays.items() if name not in names}
    assert set(draw_saved(result)) == {"wall", "class_1_drawing", "class_2_generated", "class_3_real"}
