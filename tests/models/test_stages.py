"""Which layers learn in each stage, counted module by module for every backbone of conf/model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn

from avatar_bench.errors import ConfigError
from avatar_bench.models.stages import freeze, list_layer_groups, set_frozen_to_eval

# the modules of the last group, and of the two before it
HEAD_AND_TWO_STAGES: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "convnext_tiny": (["head"], ["stages.3", "stages.2"]),
    "efficientnet_lite0": (["classifier"], ["conv_head", "bn2", "blocks.6", "blocks.5"]),
    "mae_base": (["head", "fc_norm"], ["blocks.1", "blocks.0"]),  # two blocks in the fixture's networks of base size
    "mobilenetv3_small": (["classifier", "conv_head"], ["blocks.5", "blocks.4"]),
    "mobilevit": (["head"], ["final_conv", "stages.4", "stages.3"]),
    "resnet18": (["fc"], ["layer4", "layer3"]),
    "siglip2_base": (["head", "attn_pool"], ["norm", "blocks.1", "blocks.0"]),
    "swin_tiny": (["head", "norm"], ["layers.3", "layers.2"]),
    "vit_small": (["head"], ["norm", "blocks.11", "blocks.10"]),
}


def count(net: nn.Module, names: Sequence[str]) -> int:
    return sum(parameter.numel() for name in names for parameter in net.get_submodule(name).parameters())


def learning(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("model", HEAD_AND_TWO_STAGES)
def test_a_stage_trains_the_head_or_the_head_and_two_stages(model: str, network: Callable[[str], Any]) -> None:
    net = network(model)
    head, stages = HEAD_AND_TWO_STAGES[model]
    names = freeze(net, 1)
    assert learning(net) == count(net, head) == sum(net.get_parameter(name).numel() for name in names)
    freeze(net, 3)
    assert learning(net) == count(net, [*head, *stages])
    freeze(net, "classifier")
    assert learning(net) == 3 * net.head_hidden_size + 3
    assert freeze(net, "all") == [name for name, _ in net.named_parameters()]
    assert learning(net) == count(net, [""])


@pytest.mark.parametrize("model", HEAD_AND_TWO_STAGES)
def test_the_layer_groups_hold_every_parameter_once_from_stem_to_head(
    model: str, network: Callable[[str], Any]
) -> None:
    net = network(model)
    names = [name for group in list_layer_groups(net) for name in group]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert any(word in names[0] for word in ("stem", "conv1", "cls_token", "pos_embed", "patch_embed"))
    tokens = {name for name in ("cls_token", "pos_embed") if getattr(net, name, None) is not None}
    assert tokens <= set(list_layer_groups(net)[0])
    freeze(net, len(list_layer_groups(net)))
    assert learning(net) == count(net, [""])


@pytest.mark.parametrize("unfreeze", [0, 99, "head", None])
def test_layers_that_are_not_there_are_refused(unfreeze: Any, network: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigError, match="1 to 6 layer groups"):
        freeze(network("resnet18"), unfreeze)


@pytest.mark.parametrize("model", ["mobilenetv3_small", "resnet18"])
@pytest.mark.parametrize("unfreeze", [1, 3, "all"])
def test_statistics_move_in_layers_that_learn_alone(
    model: str, unfreeze: str | int, network: Callable[[str], Any]
) -> None:
    net = network(model)
    names = set(freeze(net, unfreeze))
    norms = {name: module for name, module in net.named_modules() if isinstance(module, nn.BatchNorm2d)}
    before = {name: module.running_mean.clone() for name, module in norms.items()}
    net.train()
    set_frozen_to_eval(net)
    with torch.no_grad():
        net(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    moved = {name for name, module in norms.items() if not torch.equal(module.running_mean, before[name])}
    assert moved == {name for name in norms if f"{name}.weight" in names}
    net.eval()
