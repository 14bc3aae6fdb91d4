"""Parameter groups: learning rate and weight decay of each parameter, counted by hand."""

import pytest

from avatar_bench.models.stages import freeze
from avatar_bench.training.optimization import TrainingOptions, build_optimizer, build_parameter_groups


def list_rates(net, **options):
    """Return the learning rate and weight decay of each trained parameter by name, for a base rate of 1."""
    training_options = TrainingOptions(seed=0, weight_decay=0.3, **options)
    groups = build_parameter_groups(net, training_options, 1.0)
    groups = build_optimizer(groups, training_options, 1.0, fused=False).param_groups
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    rates = [(names[id(param)], (group["lr"], group["weight_decay"])) for group in groups for param in group["params"]]
    assert len(dict(rates)) == len(rates)
    return dict(rates)


def test_parameters_of_a_vit_learn_at_one_rate_or_one_that_falls_block_by_block_and_may_not_decay(network):
    net = network("deit_tiny")
    names = freeze(net, 2)  # layers that rest are in no group
    assert list_rates(net, layer_decay=0.5) == {name: (1.0 if "head" in name else 0.5, 0.3) for name in names}
    freeze(net, "all")
    assert list_rates(net) == {name: (1.0, 0.3) for name, _ in net.named_parameters()}
    rates = list_rates(net, layer_decay=0.5)
    for name, (rate, decay) in rates.items():
        block = int(name.split(".")[1]) if name.startswith("blocks") else 11 if name.startswith("norm") else -1
        distance = 0 if name.startswith("head") else 12 - block
        assert rate == pytest.approx(0.5**distance), name
        assert decay == 0.3
    assert len(rates) == len(list(net.parameters()))
    free = {name for name, value in net.named_parameters() if value.ndim == 1} | {"cls_token", "pos_embed"}
    for layer_decay in (None, 0.5):
        rates = list_rates(net, layer_decay=layer_decay, decay_norms=False)
        assert {name for name, (_, decay) in rates.items() if decay == 0} == free


def test_the_stem_of_other_networks_is_as_far_from_the_head_as_it_has_blocks(network):
    for model, layers in (
        ("swin_tiny", 1 + (2 + 2 + 6 + 2) + 1),
        ("resnet18", 1 + (2 + 2 + 2 + 2) + 1),
        ("convnextv2_nano", 1 + 14 + 1),
    ):
        net = network(model)
        freeze(net, "all")
        rates = [rate for rate, _ in list_rates(net, layer_decay=0.9).values()]
        assert max(rates) == 1
        assert min(rates) == pytest.approx(0.9 ** (layers - 1))
        assert len({round(rate, 6) for rate in rates}) == layers
