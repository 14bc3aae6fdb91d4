"""Tests of the block architecture on the tiny run, and of its diagram."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from avatar_bench.cli.app import main
from avatar_bench.evaluation.blocks.architecture import figures
from avatar_bench.models.inspection import FeatureMaps, inspect_network
from avatar_bench.runs.run import Run


@pytest.fixture(scope="module")
def saved(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("architecture")
    assert main(["evaluate", f"ckpt={tiny_run}", "block=architecture", f"out={out}"]) == 0
    return out / "evaluation" / "test" / "architecture"


def test_every_metric_can_be_recomputed_from_the_saved_tables(saved: Path, tiny_run: Path) -> None:
    said = json.loads((saved / "metrics.json").read_text())["metrics"]
    assert set(said) == {"params_m", "macs_g", "depth", "input_size"}
    for table in (pd.read_csv(saved / "stages.csv"), pd.read_csv(saved / "layers.csv")):
        assert said["params_m"]["value"] == pytest.approx(table["params"].sum() / 1e6, abs=1e-12)
        assert said["macs_g"]["value"] == pytest.approx(table["macs"].sum() / 1e9, abs=1e-12)
    layers = pd.read_csv(saved / "layers.csv")
    assert said["depth"]["value"] == layers["on_longest_path"].sum()
    assert said["input_size"]["value"] == int(layers["input"].iloc[0].split(" x ")[-1])
    beside = layers["module"].str.contains("downsample")
    assert said["depth"]["value"] == (layers["type"].isin(["Conv2d", "Linear"]) & ~beside).sum()
    assert said["input_size"]["value"] == 32


def test_the_sums_are_those_of_the_checkpoint(saved: Path, tiny_run: Path) -> None:
    said = json.loads((saved / "metrics.json").read_text())["metrics"]
    weights = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    learnt = [value.numel() for name, value in weights.items() if name.endswith(("weight", "bias"))]
    assert said["params_m"]["value"] == pytest.approx(sum(learnt) / 1e6, abs=1e-12)
    run = Run.open(tiny_run)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run.predictor.module(torch.zeros(1, 3, 32, 32, dtype=torch.uint8, device=run.predictor.device))
    assert said["macs_g"]["value"] == pytest.approx(counter.get_total_flops() / 2e9, abs=1e-12)


def test_filters_are_the_weights_of_the_checkpoint(saved: Path, tiny_run: Path) -> None:
    state = torch.load(tiny_run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    with np.load(saved / "filters.npz") as found:
        np.testing.assert_array_equal(found["weights"], state[f"net.{found['layer']}.weight"].numpy())


def test_feature_maps_are_of_an_image_of_each_class(saved: Path, tiny_run: Path) -> None:
    run = Run.open(tiny_run)
    frame = run.dataset("test").frame
    with np.load(saved / "feature_maps.npz") as found:
        assert found["labels"].tolist() == list(run.classes)
        assert found["paths"].tolist() == [frame["path"][frame["label"] == name].iat[0] for name in run.classes]
        assert found["images"].shape == (3, 32, 32, 3)
        for number, _ in enumerate(found["layers"]):
            assert found[f"maps_{number}"].shape[:2] == (3, len(found[f"channels_{number}"]))
        assert len(found["layers"]) == 3


@pytest.mark.parametrize("classes", [1, 6])
def test_filters_and_maps_are_drawn_whole(classes: int, inside: Callable[..., bool]) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (classes, 32, 32, 3), dtype=np.uint8)
    maps = [FeatureMaps(f"stages.{k}.blocks", np.arange(k + 1), rng.random((classes, k + 1, 8, 8))) for k in range(3)]
    assert inside(figures.draw_feature_maps(images, ["a class name that goes on"] * classes, maps))
    weights = rng.normal(size=(5 * classes, 3, 7, 7)).astype(np.float32)
    assert inside(figures.draw_filters(weights, "patch_embed.proj"))


@pytest.mark.parametrize("model", ["resnet18", "convnext_tiny"])
def test_every_stage_has_its_box_and_no_word_leaves_it(model: str, network: Callable[[str], Any]) -> None:
    net = network(model)
    mode = net.training
    anatomy = inspect_network(net.eval(), 64)
    net.train(mode)
    figure = figures.draw_diagram(anatomy.stages, model, anatomy.depth, 64, 3)
    figure.draw_without_rendering()
    left = figure.axes[0]
    words = {text.get_text() for text in left.texts}
    assert set(anatomy.stages["output"]) <= words
    for text in left.texts:
        assert left.get_window_extent().x0 - 1 <= text.get_window_extent().x0
        assert text.get_window_extent().x1 <= left.get_window_extent().x1 + 1
    assert len(figure.axes[1].patches) == len(anatomy.stages)
