"""Pretrainer: parameter groups of its optimizer, and seeded noise of its batches."""

from types import SimpleNamespace

import pytest
import timm
import torch

from avatar_bench.data.transforms import Preprocessing
from avatar_bench.errors import DivergedError
from avatar_bench.plugins.pretrain.methods import MethodOptions, create_method
from avatar_bench.plugins.pretrain.pretrainer import Pretrainer
from avatar_bench.training.optimization import TrainingOptions

OPTIONS = {
    "simclr": MethodOptions("simclr", temperature=0.2, projection=8),
    "dino": MethodOptions("dino", temperature=0.04, projection=8, momentum=0.9),
    "mae": MethodOptions("mae", 0, 0, 0, 0, 0.75, 1, 32),
}


def module_of(method, **options):
    net = timm.create_model("test_vit", num_classes=0, img_size=64)
    training_options = TrainingOptions(seed=3, weight_decay=0.3, **options)
    return Pretrainer(
        create_method(net, 64, OPTIONS[method]),
        Preprocessing(64, "squash", (0.5,) * 3, (0.5,) * 3),
        training_options,
        1.0,
        2,
    )


@pytest.mark.parametrize("method", OPTIONS)
def test_layers_far_from_the_head_learn_slower_and_norms_do_not_decay(method):
    module = module_of(method, layer_decay=0.5, decay_norms=False)
    groups = module.configure_optimizers().param_groups
    printed = {weight: (group["lr"], group["weight_decay"]) for group in groups for weight in group["params"]}
    assert printed.keys() == {weight for weight in module.parameters() if weight.requires_grad}
    net = getattr(module.method, "student", module.method.backbone)
    student = dict(net.named_parameters())
    positions = net.no_weight_decay()
    for weight, (_, decay) in printed.items():
        named = any(weight is student[name] for name in positions if name in student)
        assert decay == (0.0 if weight.ndim <= 1 or named else 0.3)
    first, last = (printed[student[name]][0] for name in ("patch_embed.proj.weight", "blocks.5.mlp.fc2.weight"))
    assert first == pytest.approx(last * 0.5**6)
    inside = set(student.values())
    assert {rate for weight, (rate, _) in printed.items() if weight not in inside} == {1.0}


def test_by_default_all_that_learns_does_so_at_one_rate():
    module = module_of("dino")
    groups = module.configure_optimizers().param_groups
    assert {(group["lr"], group["weight_decay"]) for group in groups} == {(1.0, 0.3)}
    assert sum(len(group["params"]) for group in groups) == sum(
        parameter.requires_grad for parameter in module.parameters()
    )


def test_batches_whose_gradients_are_added_have_noise_of_their_own():
    module = module_of("simclr")
    drawn = set()
    for step, batches in enumerate([(0, 1), (2, 3)]):
        module._trainer = SimpleNamespace(accumulate_grad_batches=2, global_step=step, global_rank=0)
        for batch in batches:
            module.seed_noise(batch)
            drawn.add(float(torch.rand(1)))
    assert len(drawn) == 4


def test_weights_that_are_not_finite_are_never_kept():
    module = module_of("simclr")
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    name, value = next(iter(checkpoint["state_dict"].items()))
    value.view(-1)[0] = torch.inf
    with pytest.raises(DivergedError, match=f"^{name} of the network is not a finite number"):
        module.on_save_checkpoint(checkpoint)
