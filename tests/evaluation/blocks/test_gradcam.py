"""Tests of gradcam: metrics recomputed from the saved arrays, oracles, and a network with known maps."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from matplotlib import colormaps
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import auc

from avatar_bench.evaluation.blocks.gradcam import FAITHFULNESS_GAINS, SANITY_METRIC, GradCam
from avatar_bench.evaluation.blocks.gradcam.map_overlays import render_overlay
from avatar_bench.models import attribution, backbones
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card
from avatar_bench.results.predictions import to_string_array
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run
from tests.builders.commands import run_undrawn
from tests.evaluation.conftest import CLASSES

BACKBONE = "test_resnet"


@pytest.fixture
def evaluate_block(fake_run, dataset_of):
    """Run the block on predictions, with noise as images and a network with random weights."""

    torch.manual_seed(0)
    net = timm.create_model(BACKBONE, num_classes=3)
    classifier = Classifier(Card(CLASSES, BACKBONE, {"mean": (0.5,) * 3, "std": (0.25,) * 3}), net).eval()

    def run(predictions, network=classifier, inputs=None, **options):
        noise = np.random.default_rng(0).integers(0, 256, (len(predictions), 3, 64, 64), dtype=np.uint8)
        images = torch.from_numpy(noise) if inputs is None else inputs
        predictor = SimpleNamespace(
            module=network, read_inputs=lambda dataset, rows: images[torch.as_tensor(np.asarray(rows))]
        )
        block = GradCam(**{"resamples": 100, "images": 9, "steps": 2, "random_weights": 1, "gallery": 1} | options)
        return block.evaluate(fake_run(predictions, predictor=predictor, batch_size=16), dataset_of(predictions))

    return run


@pytest.fixture(scope="module")
def saved(tiny_run, tmp_path_factory):
    """The Result that the command saves for the tiny run."""
    out = tmp_path_factory.mktemp("gradcam")
    options = ["block.gradcam.images=12", "block.gradcam.steps=4", "block.gradcam.resamples=200", "data.workers=0"]
    assert run_undrawn(["evaluate", f"ckpt={tiny_run}", "block=gradcam", f"out={out}", *options]) == 0
    return Result.load(next(out.rglob("maps.npz")).parent, arrays=True)


def test_every_metric_can_be_recomputed_from_what_is_saved(saved):
    curves, sanity, metrics = saved.arrays["curves"], saved.arrays["sanity"], saved.metrics
    names = ("deletion", "insertion", "deletion_random", "insertion_random")
    areas = {name: np.array([auc(np.linspace(0, 1, 5), curve) for curve in curves[name]]) for name in names}

    def compare_maps(others):
        pairs = zip(sanity["trained"], others, strict=True)
        return np.mean([abs(spearmanr(trained.ravel(), other.ravel()).statistic) for trained, other in pairs])

    expected = {name: area.mean() for name, area in areas.items()}
    expected["deletion_gain"] = (areas["deletion_random"] - areas["deletion"]).mean()
    expected["insertion_gain"] = (areas["insertion"] - areas["insertion_random"]).mean()
    expected[SANITY_METRIC] = compare_maps(sanity["randomised"][-1])
    assert {name: metric.value for name, metric in metrics.items()} == pytest.approx(expected, abs=1e-6)
    assert metrics[SANITY_METRIC].floor == pytest.approx(compare_maps(sanity["chance"]), abs=1e-6)
    assert metrics["deletion"].floor == metrics["deletion_random"].value
    assert metrics["insertion"].floor == metrics["insertion_random"].value
    assert [metrics[name].floor for name in FAITHFULNESS_GAINS] == [0, 0]


def test_saved_maps_are_those_of_both_classes_and_overlays_those_that_the_table_names(saved, tiny_run, drawn_whole):
    maps, table = saved.arrays["maps"], saved.tables["images"]
    run = Run.open(tiny_run, accelerator="cpu")
    dataset = run.dataset("test")
    rows = [dataset.frame["path"].tolist().index(path) for path in maps["paths"]]
    images = run.predictor.read_inputs(dataset, rows)
    layer = attribution.find_spatial_layer(run.predictor.module, images)
    for name, classes in (("predicted", maps["predictions"]), ("true", maps["targets"])):
        expected = attribution.compute_grad_cam(run.predictor.module, layer, images, classes)
        np.testing.assert_allclose(maps[name], expected, rtol=1e-3, atol=1e-6 * expected.max())
        assert maps[name].dtype == np.float32
    assert table["path"].tolist() == maps["paths"].tolist()
    assert table["prediction"].tolist() == maps["classes"][maps["predictions"]].tolist()
    np.testing.assert_array_equal(maps["drawn"], table["drawn"])
    table = saved.tables["images"]
    overlays = set(table["overlay"])
    assert len(table) == len(overlays) == len(list((saved.folder / "overlays").glob("*.png")))
    assert overlays <= set(json.loads((saved.folder / "metrics.json").read_text())["files"])
    for path, file in zip(table["path"], table["overlay"], strict=True):
        assert Path(path).stem in file
        with Image.open(saved.folder / file) as overlay:
            assert overlay.size == (32, 32)
    drawn_whole(saved.folder, {"curves", "sanity", "panels"})


def test_overlays_show_the_map_over_the_grey_image_as_many_as_asked_for_under_safe_names(evaluate_block, oracle):
    predictions = oracle("noisy", 12)
    paths = [f"a folder/$(rm) ünï/../{'x' * 200} {i % 2}.png" for i in range(len(predictions))]
    large = torch.full((12, 3, 364, 364), 90, dtype=torch.uint8)
    result = evaluate_block(replace(predictions, paths=to_string_array(paths)), overlays=2, images=3, inputs=large)
    assert [bool(file) for file in result.tables["images"]["overlay"][:3]] == [True, True, False]
    assert len(result.images) == 2
    assert all(re.fullmatch(r"overlays/000\d_x{40}", name) for name in result.images)
    assert {image.shape for image in result.images.values()} == {(360, 360, 3)}
    plain, again = (evaluate_block(predictions, overlays=0, images=3) for _ in range(2))
    assert plain.images == {}
    assert plain.metrics == again.metrics  # one seed draws the same images
    assert plain.tables["images"]["path"].tolist() == again.tables["images"]["path"].tolist()
    image, heat = np.full((64, 64, 3), (30, 60, 90), np.uint8), np.zeros((2, 2), np.float32)
    dark, bright = (0.55 * 255 * np.array(colormaps["inferno"](end)[:3]) + 0.45 * 60 for end in (0.0, 1.0))
    np.testing.assert_allclose(render_overlay(image, heat), np.broadcast_to(dark, (64, 64, 3)), atol=1)
    heat[0, 0] = 0.2  # the largest value has the brightest colour, whatever it is
    np.testing.assert_allclose(render_overlay(image, heat)[0, 0], bright, atol=1)


def test_panels_pair_correct_images_with_the_most_confident_errors(evaluate_block, make_predictions, draw_saved):
    logits = [[4, 0, 0], [0, 1, 0], [0, 4, 0], [0, 4, 0], [9, 0, 0], [3, 0, 0], [4, 0, 0]]
    result = evaluate_block(make_predictions([0, 0, 0, 1, 1, 1, 1], logits), gallery=1, images=7)
    shown, table = result.arrays["shown"], result.tables["images"]
    assert [table["path"][list(pair)].tolist() for pair in shown["panels"]] == [["0.png", "2.png"], ["3.png", "4.png"]]
    assert shown["images"].shape == (4, 64, 64, 3)
    titles = [axes.get_title() for axes in draw_saved(result)["panels"].axes if axes.get_title()]
    correct, incorrect = (f"{table['confidence'][row]:.0%}" for row in (0, 2))
    assert titles[:2] == [f"drawing\ncorrect, {correct}", "predicted:\ndrawing"]
    assert titles[2:5] == [f"drawing\nincorrect, {incorrect}", "predicted:\ngenerated", "true:\ndrawing"]


def test_a_network_that_sees_red_points_at_what_is_red(evaluate_block, make_predictions, colour_finder, monkeypatch):
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 8, (12, 2))
    images = rng.integers(120, 136, (12, 3, 64, 64), dtype=np.uint8)
    for image, (row, column) in zip(images, 8 * cells, strict=True):
        image[:, row : row + 8, column : column + 8] = np.array([255, 0, 0])[:, None, None]
    network, inputs = colour_finder(above=0.6), torch.from_numpy(images)
    monkeypatch.setattr(backbones, "create_backbone", lambda *args, **kwargs: colour_finder(above=0.6).net)
    with torch.no_grad():
        logits = network(inputs)[0].numpy()
    assert (logits.argmax(axis=1) == 0).all()
    result = evaluate_block(make_predictions(np.zeros(12), logits), network, inputs, images=126)
    rows = [int(path.split(".")[0]) for path in result.tables["images"]["path"]]
    peaks = [np.unravel_index(heat.argmax(), heat.shape) for heat in result.arrays["maps"]["predicted"]]
    np.testing.assert_array_equal(peaks, cells[rows])
    assert all(result.metrics[name].low > 0 for name in FAITHFULNESS_GAINS)
    assert result.metrics[SANITY_METRIC].value == pytest.approx(1)  # of the same weights, said to be random
    assert result.warnings == []
