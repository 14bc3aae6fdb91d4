"""Tests of the wall in gradcam: it draws the predictions of the runs for the same images."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from avatar_bench.errors import BlockError, GuardError
from avatar_bench.evaluation.block import align_predictions
from avatar_bench.evaluation.blocks.gradcam import GradCam
from avatar_bench.evaluation.blocks.gradcam.run_comparison import build_wall
from avatar_bench.models import attribution
from avatar_bench.results.declaration import declare_block
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import Result, draw_figures
from avatar_bench.runs.run import Run

FIGURES = {"wall", "class_1_drawing", "class_2_generated", "class_3_real"}


def make_wall(runs, datasets, **options):
    return build_wall(GradCam(**options), runs, datasets, align_predictions(runs, datasets))


@pytest.fixture(scope="module")
def evaluate_block(fake_run, dataset_of, colour_finder, noise):
    """Run the block on predictions of several runs for the same images."""

    def run(*predictions, networks=None, allow=(), **options):
        images = noise(len(predictions[0]))
        runs = [
            fake_run(
                one,
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
            for k, one in enumerate(predictions)
        ]
        return make_wall(runs, [dataset_of(one) for one in predictions], **options)

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


def test_right_and_wrong_differ_by_more_than_colour(evaluate_block, make_predictions, draw_saved):
    result = evaluate_block(*[make_predictions([0, 0], [[4, 0, 0], [0, 4, 0]])] * 2, collage=2, wall=2)
    cells = [axes for axes in draw_saved(result)["wall"].axes if axes.get_xlabel()[:1] in ("✓", "✗")]
    styles = {axes.get_xlabel()[0]: axes.spines["top"].get_linestyle() for axes in cells}
    assert styles == {"✓": "-", "✗": "--"}


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


def test_nine_runs_stand_in_one_wall_and_a_collage_a_class(evaluate_block, oracle, tmp_path):
    result = evaluate_block(*(oracle("noisy", 60, seed=seed) for seed in range(9)))
    folder = result.save(tmp_path / "wall")
    figures = draw_figures(Result.load(folder, arrays=True))
    assert set(figures) == FIGURES
    assert len(words(figures["wall"])) == 9 * 9 + 1  # and the scale
    result.save(folder, lambda saved: {"wall": figures["wall"]})  # four take long to write
    with Image.open(tmp_path / "wall" / "wall.png") as figure:
        assert figure.width > 1200
        assert figure.height > 1500
    assert (tmp_path / "wall" / "wall.png").stat().st_size < 3e6
    assert len(pd.read_csv(tmp_path / "wall" / "wall.csv")) == 9 * 18


def test_more_runs_than_can_be_drawn_stay_in_the_table(evaluate_block, oracle, draw_saved):
    result = evaluate_block(*[oracle("noisy", 12)] * 22, collage=1, wall=1)
    assert result.warnings == [Reason("runs_not_drawn", n=20, all=22)]
    assert format_reason(result.warnings[0], "gradcam").startswith("the figures show 20 of 22 runs")
    assert result.tables["wall"]["run"].nunique() == 22
    assert len(words(draw_saved(result)["wall"])) == 20 * 3 + 1


def test_runs_share_the_thumbnails_of_the_same_input(evaluate_block, oracle):
    wall = evaluate_block(*[oracle("noisy", 12)] * 3, collage=1, wall=1).arrays["wall"]
    assert wall["input"].tolist() == [0, 0, 0]
    assert wall["images_0"].shape == (3, 64, 64, 3)
    assert "images_1" not in wall


def test_names_of_classes_and_runs_stay_words(evaluate_block, oracle, tmp_path):
    odd = ("<b>a/b</b>", "$x^2$", "a very long name of a class that nobody can read")
    result = evaluate_block(*[replace(oracle("noisy", 30), classes=odd)] * 2, collage=1, wall=1)
    result.save(tmp_path / "wall", draw_figures)
    assert {file.stem for file in (tmp_path / "wall").glob("*.png")} == set(result.figures)
    assert declare_block("gradcam").find_caption(result.figures[2]) == "Images of class x_2 by model"
    assert all("/" not in name for name in result.figures)
    assert len(result.figures) == 4


def test_networks_without_a_map_are_left_out_and_told(evaluate_block, oracle, colour_finder):
    flat = colour_finder()
    flat.net.feature_info = []
    both = [oracle("noisy", 30)] * 2
    result = evaluate_block(*both, networks=[flat, colour_finder()])
    assert result.warnings == [Reason("no_spatial_map", run="run 0")]
    assert set(result.tables["wall"]["run"]) == {"run 1"}
    with pytest.raises(BlockError, match="No run has"):
        evaluate_block(*both, networks=[flat, flat])


def test_a_class_without_images_has_no_collage(evaluate_block, make_predictions, draw_saved):
    result = evaluate_block(*[make_predictions([0, 2], [[4, 0, 0], [0, 0, 4]])] * 2)
    assert set(draw_saved(result)) == FIGURES - {"class_2_generated"}


@pytest.mark.parametrize("kind", ["perfect", "uniform"])
def test_oracles_pass_through(evaluate_block, oracle, kind):
    table = evaluate_block(oracle(kind), oracle(kind), collage=5, wall=1).tables["wall"]
    assert table["correct"].all() == (kind == "perfect")
    assert (table["confidence"].min() == 1) == (kind == "perfect")


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_the_classes_raises_the_alarm(evaluate_block, oracle, order):
    with pytest.raises(GuardError, match="wrong order"):
        evaluate_block(oracle("noisy"), oracle(("permuted", order)))


def test_the_seed_draws_the_images(evaluate_block, oracle):
    drawn = [
        evaluate_block(*[oracle("noisy")] * 2, collage=3, seed=seed).tables["wall"]["path"].tolist()
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


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
    assert set(draw_saved(result)) == FIGURES
