"""Filters and feature maps of the first layers, against timm's own intermediates and torch's convolution."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from avatar_bench.models.classifier import Classifier
from avatar_bench.models.first_layers import compute_feature_maps, find_first_convolution, get_filters
from tests.models.small import CARD, PREPROCESSING, images, normalised, side_of

FIRST = {
    "resnet18": ("conv1", ["layer1", "layer2"]),
    "mobilenetv3_small": ("conv_stem", ["blocks.0", "blocks.1"]),
    "convnext_tiny": ("stem.0", ["stages.0", "stages.1"]),
    "vit_small": ("patch_embed.proj", ["blocks.0", "blocks.1"]),
    "swin_tiny": ("patch_embed.proj", ["layers.0", "layers.1"]),
    "mobilevit": ("stem.conv", ["stages.0", "stages.1"]),
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
    np.testing.assert_array_equal(get_filters(net, convolution), layer.weight.detach().numpy())
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


class Mixer(nn.Module):
    """A network that cuts an image into pixels at once."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.then = nn.Conv2d(4, 2, 1)

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.then(self.first(batch.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean(dim=(2, 3))


def test_a_network_that_begins_with_another_layer_has_no_filters() -> None:
    assert find_first_convolution(Mixer().eval(), 8) is None
    assert find_first_convolution(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 2, 1)).eval(), 8) == "0"
