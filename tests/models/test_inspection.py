"""Stages, layers and depth of every model of conf/model."""

import dataclasses

import numpy as np
import pytest
import timm
import torch
from timm.layers import ScaledStdConv2d
from torch import nn
from torch.nn import functional

from avatar_bench.models.classifier import Classifier
from avatar_bench.models.inspection import compute_feature_maps, find_first_convolution, inspect_network
from tests.models.small import ARCHITECTURES, CARD, PREPROCESSING, count_macs, images, normalised, side_of


def longest_path(net, size):
    """Return the layers on the longest path, each as often as it lies on it."""
    if not hasattr(net, "feature_info"):
        net.feature_info = []
    layers = inspect_network(net, size).layers
    return tuple(name for name, n in zip(layers["module"], layers["on_longest_path"], strict=True) for _ in range(n))


def new(name, **options):
    return timm.create_model(name, pretrained=False, num_classes=3, **options).eval()


@pytest.mark.parametrize("model", ARCHITECTURES)
def test_stages_and_layers_add_up_to_the_network(model, network):
    net = network(model).eval()
    summary = inspect_network(net, side_of(net))
    for table in (summary.stages, summary.layers):
        assert table["params"].sum() == sum(parameter.numel() for parameter in net.parameters())
        assert table["macs"].sum() == count_macs(net, side_of(net))
    assert summary.layers["bytes"].sum() == sum(v.numel() * v.element_size() for v in net.state_dict().values())
    assert summary.layers["on_longest_path"].sum() == summary.depth
    assert summary.layers["input"].iloc[0] == f"3 x {side_of(net)} x {side_of(net)}"
    assert set(summary.layers["stage"]) == set(summary.stages["stage"])
    names = summary.stages["stage"].tolist()
    assert names == ["stem", *map(str, range(1, len(names) - 1)), "head"]
    assert (summary.stages["blocks"].iloc[1:-1] >= 1).all()
    assert summary.layers["module"].is_unique
    assert not net.training


class Branches(nn.Module):
    """A short and a long branch, whose activation is made while the network runs."""

    def __init__(self):
        super().__init__()
        self.short = nn.Conv2d(3, 3, 1)
        self.long = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1))

    def forward(self, x):
        return nn.ReLU()(self.short(x) + self.long(x))


def test_depth_is_that_of_the_longest_path_on_which_layers_count_as_often_as_they_run():
    for name, layers in (
        ("resnet18", 18),
        ("resnet50", 50),
        ("densenet121", 121),
        ("test_vit.r160_in1k", 1 + 6 * 4 + 1),
    ):
        net = new(name)
        assert len(longest_path(net, side_of(net))) == layers
    assert longest_path(Branches().eval(), 8) == ("long.0", "long.3")
    whole = nn.Sequential(Branches(), nn.Flatten(), nn.Linear(192, 2)).eval()
    assert longest_path(whole, 8) == ("0.long.0", "0.long.3", "2")
    conv = nn.Conv2d(3, 3, 1)
    assert longest_path(nn.Sequential(conv, nn.ReLU(), conv).eval(), 8) == ("0", "0")
    # timm standardises these weights at each pass, so what is multiplied is not the parameter itself
    net = nn.Sequential(ScaledStdConv2d(3, 4, 3), nn.ReLU(), ScaledStdConv2d(4, 4, 3)).eval()
    assert longest_path(net, 8) == ("0", "2")


def test_the_stages_of_resnet50_are_those_of_its_paper_and_equal_blocks_of_a_transformer_are_one():
    # He et al., Deep Residual Learning, table 1
    stages = inspect_network(new("resnet50"), 224).stages
    assert stages["blocks"].tolist() == [0, 3, 4, 6, 3, 0]
    assert stages["block_type"].tolist() == ["Conv2d", *["Bottleneck"] * 4, "Linear"]
    shapes = ["64 x 56 x 56", "256 x 56 x 56", "512 x 28 x 28", "1024 x 14 x 14", "2048 x 7 x 7", "3"]
    assert stages["output"].tolist() == shapes
    assert stages["stride"].tolist()[:-1] == [4, 4, 8, 16, 32]
    assert (set(stages["normalisation"][:-1]), set(stages["activation"][:-1])) == ({"BatchNorm2d"}, {"ReLU"})
    net = new("test_vit.r160_in1k")
    stages = inspect_network(net, 160).stages
    assert stages["stage"].tolist() == ["stem", "1", "head"]
    columns = ["module", "blocks", "block_type", "output", "stride", "normalisation", "activation"]
    expected = ["blocks.0 to blocks.5", 6, "Block", "101 x 64", 16, "LayerNorm", "GELU"]
    assert stages.loc[1, columns].tolist() == expected
    loose = net.cls_token.numel() + net.pos_embed.numel()
    assert stages.loc[0, "params"] == loose + sum(p.numel() for p in net.patch_embed.parameters())


def test_layers_come_in_the_order_they_run_and_the_network_is_left_as_it_was():
    layers = inspect_network(new("resnet18"), 64).layers
    assert layers["module"].tolist()[:5] == ["conv1", "bn1", "act1", "maxpool", "layer1.0.conv1"]
    assert layers["module"].iloc[-1] == "fc"
    macs, columns = 64 * 3 * 49 * 32 * 32, ["type", "params", "bytes", "macs", "input", "output", "kernel", "stride"]
    expected = ["Conv2d", 64 * 3 * 49, 4 * 64 * 3 * 49, macs, "3 x 64 x 64", "64 x 32 x 32", "7 x 7", "2 x 2"]
    assert layers.iloc[0][columns].tolist() == expected
    net = new("test_resnet.r160_in1k")
    before = {name: value.clone() for name, value in net.state_dict().items()}
    inspect_network(net, 64)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


TRAITS = (
    *("family", "core_block", "squeeze_excitation", "depthwise"),
    *("attention", "patch", "normalisation", "activation"),
)
CONV, VIT = "convolutional", "transformer"


def test_the_family_and_key_traits_are_those_of_the_papers():
    for name, size, options, expected in (  # as their papers have them
        ("resnet18", 64, {}, (CONV, "BasicBlock", 0, "", "", "", "batch", "ReLU")),
        ("regnety_002", 64, {}, (CONV, "Bottleneck", 13, "", "", "", "batch", "ReLU, Sigmoid")),  # 1 + 1 + 4 + 7 blocks
        ("mobilenetv2_035", 64, {}, (CONV, "InvertedResidual", 0, "3 x 3", "", "", "batch", "ReLU6")),
        ("convnext_atto", 64, {"depths": [1] * 4}, (CONV, "ConvNeXtBlock", 0, "7 x 7", "", "4 x 4", "layer", "GELU")),
        (
            "vit_tiny_patch16_224",
            224,
            {"depth": 1},
            (VIT, "Block", 0, "", "self-attention", "16 x 16", "layer", "GELU"),
        ),
        (
            "swin_tiny_patch4_window7_224",
            224,
            {"depths": [1] * 4},
            (VIT, "SwinTransformerBlock", 0, "", "windows of 7 x 7", "4 x 4", "layer", "GELU"),
        ),
        ("mobilevit_xxs", 64, {}, ("hybrid",)),
        ("mixer_s32_224", 224, {}, ("other",)),
    ):
        traits = inspect_network(new(name, **options), size).traits
        assert set(traits) == set(TRAITS)
        assert tuple(traits[trait] for trait in TRAITS[: len(expected)]) == expected


FIRST = {
    "resnet18": ("conv1", ["layer1", "layer2"]),
    "mobilenetv3_small": ("conv_stem", ["blocks.0", "blocks.1"]),
    "convnext_tiny": ("stem.0", ["stages.0", "stages.1"]),
    "vit_small": ("patch_embed.proj", ["blocks.0", "blocks.1"]),
    "swin_tiny": ("patch_embed.proj", ["layers.0", "layers.1"]),
    "mobilevit": ("stem.conv", ["stages.0", "stages.1"]),
}


@pytest.mark.parametrize("model", FIRST)
def test_maps_are_those_of_timm_and_the_first_layer_s_own(model, network):
    net = network(model).eval()
    side = side_of(net) if hasattr(net, "patch_embed") else 96  # no map is as wide as it has channels
    card = dataclasses.replace(CARD, backbone=model, preprocessing={**PREPROCESSING, "size": side})
    classifier, batch = Classifier(card, net).eval(), images(3, side)
    convolution, stages = FIRST[model]
    assert find_first_convolution(net, side) == convolution
    layer = net.get_submodule(convolution)
    first, *others = compute_feature_maps(classifier, batch, convolution, 4)
    assert [first.layer, *(part.layer for part in others)] == [convolution, *stages]
    with torch.no_grad():
        convolved = functional.conv2d(normalised(batch), layer.weight, layer.bias, layer.stride, layer.padding)
    np.testing.assert_allclose(first.maps, convolved[:, first.channels], atol=1e-4)
    names = [info["module"] for info in net.feature_info]
    for part in others:
        with torch.no_grad():
            [expected] = net.forward_intermediates(
                normalised(batch), indices=[names.index(part.layer)], norm=False, intermediates_only=True
            )
        np.testing.assert_allclose(part.maps, expected[:, part.channels], atol=1e-3)
        spread = expected.numpy().std(axis=(0, 2, 3))
        assert set(part.channels) == set(np.argsort(-spread)[:4])


class Mixer(nn.Module):
    """A network that cuts an image into pixels at once."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.then = nn.Conv2d(4, 2, 1)

    def forward(self, batch):
        return self.then(self.first(batch.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean(dim=(2, 3))


def test_a_network_that_begins_with_another_layer_has_no_filters():
    assert find_first_convolution(Mixer().eval(), 8) is None
    assert find_first_convolution(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)).eval(), 8) == "0"
