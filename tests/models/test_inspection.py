"""Stages, layers and depth of every model of conf/model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn import functional

from avatar_bench.models.classifier import Classifier
from avatar_bench.models.inspection import compute_feature_maps, find_first_convolution, inspect_network
from tests.models.small import CARD, PREPROCESSING, count_macs, images, normalised, side_of
from tests.models.small import side_of as side

MODELS = ["convnext_tiny", "mobilenetv3_small", "mobilevit", "resnet18", "siglip2_base", "vit_small"]


@pytest.fixture
def resting(network: Callable[[str], Any]) -> Any:
    """Return a function that lends a model's network in eval mode; restore the networks afterwards."""
    used = []

    def build(model: str) -> Any:
        net = network(model)
        used.append((net, net.training))
        return net.eval()

    yield build
    for net, mode in used:
        net.train(mode)


def longest_path(net: Any, size: int) -> tuple[str, ...]:
    """Return the layers on the longest path, each as often as it lies on it."""
    if not hasattr(net, "feature_info"):
        net.feature_info = []
    layers = inspect_network(net, size).layers
    return tuple(name for name, n in zip(layers["module"], layers["on_longest_path"], strict=True) for _ in range(n))


def new(name: str, **options: Any) -> Any:
    return timm.create_model(name, pretrained=False, num_classes=3, **options).eval()


@pytest.mark.parametrize("model", MODELS)
def test_stages_and_layers_add_up_to_the_network(model: str, resting: Callable[[str], Any]) -> None:
    net = resting(model)
    found = inspect_network(net, side(net))
    for table in (found.stages, found.layers):
        assert table["params"].sum() == sum(parameter.numel() for parameter in net.parameters())
        assert table["macs"].sum() == count_macs(net, side(net))
    assert found.layers["bytes"].sum() == sum(v.numel() * v.element_size() for v in net.state_dict().values())
    assert found.layers["on_longest_path"].sum() == found.depth
    assert found.layers["input"].iloc[0] == f"3 x {side(net)} x {side(net)}"
    assert set(found.layers["stage"]) == set(found.stages["stage"])
    names = found.stages["stage"].tolist()
    assert names == ["stem", *map(str, range(1, len(names) - 1)), "head"]
    assert (found.stages["blocks"].iloc[1:-1] >= 1).all()
    assert found.layers["module"].is_unique
    assert not net.training


@pytest.mark.parametrize(
    ("name", "layers"),
    # by the number in the name; by hand for the rest: patches + 6 x (qkv, projection, two of the MLP) + head
    [("resnet18", 18), ("densenet121", 121), ("test_vit.r160_in1k", 1 + 6 * 4 + 1)],
)
def test_depth_is_that_of_the_longest_path(name: str, layers: int) -> None:
    net = new(name)
    assert len(longest_path(net, side(net))) == layers


def test_depth_takes_the_longer_branch_and_not_both() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.short = nn.Conv2d(3, 3, 1)
            self.long = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.short(x) + self.long(x)

    assert longest_path(Branches().eval(), 8) == ("long.0", "long.3")
    whole = nn.Sequential(Branches(), nn.Flatten(), nn.Linear(192, 2)).eval()
    assert longest_path(whole, 8) == ("0.long.0", "0.long.3", "2")


def test_the_stages_of_resnet50_are_those_of_its_paper() -> None:
    """He et al., Deep Residual Learning, table 1."""
    stages = inspect_network(new("resnet50"), 224).stages
    assert stages["blocks"].tolist() == [0, 3, 4, 6, 3, 0]
    assert stages["block_type"].tolist() == ["Conv2d", *["Bottleneck"] * 4, "Linear"]
    shapes = ["64 x 56 x 56", "256 x 56 x 56", "512 x 28 x 28", "1024 x 14 x 14", "2048 x 7 x 7", "3"]
    assert stages["output"].tolist() == shapes
    assert stages["stride"].tolist()[:-1] == [4, 4, 8, 16, 32]
    assert set(stages["normalisation"][:-1]) == {"BatchNorm2d"}
    assert set(stages["activation"][:-1]) == {"ReLU"}


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [  # as their papers have them
        ("resnet18", 64, ("convolutional", "BasicBlock", 0, "", "", "", "batch", "ReLU")),
        ("regnety_002", 64, ("convolutional", "Bottleneck", 1 + 1 + 4 + 7, "", "", "", "batch", "ReLU, Sigmoid")),
        ("mobilenetv2_035", 64, ("convolutional", "InvertedResidual", 0, "3 x 3", "", "", "batch", "ReLU6")),
        ("convnext_atto", 64, ("convolutional", "ConvNeXtBlock", 0, "7 x 7", "", "4 x 4", "layer", "GELU")),
        (
            "swin_tiny_patch4_window7_224",
            224,
            ("transformer", "SwinTransformerBlock", 0, "", "windows of 7 x 7", "4 x 4", "layer", "GELU"),
        ),
    ],
)
def test_the_key_traits_are_those_of_the_papers(name: str, size: int, expected: tuple[Any, ...]) -> None:
    traits = inspect_network(new(name), size).traits
    names = ("family", "core_block", "squeeze_excitation", "depthwise", "attention", "patch")
    assert traits == dict(zip((*names, "normalisation", "activation"), expected, strict=True))


FIRST = {
    "resnet18": ("conv1", ["layer1", "layer2"]),
    "mobilenetv3_small": ("conv_stem", ["blocks.0", "blocks.1"]),
    "vit_small": ("patch_embed.proj", ["blocks.0", "blocks.1"]),
    "swin_tiny": ("patch_embed.proj", ["layers.0", "layers.1"]),
}


@pytest.mark.parametrize("model", FIRST)
def test_maps_are_those_of_timm_and_the_first_layer_s_own(model: str, network: Callable[[str], Any]) -> None:
    net = network(model).eval()
    side = side_of(net) if hasattr(net, "patch_embed") else 96  # no map is as wide as it has channels
    card = dataclasses.replace(CARD, backbone=model, preprocessing={**PREPROCESSING, "size": side})
    classifier, batch = Classifier(card, net).eval(), images(3, side)
    convolution, stages = FIRST[model]
    assert find_first_convolution(net, side) == convolution
    layer = net.get_submodule(convolution)
    first, *others = compute_feature_maps(classifier, batch, convolution, 4)
    assert [first.layer, *(each.layer for each in others)] == [convolution, *stages]
    with torch.no_grad():
        own = functional.conv2d(normalised(batch), layer.weight, layer.bias, layer.stride, layer.padding)
    np.testing.assert_allclose(first.maps, own[:, first.channels], atol=1e-4)
    places = [info["module"] for info in net.feature_info]
    for each in others:
        with torch.no_grad():
            [expected] = net.forward_intermediates(
                normalised(batch), indices=[places.index(each.layer)], norm=False, intermediates_only=True
            )
        np.testing.assert_allclose(each.maps, expected[:, each.channels], atol=1e-3)
        spread = expected.numpy().std(axis=(0, 2, 3))
        assert set(each.channels) == set(np.argsort(-spread)[:4])
