"""Tests of architecture on the tiny run, and of its diagram."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avatar_bench.evaluation.blocks.architecture import figures
from avatar_bench.models.inspection import FeatureMaps, inspect_network
from avatar_bench.results.result import Result
from avatar_bench.runs.run import Run
from tests.builders.commands import run_undrawn


def test_metrics_filters_and_feature_maps_are_those_of_the_saved_tables_and_of_the_checkpoint(tiny_run, tmp_path):
    assert run_undrawn(["evaluate", f"ckpt={tiny_run}", "block=architecture", f"out={tmp_path}", "data.workers=0"]) == 0
    saved = Result.load(tmp_path / "evaluation" / "test" / "architecture", arrays=True)
    weights = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    layers, run = saved.tables["layers"], Run.open(tiny_run)
    learnt = [value.numel() for name, value in weights.items() if name.endswith(("weight", "bias"))]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run.predictor.module(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=run.predictor.device))
    is_beside = layers["module"].str.contains("downsample")
    depth = (layers["type"].isin(["Conv2d", "Linear"]) & ~is_beside).sum()
    expected = {"params_m": sum(learnt) / 1e6, "macs_g": counter.get_total_flops() / 2e9, "depth": depth}
    value = {name: metric.value for name, metric in saved.metrics.items()}
    assert value == pytest.approx(expected | {"input_size": 32}, abs=1e-12)
    assert layers["input"].iloc[0].endswith(" x 32")
    filters, maps = saved.arrays["filters"], saved.arrays["feature_maps"]
    np.testing.assert_array_equal(filters["weights"], weights[f"net.{filters['layer']}.weight"].numpy())
    frame = run.dataset("test").frame
    assert maps["labels"].tolist() == list(run.classes)
    assert maps["paths"].tolist() == [frame["path"][frame["label"] == name].iat[0] for name in run.classes]
    assert maps["images"].shape == (3, 32, 32, 3)
    assert len(maps["layers"]) == 3
    for number in range(3):
        assert maps[f"maps_{number}"].shape[:2] == (3, len(maps[f"channels_{number}"]))


@pytest.mark.parametrize("classes", [1, 6])
def test_filters_and_maps_are_drawn_whole(classes, inside):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (classes, 32, 32, 3), dtype=np.uint8)
    maps = [FeatureMaps(f"stages.{k}.blocks", np.arange(k + 1), rng.random((classes, k + 1, 8, 8))) for k in range(3)]
    assert inside(figures.draw_feature_maps(images, ["a class name that goes on"] * classes, maps))
    weights = rng.normal(size=(5 * classes, 3, 7, 7)).astype(np.float32)
    assert inside(figures.draw_filters(weights, "patch_embed.proj"))


@pytest.mark.parametrize("model", ["resnet18", "convnext_tiny"])
def test_every_stage_has_its_box_and_no_word_leaves_it(model, network):
    net = network(model)
    mode = net.training
    anatomy = inspect_network(net.eval(), 64)
    net.train(mode)
    figure = figures.draw_diagram(anatomy.stages, model, anatomy.depth, 64, 3)
    figure.draw_without_rendering()
    left, right = figure.axes[:2]
    assert set(anatomy.stages["output"]) <= {text.get_text() for text in left.texts}
    box = left.get_window_extent()
    for text in left.texts:
        extent = text.get_window_extent()
        assert box.x0 - 1 <= extent.x0 <= extent.x1 <= box.x1 + 1
    assert len(right.patches) == len(anatomy.stages)
