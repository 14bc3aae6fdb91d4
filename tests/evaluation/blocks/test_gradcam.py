"""Tests of gradcam: metrics recomputed from the saved arrays, oracles, and a network with known maps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from matplotlib import colormaps
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import auc
from torch import nn

from avatar_bench.cli.app import main
from avatar_bench.errors import BlockError, ConfigError, GuardError
from avatar_bench.evaluation.blocks.gradcam import FAITHFULNESS_GAINS, SANITY_METRIC, GradCam, figures
from avatar_bench.evaluation.blocks.gradcam.map_overlays import render_overlay
from avatar_bench.evaluation.registry import build_block
from avatar_bench.i18n import use_language
from avatar_bench.models import attribution, backbones
from avatar_bench.models.classifier import Classifier
from avatar_bench.models.model_card import Card
from avatar_bench.results.predictions import to_string_array
from avatar_bench.results.reasons import Reason
from avatar_bench.results.result import Result, draw_figures
from avatar_bench.runs.run import Run

PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
BACKBONE = "test_resnet"
CURVE_NAMES = ("deletion", "insertion", "deletion_random", "insertion_random")


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    net = timm.create_model(BACKBONE, num_classes=3)
    return Classifier(Card(("drawing", "generated", "real"), BACKBONE, PLAIN), net).eval()


@pytest.fixture
def evaluate_block(fake_run, dataset_of, classifier):
    """Run the block on predictions, with noise as images and a network with random weights."""

    def run(predictions, allow=(), network=classifier, inputs=None, **options):
        noise = np.random.default_rng(0).integers(0, 256, (len(predictions), 3, 64, 64), dtype=np.uint8)
        images = torch.from_numpy(noise) if inputs is None else inputs
        predictor = SimpleNamespace(
            module=network, read_inputs=lambda dataset, rows: images[torch.as_tensor(np.asarray(rows))]
        )
        stand_in = fake_run(predictions, allow=frozenset(allow), predictor=predictor, batch_size=16)
        given = {"resamples": 100, "images": 9, "steps": 2, "random_weights": 1, "gallery": 1, **options}
        return GradCam(**given).evaluate(stand_in, dataset_of(predictions))

    return run


@pytest.fixture(scope="module")
def saved(tiny_run, tmp_path_factory):
    """The folder that the command writes for the tiny run, and its metrics."""
    out = tmp_path_factory.mktemp("gradcam")
    options = ["block.gradcam.images=12", "block.gradcam.steps=4", "block.gradcam.resamples=200"]
    assert main(["evaluate", f"ckpt={tiny_run}", "block=gradcam", f"out={out}", *options]) == 0
    folder = next(out.rglob("maps.npz")).parent
    return folder, json.loads((folder / "metrics.json").read_text())["metrics"]


def arrays(folder, name):
    with np.load(folder / f"{name}.npz", allow_pickle=False) as stored:
        return dict(stored)


def test_every_metric_can_be_recomputed_from_what_is_saved(saved):
    folder, said = saved
    curves, sanity = arrays(folder, "curves"), arrays(folder, "sanity")
    shares = np.linspace(0, 1, 5)
    areas = {name: np.array([auc(shares, curve) for curve in curves[name]]) for name in CURVE_NAMES}
    expected = {name: areas[name].mean() for name in CURVE_NAMES}
    expected["deletion_gain"] = (areas["deletion_random"] - areas["deletion"]).mean()
    expected["insertion_gain"] = (areas["insertion"] - areas["insertion_random"]).mean()

    def likeness(others):
        pairs = zip(sanity["trained"], others, strict=True)
        return np.mean([abs(spearmanr(one.ravel(), other.ravel()).statistic) for one, other in pairs])

    expected[SANITY_METRIC] = likeness(sanity["randomised"][-1])
    assert {name: metric["value"] for name, metric in said.items()} == pytest.approx(expected, abs=1e-6)
    assert said[SANITY_METRIC]["floor"] == pytest.approx(likeness(sanity["chance"]), abs=1e-6)
    assert said["deletion"]["floor"] == said["deletion_random"]["value"]
    assert said["insertion"]["floor"] == said["insertion_random"]["value"]
    assert [said[name]["floor"] for name in FAITHFULNESS_GAINS] == [0, 0]


def test_the_table_of_images_holds_each_one_s_figures(saved):
    folder, said = saved
    table = pd.read_csv(folder / "images.csv")
    drawn = table[table["drawn"]]
    assert len(drawn) == 12
    assert drawn["target"].value_counts().tolist() == [4, 4, 4]
    for name, metric in said.items():
        assert drawn[name].mean() == pytest.approx(metric["value"], abs=1e-6)
    assert table.loc[~table["drawn"], "deletion"].isna().all()
    assert not table.loc[~table["drawn"], "correct"].any()


def test_every_metric_knows_its_direction_and_lies_in_its_interval(saved):
    better = {"deletion": False, "insertion": True, "deletion_random": None, "insertion_random": None}
    better |= {"deletion_gain": True, "insertion_gain": True, SANITY_METRIC: False}
    assert {name: metric["higher_is_better"] for name, metric in saved[1].items()} == better
    assert all(metric["low"] <= metric["value"] <= metric["high"] for metric in saved[1].values())


def test_saved_maps_are_those_of_the_predicted_and_the_true_class(saved, tiny_run):
    maps, table = arrays(saved[0], "maps"), pd.read_csv(saved[0] / "images.csv")
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


def test_curves_start_and_end_at_the_predicted_probabilities(saved):
    table, curves = pd.read_csv(saved[0] / "images.csv"), arrays(saved[0], "curves")
    confidence = table.loc[table["drawn"], "confidence"]
    for name in CURVE_NAMES:
        np.testing.assert_allclose(curves[name][:, 0 if "deletion" in name else -1], confidence, rtol=1e-4)
    for kind, end in (("deletion", -1), ("insertion", 0)):
        np.testing.assert_allclose(curves[kind][:, end], curves[f"{kind}_random"][:, end], rtol=1e-5)


def test_saved_curves_and_correlations_are_means_of_the_arrays(saved):
    folder, _ = saved
    table, curves = pd.read_csv(folder / "curves.csv"), arrays(folder, "curves")
    for name in CURVE_NAMES:
        one = table[table["curve"] == name]
        np.testing.assert_allclose(one["probability"], curves[name].mean(axis=0), atol=1e-6)
        np.testing.assert_allclose(one["share"], np.linspace(0, 1, 5))
        assert ((one["low"] <= one["probability"]) & (one["probability"] <= one["high"])).all()
    table, sanity = pd.read_csv(folder / "sanity.csv"), arrays(folder, "sanity")
    assert table["groups_randomised"].iat[-1] == table["groups"].iat[-1]
    for correlation, maps in zip(table["correlation"], sanity["randomised"], strict=True):
        pairs = zip(sanity["trained"], maps, strict=True)
        expected = [abs(spearmanr(one.ravel(), other.ravel()).statistic) for one, other in pairs]
        assert correlation == pytest.approx(np.nanmean(expected), abs=1e-6)


def test_the_command_draws_its_figures_and_leaves_the_raw_maps_small(saved):
    for name in ("curves", "sanity", "panels"):
        with Image.open(saved[0] / f"{name}.png") as figure:
            assert figure.width > 1000
    assert arrays(saved[0], "maps")["predicted"].shape[1:] == (2, 2)  # 32 pixels by 16


def test_each_image_has_an_overlay_that_the_table_names(saved):
    folder, table = saved[0], pd.read_csv(saved[0] / "images.csv")
    assert len(table) == len({*table["overlay"]}) == len(list((folder / "overlays").glob("*.png")))
    for row, file in enumerate(table["overlay"]):
        assert Path(table["path"][row]).stem in file
        with Image.open(folder / file) as overlay:
            assert overlay.size == (32, 32)
    assert {*table["overlay"]} <= {*json.loads((folder / "metrics.json").read_text())["files"]}


def test_as_many_overlays_are_written_as_are_asked_for_under_safe_names(evaluate_block, oracle):
    predictions = oracle("noisy")
    paths = [f"a folder/$(rm) ünï/../{'x' * 200} {i % 2}.png" for i in range(len(predictions))]
    result = evaluate_block(
        replace(predictions, paths=to_string_array(paths)),
        overlays=4,
        inputs=torch.full((240, 3, 400, 400), 90, dtype=torch.uint8),
    )
    assert [bool(file) for file in result.tables["images"]["overlay"][:6]] == [True] * 4 + [False] * 2
    assert len(result.images) == 4
    assert all(re.fullmatch(r"overlays/000\d_x{40}", name) for name in result.images)
    assert {image.shape for image in result.images.values()} == {(360, 360, 3)}
    assert evaluate_block(predictions, overlays=0).images == {}


def test_an_overlay_is_the_grey_image_under_the_colours_of_its_map():
    image, shown = np.full((64, 64, 3), (30, 60, 90), np.uint8), np.zeros((2, 2), np.float32)
    dark = 0.55 * 255 * np.array(colormaps["inferno"](0.0)[:3]) + 0.45 * 60
    np.testing.assert_allclose(render_overlay(image, shown), np.broadcast_to(dark, (64, 64, 3)), atol=1)
    shown[0, 0] = 0.2  # the largest value has the brightest colour, whatever it is
    bright = 0.55 * 255 * np.array(colormaps["inferno"](1.0)[:3]) + 0.45 * 60
    np.testing.assert_allclose(render_overlay(image, shown)[0, 0], bright, atol=1)


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("networks", [1, 2, 4])
def test_the_figure_of_random_weights_is_drawn_whole_for_few_of_them(inside, networks, language):
    maps = np.random.default_rng(0).normal(size=(networks + 1, 2, 3, 3)).astype(np.float32)
    table = pd.DataFrame({"groups_randomised": np.arange(networks) + 10, "groups": 17, "correlation": 0.3})
    with use_language(language):
        figure = figures.draw_sanity(
            dict.fromkeys((0, 1), np.zeros((8, 8, 3), np.uint8)),
            {"trained": maps[0], "randomised": maps[1:]},
            [0, 1],
            table.assign(low=0.2, high=0.4),
            0.1,
        )
    assert inside(figure)


@pytest.mark.parametrize("language", ["en", "ru"])
def test_the_curves_are_drawn_whole(inside, saved, language):
    with use_language(language):
        figure = draw_figures(Result.load(saved[0], arrays=True))["curves"]
    assert inside(figure)
    assert all("95%" in axes.get_title() for axes in figure.axes)


@pytest.mark.parametrize("kind", ["perfect", "uniform"])
def test_oracles_pass_through(evaluate_block, oracle, kind):
    predictions = oracle(kind)
    result = evaluate_block(predictions)
    assert result.n == 9
    maps, table = result.arrays["maps"], result.tables["images"]
    assert (table["target"][:9].value_counts() == 3).all()
    if kind == "perfect":
        assert len(table) == 9
        np.testing.assert_array_equal(maps["predicted"], maps["true"])
    else:
        assert not table["correct"][9:].any()
        assert len(table) == 12  # one error of each class is added to be shown


@pytest.mark.parametrize("order", [order for order in permutations(range(3)) if order != (0, 1, 2)])
def test_each_wrong_order_of_the_classes_raises_the_alarm(evaluate_block, oracle, order):
    with pytest.raises(GuardError, match="wrong order"):
        evaluate_block(oracle(("permuted", order)))


def test_the_alarm_can_be_passed(evaluate_block, oracle):
    assert evaluate_block(oracle(("permuted", (1, 0, 2))), allow={"permutation"}).n == 9


def test_the_same_seed_draws_the_same_images_and_gives_the_same_figures(evaluate_block, oracle):
    first, again, other = (evaluate_block(oracle("noisy"), seed=seed) for seed in (0, 0, 1))
    assert first.metrics == again.metrics
    assert first.tables["images"]["path"].tolist() == again.tables["images"]["path"].tolist()
    assert first.tables["images"]["path"].tolist() != other.tables["images"]["path"].tolist()


def test_images_without_a_class_are_left_out(evaluate_block, make_predictions):
    targets = np.where(np.arange(30) % 2, -1, np.arange(30) % 3)
    result = evaluate_block(make_predictions(targets, np.random.default_rng(0).normal(size=(30, 3))), images=40)
    assert result.n == 15
    assert (result.arrays["maps"]["targets"] >= 0).all()


def test_one_image_and_one_class_are_enough(evaluate_block, make_predictions, draw_saved):
    result = evaluate_block(make_predictions([1], [[0, 4, 0]]), images=5)
    assert result.n == 1
    assert result.metrics["deletion"].value is not None
    assert result.metrics["deletion"].low is None
    assert set(draw_saved(result)) == {"curves", "sanity", "panels"}


def test_errors_alone_can_be_shown_and_a_gallery_left_out(evaluate_block, make_predictions, draw_saved):
    wrong = make_predictions([0, 0, 1, 2], [[0, 4, 0], [0, 0, 4], [4, 0, 0], [4, 0, 0]])
    assert "panels" in draw_saved(evaluate_block(wrong))
    assert "panels" not in draw_saved(evaluate_block(wrong, gallery=0))


def test_panels_pair_correct_images_with_the_most_confident_errors(evaluate_block, make_predictions, draw_saved):
    logits = [[4, 0, 0], [0, 1, 0], [0, 4, 0], [0, 4, 0], [9, 0, 0], [3, 0, 0], [4, 0, 0]]
    result = evaluate_block(make_predictions([0, 0, 0, 1, 1, 1, 1], logits), gallery=1, images=7)
    shown, table = result.arrays["shown"], result.tables["images"]
    assert [table["path"][list(pair)].tolist() for pair in shown["panels"]] == [["0.png", "2.png"], ["3.png", "4.png"]]
    assert shown["images"].shape == (4, 64, 64, 3)
    titles = [axes.get_title() for axes in draw_saved(result)["panels"].axes if axes.get_title()]
    assert titles[:5] == [
        f"drawing\ncorrect, {table['confidence'][0]:.0%}",
        "predicted:\ndrawing",
        f"drawing\nincorrect, {table['confidence'][2]:.0%}",
        "predicted:\ngenerated",
        "true:\ndrawing",
    ]


def test_a_set_without_classes_and_a_network_without_maps_are_refused(evaluate_block, make_predictions, classifier):
    with pytest.raises(BlockError, match="no image has a known class"):
        evaluate_block(make_predictions([-1, -1], np.zeros((2, 3))))
    flat = Classifier(Card(classifier.card.classes, BACKBONE, PLAIN), timm.create_model(BACKBONE, num_classes=3)).eval()
    flat.net.feature_info = []
    with pytest.raises(BlockError, match="Grad-CAM"):
        evaluate_block(make_predictions([0, 1], np.zeros((2, 3))), network=flat)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("images", 0, "1 or more"),
        ("steps", 1, "2 or more"),
        ("deletion_to", "grey", "one of mean, blur"),
        ("insertion_from", "", "one of mean, blur"),
        ("random_weights", 0, "1 or more"),
        ("gallery", -1, "0 or more"),
        ("resamples", 1, "100 or more"),
        ("overlap_of", "truth", "one of target, prediction"),
        ("collage", 0, "1 or more"),
        ("wall", 7, "1 to 6"),
        ("wall_of", "truth", "one of target, prediction"),
        ("seed", -1, "0 or more"),
    ],
)
def test_a_wrong_option_is_told_by_name(option, value, expected):
    with pytest.raises(ConfigError, match=rf"block\.gradcam\.{option}={value}: expected {expected}"):
        build_block("gradcam", {option: value})


class RedFinder(nn.Module):
    """See red: class 0 gains by every red cell, class 1 loses by it; its map is known without any computation."""

    feature_info = ({"module": "cells", "num_chs": 2, "reduction": 8},)

    def __init__(self):
        super().__init__()
        self.cells = nn.Conv2d(3, 2, 8, 8)
        self.head = nn.Linear(2, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.zero_()
            self.cells.weight[0] = torch.tensor([1.0, -0.5, -0.5])[:, None, None] / 64
            self.head.weight[:2, 0] = torch.tensor([80.0, -80.0])

    def forward_features(self, images):
        return self.cells(images).relu()

    def forward_head(self, features, pre_logits=False):
        return features.mean(dim=(2, 3))

    def get_classifier(self):
        return self.head

    def group_matcher(self, coarse=False):
        return {"stem": "cells", "blocks": "head"}


def test_a_network_that_sees_red_points_at_what_is_red(evaluate_block, make_predictions, monkeypatch):
    rng = np.random.default_rng(0)
    cells = rng.integers(0, 8, (12, 2))
    images = rng.integers(120, 136, (12, 3, 64, 64), dtype=np.uint8)
    for image, (row, column) in zip(images, 8 * cells, strict=True):
        image[:, row : row + 8, column : column + 8] = np.array([255, 0, 0])[:, None, None]
    network = Classifier(Card(("drawing", "generated", "real"), "red", PLAIN), RedFinder()).eval()
    monkeypatch.setattr(backbones, "create_backbone", lambda *args, **kwargs: RedFinder())
    with torch.no_grad():
        logits = network(torch.from_numpy(images))[0].numpy()
    assert (logits.argmax(axis=1) == 0).all()
    predictions = make_predictions(np.zeros(12), logits)
    result = evaluate_block(predictions, network=network, inputs=torch.from_numpy(images), images=12, steps=16)
    rows = [int(path.split(".")[0]) for path in result.tables["images"]["path"]]
    peaks = [np.unravel_index(shown.argmax(), shown.shape) for shown in result.arrays["maps"]["predicted"]]
    np.testing.assert_array_equal(peaks, cells[rows])
    for name in FAITHFULNESS_GAINS:
        assert result.metrics[name].low > 0
    assert result.metrics[SANITY_METRIC].value == pytest.approx(
        1
    )  # its "random" weights are the same: maps do not change
    assert result.warnings == []


def test_empty_maps_that_are_no_better_than_random_ones_are_told(evaluate_block, make_predictions, monkeypatch):
    def see_nothing():
        net = RedFinder()
        with torch.no_grad():
            net.cells.weight.zero_()
            net.cells.bias.fill_(1)
            net.head.weight.neg_()  # every cell speaks against class 0, as much as any other
        return net

    network = Classifier(Card(("drawing", "generated", "real"), "red", PLAIN), see_nothing()).eval()
    monkeypatch.setattr(backbones, "create_backbone", lambda *args, **kwargs: see_nothing())
    result = evaluate_block(make_predictions(np.zeros(6), np.tile([4.0, 0, 0], (6, 1))), network=network)
    gains = [Reason("not_better_than_random", name=name) for name in FAITHFULNESS_GAINS]
    assert result.warnings == [Reason("empty_maps", n=6, all=6), *gains]
    assert result.metrics[SANITY_METRIC].value is None
    assert result.metrics[SANITY_METRIC].reason == Reason("constant_maps")


def test_many_images_are_ranked_in_parts(evaluate_block, oracle):
    result = evaluate_block(oracle("noisy", 90), images=90, steps=2)
    assert result.arrays["curves"]["deletion"].shape == (90, 3)
    assert result.tables["curves"]["n"].unique().tolist() == [90]


def test_intervals_take_groups_whole(evaluate_block, oracle):
    alone = evaluate_block(oracle("noisy", 12), images=12)
    twins = oracle("noisy", 12)
    paired = type(twins)(**{**vars(twins), "groups": np.array([f"g{i // 2}" for i in range(12)])})
    metric = evaluate_block(paired, images=12).metrics["deletion"]
    assert (alone.metrics["deletion"].units, metric.n, metric.units) == (12, 12, 6)
    assert metric.value == alone.metrics["deletion"].value
    assert metric.interval == "bootstrap by group"
