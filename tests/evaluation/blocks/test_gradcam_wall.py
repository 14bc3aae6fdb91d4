"""Tests of the wall in gradcam: it draws the predictions of the runs for the same images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from avatar_bench.evaluation.block import align_predictions
from avatar_bench.evaluation.blocks.gradcam import GradCam
from avatar_bench.evaluation.blocks.gradcam.run_comparison import build_wall
from avatar_bench.models import attribution
from avatar_bench.runs.run import Run


def make_wall(runs, datasets, **options):
    return build_wall(GradCam(**options), runs, datasets, align_predictions(runs, datasets))


@pytest.fixture(scope="module")
def evaluate_block(fake_run, dataset_of, colour_finder, noise):
    """Run the block on predictions of several runs for the same images."""

    def run(*predictions, networks=None, allow=(), **options):
        images = noise(len(predictions[0]))
        runs = [
            fake_run(
                prediction,
                label=f"run {k}",
                recipe=f"run {k}",
                allow=frozenset(allow),
                predictor=SimpleNamespace(
                    module=networks[k] if networks else colour_finder(),
                    read_inputs=lambda dataset, rows: images[torch.as_tensor(np.asarray(rows))],
                    unload=lambda: None,
                ),
                batch_size=32,
                preprocessing=SimpleNamespace(resize="squash"),
            )
            for k, prediction in enumerate(predictions)
        ]
        return make_wall(runs, [dataset_of(prediction) for prediction in predictions], **options)

    return run


def test_the_share_of_unanimous_predictions_can_be_recomputed_from_the_table(evaluate_block, oracle):
    result = evaluate_block(*(oracle("noisy", 240, seed=seed) for seed in range(3)), collage=30, wall=1)
    predictions = result.tables["wall"].pivot(index="path", columns="run", values="prediction")
    metric = result.metrics["unanimous"]
    assert metric.value == pytest.approx((predictions.nunique(axis=1) == 1).mean(), abs=1e-6)
    assert 0 < metric.low < metric.value < metric.high < 1
    assert evaluate_block(*[oracle("noisy", 60)] * 2).metrics["unanimous"].value == 1


def words(figure):
    """Return the text below each map, row by row; the first row are the images."""
    return [axes.get_xlabel() for axes in figure.axes if axes.get_xlabel()]


def test_every_run_says_its_word_on_the_same_images(evaluate_block, oracle):
    first, second = oracle("noisy", 60), oracle("noisy", 60, seed=1)
    result = evaluate_block(first, second, collage=4)
    table = result.tables["wall"]
    assert result.n == 12
    assert len(table) == 24
    assert table.columns.tolist() == ["path", "target", "run", "prediction", "confidence", "correct"]
    for label, one in (("run 0", first), ("run 1", second)):
        own = table[table["run"] == label]
        rows = [int(path.split(".")[0]) for path in own["path"]]
        assert own["prediction"].tolist() == np.array(one.classes)[one.predicted[rows]].tolist()
        assert own["target"].value_counts().tolist() == [4, 4, 4]
        np.testing.assert_allclose(own["confidence"], one.confidence[rows])
        np.testing.assert_array_equal(own["correct"], one.correct[rows])
    paths = [table[table["run"] == label]["path"].tolist() for label in ("run 0", "run 1")]
    assert paths[0] == paths[1]


def test_each_cell_shows_the_prediction_of_the_table(evaluate_block, make_predictions, draw_saved):
    targets = np.arange(6) % 3
    right = make_predictions(targets, 5.0 * np.eye(3)[targets])
    wrong = make_predictions(targets, 5.0 * np.eye(3)[[1, 1, 2, 0, 1, 2]])
    figures = draw_saved(evaluate_block(right, wrong, collage=2, wall=1))
    share = f"{right.confidence[0]:.0%}"
    drawn = words(figures["class_1_drawing"])
    assert drawn[:4] == [f"✓ drawing\n{share}"] * 2 + [f"✗ generated\n{share}", f"✓ drawing\n{share}"]
    titles = [axes.get_title() for axes in figures["wall"].axes if axes.get_title()]
    assert titles == ["drawing", "generated", "real"]


def test_the_saved_maps_are_those_of_the_class_that_was_asked_for(
    evaluate_block, make_predictions, colour_finder, noise
):
    targets = np.arange(6) % 3
    wrong = make_predictions(targets, 4.0 * np.eye(3)[(targets + 1) % 3])
    networks = [colour_finder((0, 1, 2)), colour_finder((2, 0, 1))]
    for of, classes in (("prediction", (targets + 1) % 3), ("target", targets)):
        options = {"wall_of": of, "collage": 2, "wall": 1, "allow": {"permutation"}}
        maps = evaluate_block(wrong, wrong, networks=networks, **options).arrays["wall"]
        np.testing.assert_array_equal(maps["shown"], [classes, classes])
        for number, network in enumerate(networks):
            layer = attribution.find_spatial_layer(network, noise(6))
            expected = attribution.compute_grad_cam(network, layer, noise(6), classes)
            np.testing.assert_allclose(maps[f"maps_{number}"], expected, rtol=1e-5)


def test_two_trained_runs_go_through(tiny_run, tmp_path):
    runs = [Run.open(tiny_run, accelerator="cpu", label=name, recipe=name) for name in ("tiny", "twin")]
    result = make_wall(runs, [run.dataset("blind") for run in runs], collage=2, wall=1)
    result.save(tmp_path / "wall")
    maps = result.arrays["wall"]
    np.testing.assert_array_equal(maps["maps_0"], maps["maps_1"])


def test_a_wall_saved_by_an_earlier_version_is_drawn(evaluate_block, oracle, draw_saved):
    result = evaluate_block(*[oracle("noisy", 12)] * 2, collage=1, wall=1)
    own = ("rows", "of", "input", "of_all_classes", "images_0")
    saved, result.block = result.arrays["wall"], "gradcam_wall"
    result.arrays["wall"] = {name: saved[name] for name in own}
    result.arrays["maps"] = {name: values for name, values in saved.items() if name not in own}
    assert set(draw_saved(result)) == {"wall", "class_1_drawing", "class_2_generated", "class_3_real"}
