"""Which layers learn in each stage, counted module by module for every backbone of conf/model."""

import itertools

import pytest
import torch
from torch import nn

from avatar_bench.errors import ConfigError
from avatar_bench.models.stages import freeze, list_layer_groups, set_frozen_to_eval
from tests.models.small import MODELS

# the modules of the last group, and of the two before it
BLOCKS = (["head"], ["norm", "blocks.11", "blocks.10"])
TWO_BLOCKS = (["head"], ["norm", "blocks.1", "blocks.0"])  # of which the fixture builds large networks
POOLED_BLOCKS = (["head", "attn_pool"], ["norm", "blocks.1", "blocks.0"])
HEAD_AND_TWO_STAGES = {
    "deit_tiny": BLOCKS,
    **dict.fromkeys(("clip", "deit_small", "dinov2_", "dinov3_", "eva02_clip_base", "vit_"), TWO_BLOCKS),
    **dict.fromkeys(("pe_", "siglip2_base"), POOLED_BLOCKS),
    "convnext": (["head"], ["stages.3", "stages.2"]),
    "efficientnet": (["classifier"], ["conv_head", "bn2", "blocks.6", "blocks.5"]),
    "mae_base": (["head", "fc_norm"], ["blocks.1", "blocks.0"]),
    "mobilenetv2": (["classifier"], ["conv_head", "bn2", "blocks.6", "blocks.5"]),
    "mobilenetv3_large": (["classifier", "conv_head"], ["blocks.6", "blocks.5"]),
    "mobilenetv3_small": (["classifier", "conv_head"], ["blocks.5", "blocks.4"]),
    "mobilevit": (["head"], ["final_conv", "stages.4", "stages.3"]),
    "resnet": (["fc"], ["layer4", "layer3"]),
    "swin_tiny": (["head", "norm"], ["layers.3", "layers.2"]),
}


def count(net, names):
    return sum(parameter.numel() for name in names for parameter in net.get_submodule(name).parameters())


def learning(net):
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("model", MODELS)
def test_a_stage_trains_the_head_or_so_many_groups_that_hold_every_parameter_from_stem_to_head(model, network):
    with torch.device("meta"):  # parameters without values, which are not kept for other tests
        net = network.__wrapped__(model)
    head, stages = next(modules for family, modules in HEAD_AND_TWO_STAGES.items() if model.startswith(family))
    names = freeze(net, 1)
    assert learning(net) == count(net, head) == sum(net.get_parameter(name).numel() for name in names)
    freeze(net, 3)
    assert learning(net) == count(net, [*head, *stages])
    freeze(net, "classifier")
    assert learning(net) == 3 * net.head_hidden_size + 3
    assert freeze(net, "all") == [name for name, _ in net.named_parameters()]
    assert learning(net) == count(net, [""])
    names = [name for group in list_layer_groups(net) for name in group]
    assert sorted(names) == sorted(name for name, _ in net.named_parameters())
    assert any(word in names[0] for word in ("stem", "conv1", "cls_token", "pos_embed", "patch_embed"))
    tokens = {name for name in ("cls_token", "pos_embed") if getattr(net, name, None) is not None}
    assert tokens <= set(list_layer_groups(net)[0])
    stages = [set(freeze(net, number)) for number in range(1, len(list_layer_groups(net)) + 1)]
    assert all(before < after for before, after in itertools.pairwise(stages))
    assert learning(net) == count(net, [""])


def test_convnext_tiny_trains_3843_parameters_and_then_most_and_layers_it_lacks_are_refused(network):
    net = network("convnext_tiny")
    freeze(net, 1)
    assert learning(net) == 768 * 3 + 3 + 2 * 768 == 3843
    freeze(net, 3)
    assert learning(net) / 1e6 == pytest.approx(26.59, abs=0.005)
    freeze(net, "all")
    assert learning(net) / 1e6 == pytest.approx(27.82, abs=0.005)
    for unfreeze in (0, -1, 99, "head", None, 1.5):
        with pytest.raises(ConfigError, match="1 to 6 layer groups"):
            freeze(network("resnet18"), unfreeze)


@pytest.mark.parametrize("model", ["efficientnet_b0", "mobilenetv3_small", "mobilenetv2", "resnet18"])
@pytest.mark.parametrize("unfreeze", ["classifier", 1, 3, "all"])
def test_statistics_move_in_layers_that_learn_alone(model, unfreeze, network):
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


@pytest.mark.parametrize(("frozen", "moves"), [([], True), (["0"], False), (["0", "3"], False)])
def test_statistics_of_a_norm_without_parameters_move_where_nothing_beside_it_is_frozen(frozen, moves):
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, affine=False), nn.Dropout(), nn.Linear(3, 2))
    for name in frozen:
        net.get_submodule(name).requires_grad_(False)
    net.train()
    set_frozen_to_eval(net)
    net(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    assert bool(net[1].running_mean.any()) == moves
    assert net[2].training == (len(frozen) < 2)
    head = nn.ModuleList([net[0], nn.Sequential(nn.BatchNorm1d(3, affine=False), net[3])])  # where a head is a module
    set_frozen_to_eval(head.train())
    assert head[1][0].training == (len(frozen) < 2)
