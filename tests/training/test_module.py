"""Learner: loss against its formula, optimizers, schedules and checkpoint content."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional

from avatar_bench.config.catalogue import find_choices
from avatar_bench.errors import DivergedError
from avatar_bench.files.document import read_yaml
from avatar_bench.models.backbones import create_backbone
from avatar_bench.models.stages import Stage
from avatar_bench.training.module import Learner
from avatar_bench.training.optimization import TrainingOptions
from tests.models.small import CARD, images, normalised

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log")
COSINE, PLATEAU = (read_yaml(find_choices("schedule")[name]) for name in ("cosine", "plateau"))


def tiny(**options):
    torch.manual_seed(0)
    return Learner(CARD, create_backbone("test_resnet", 3), TrainingOptions(**{"seed": 1, **options}))


def loss_of(classifier, targets):
    classifier.eval()  # fixed batch-norm statistics
    classifier.trainer = SimpleNamespace(accumulate_grad_batches=1, global_step=0, global_rank=0)
    classifier.on_train_batch_start(None, 0)
    classifier.trainer = None
    return float(classifier.training_step({"image": images(len(targets)), "target": targets}, 0).detach())


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 3.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_cross_entropy_with_weights_and_smoothing(weights, smoothing):
    classifier = tiny(class_weights=weights, label_smoothing=smoothing)
    targets = torch.tensor([0, 1, 2, 2])
    loss = loss_of(classifier, targets)
    logs = functional.log_softmax(classifier.net(normalised(images())), dim=1).detach().numpy().astype(float)
    weight = np.ones(3) if weights is None else np.array(weights)
    soft = (1 - smoothing) * np.eye(3)[targets] + smoothing / 3
    expected = -(soft * weight * logs).sum() / weight[targets].sum()
    assert loss == pytest.approx(expected, rel=1e-4)


def test_mixup_depends_on_seed_and_step_alone():
    targets = torch.tensor([0, 1, 2, 2])
    plain, losses = loss_of(tiny(), targets), []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        classifier = tiny(mixup=0.4, seed=seed)
        torch.manual_seed(noise)
        losses.append(loss_of(classifier, targets))
    assert losses[0] == losses[1] != losses[2]
    assert plain not in losses


def test_a_loss_that_is_not_finite_is_an_error_in_training_and_in_validation():
    classifier = tiny()
    with torch.no_grad():
        classifier.net.fc.bias.fill_(torch.inf)
    batch = {"image": images(), "target": torch.tensor([0, 1, 2, 2]), "row": torch.tensor([7, 5, 3, 1])}
    for step, split in ((classifier.training_step, "train"), (classifier.validation_step, "val")):
        classifier.trainer = SimpleNamespace(validating=split == "val", global_step=0, current_epoch=0)
        with pytest.raises(DivergedError, match="not a finite number") as error:
            step(batch, 0)
        assert (error.value.split, list(error.value.rows)) == (split, [7, 5, 3, 1])


def test_val_metrics_equal_those_of_sklearn():
    rng = np.random.default_rng(0)
    classifier, targets, logits = tiny(), rng.integers(0, 3, 100), rng.normal(size=(100, 3)).astype(np.float32)
    for part in np.array_split(np.arange(100), 7):
        classifier.val_metrics.update(torch.from_numpy(logits[part]), torch.from_numpy(targets[part]))
    values = {name: float(value) for name, value in classifier.val_metrics.compute().items()}
    guess = logits.argmax(axis=1)
    macro_f1 = f1_score(targets, guess, average="macro")
    expected = {"val/accuracy": accuracy_score(targets, guess), "val/macro_f1": macro_f1}
    assert values == pytest.approx(expected, abs=1e-6)


def test_each_optimizer_takes_the_layers_that_learn_and_adamw_decays_apart_from_the_gradient():
    for optimizer, arguments, kind in (
        ("adamw", {}, torch.optim.AdamW),
        ("adam", {}, torch.optim.Adam),
        ("sgd", {"momentum": 0.8}, torch.optim.SGD),
        ("lion", {}, timm.optim.Lion),
        ({"_target_": "torch.optim.NAdam", "lr": 5.0, "_partial_": True}, {}, torch.optim.NAdam),
    ):
        classifier = tiny(optimizer=optimizer, arguments=arguments, weight_decay=0.03)
        classifier.begin(Stage("classifier", 1, 0.02))
        built = classifier.configure_optimizers()
        assert type(built) is kind
        (group,) = built.param_groups
        assert group.get("fused") in ({True} if optimizer in ("adamw", "adam", "sgd") else {None})
        assert [parameter.shape for parameter in group["params"]] == [(3, 96), (3,)]
        assert (group["lr"], group["weight_decay"]) == (0.02, 0.03)
        if kind is torch.optim.SGD:
            assert (group["momentum"], group["nesterov"]) == (0.8, True)
    moved = {}
    for name in ("adamw", "adam"):
        parameter = torch.nn.Parameter(torch.tensor([2.0]))
        classifier = tiny(optimizer=name, weight_decay=0.5)
        classifier.net = torch.nn.ParameterList([parameter])
        classifier.stage = Stage("all", 1, 0.1)
        parameter.grad = torch.tensor([0.0])
        classifier.configure_optimizers().step()
        moved[name] = float(parameter.detach())
    assert moved["adamw"] == pytest.approx(2.0 * (1 - 0.1 * 0.5))
    assert moved["adam"] == pytest.approx(2.0 - 0.1, abs=1e-6)


def configure(steps=None, **options):
    """Return what a learner configures for a stage of four epochs at a rate of 1, with a trainer of so many steps."""
    learner = tiny(**options)
    learner.begin(Stage("classifier", 4, 1.0))
    if steps:
        learner._trainer = SimpleNamespace(estimated_stepping_batches=steps, gradient_clip_val=None)
    return learner.configure_optimizers()


def test_cosine_warms_up_and_falls_to_nothing_and_plateau_waits_for_its_patience():
    built = configure(40, schedule=COSINE | {"warmup_epochs": 1})
    assert built["lr_scheduler"]["interval"] == "step"
    schedule, rates = built["lr_scheduler"]["scheduler"], []
    for _ in range(41):
        rates.append(schedule.get_last_lr()[0])
        built["optimizer"].step()
        schedule.step()
    expected = [(step + 1) / 11 for step in range(10)]
    expected += [0.5 * (1 + np.cos(np.pi * step / 30)) for step in range(31)]
    np.testing.assert_allclose(rates, expected, atol=1e-9)
    for epochs, first in ((0.5, 1 / 6), (0.04, 1.0)):  # a part of an epoch can warm up
        (group,) = configure(40, schedule=COSINE | {"warmup_epochs": epochs})["optimizer"].param_groups
        assert group["lr"] == pytest.approx(first)
    built = configure(schedule=PLATEAU | {"factor": 0.25, "patience": 2})
    assert built["lr_scheduler"]["monitor"] == "val/loss"
    rates = []
    for loss in (1.0, 1.0, 1.0, 1.0, 1.0):
        built["lr_scheduler"]["scheduler"].step(loss)
        rates.append(built["optimizer"].param_groups[0]["lr"])
    assert rates == [1.0, 1.0, 1.0, 0.25, 0.25]


@pytest.mark.parametrize(("option", "kept"), [("drop_path_rate", True), ("drop_rate", False), ("pos_drop_rate", False)])
def test_features_are_computed_once_where_no_dropout_would_change_them(option, kept):
    options = {"img_size": 32, option: 0.1}
    card = dataclasses.replace(CARD, backbone="test_vit", options=options)
    learner = Learner(card, create_backbone("test_vit", 3, options=options), TrainingOptions(seed=1))
    learner.begin(Stage("classifier", 1, 0.1))
    assert learner.is_trained_on_embeddings is kept


def test_the_card_goes_into_every_checkpoint_as_plain_types():
    checkpoint = {"state_dict": tiny().state_dict()}
    tiny().on_save_checkpoint(checkpoint)
    assert checkpoint["avatar_bench"]["classes"] == ["a", "b", "c"]
    assert checkpoint["avatar_bench"]["temperature"] == 1.0
    checkpoint["state_dict"]["net.fc.bias"][0] = torch.nan
    with pytest.raises(DivergedError, match=r"net\.fc\.bias"):
        tiny().on_save_checkpoint(checkpoint)
    assert not {"mean", "std", "class_weights"} & set(tiny(class_weights=(1.0, 1.0, 1.0)).state_dict())
