"""Sharpness-aware minimisation: steps on a quadratic by hand, and use in Lightning."""

import copy

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import MixUp

from avatar_bench.errors import DivergedError
from avatar_bench.models.stages import Stage
from avatar_bench.training.module import Learner
from avatar_bench.training.optimization import TrainingOptions, build_optimizer, freeze_statistics, perturb_weights
from tests.models.small import CARD, images, normalised

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:You defined a `validation_step`")
CURVATURE, START = np.array([1.0, 10.0, 0.5]), np.array([0.4, -0.3, 2.0])


def by_hand(base, adaptive, steps, rho, lr, decay):
    """Compute the steps by the formulas of Foret et al., Kwon et al., Loshchilov and Hutter, and Sutskever et al."""
    w, m, v = START.copy(), np.zeros(3), np.zeros(3)
    for t in range(1, steps + 1):
        g = CURVATURE * w
        size = np.abs(w) if adaptive else np.ones(3)
        g = CURVATURE * (w + rho * size**2 * g / np.linalg.norm(size * g))
        if base == "adamw":
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            w = w - lr * decay * w - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        else:
            g = g + decay * w
            m = 0.8 * m + g
            w = w - lr * (g + 0.8 * m)
    return w


def make_optimizer(weights, name, lr, decay=0.0, **arguments):
    options = TrainingOptions(seed=0, optimizer=name, arguments=arguments, weight_decay=decay)
    return build_optimizer([{"params": [weights]}], options, lr, fused=True)


@pytest.mark.parametrize("base", ["adamw", "sgd"])
@pytest.mark.parametrize("adaptive", [False, True])
def test_steps_on_a_quadratic_equal_those_by_hand(base, adaptive):
    weights = nn.Parameter(torch.tensor(START))
    curvature = torch.tensor(CURVATURE)
    optimizer = make_optimizer(weights, base, 0.01, 0.1, **({"momentum": 0.8} if base == "sgd" else {}))
    for _ in range(4):
        optimizer.zero_grad()
        (curvature * weights**2 / 2).sum().backward()
        before = weights.detach().clone()
        with perturb_weights(optimizer, 0.2, adaptive):
            assert not torch.equal(weights, before)
            (curvature * weights**2 / 2).sum().backward()
        assert torch.equal(weights, before)
        optimizer.step()
    expected = by_hand(base, adaptive, steps=4, rho=0.2, lr=0.01, decay=0.1)
    np.testing.assert_allclose(weights.detach().numpy(), expected, atol=1e-6)


def test_weights_stay_at_a_gradient_of_nothing_and_statistics_move_again_once_they_are_let_go():
    weights = nn.Parameter(torch.zeros(2))
    optimizer = make_optimizer(weights, "sgd", 0.1, 0.01)
    (weights**2).sum().backward()
    with perturb_weights(optimizer, 0.2, adaptive=False):
        assert weights.tolist() == [0, 0]
    norm = nn.BatchNorm2d(3).train()
    batch = torch.randn(4, 3, 5, 5)
    with freeze_statistics(norm):
        held = norm(batch)
    assert (int(norm.num_batches_tracked), norm.running_mean.tolist()) == (0, [0, 0, 0])
    torch.testing.assert_close(norm(batch), held)
    assert int(norm.num_batches_tracked) == 1


class Small(nn.Module):
    """Network with running statistics and dropout that a second pass could change."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        )
        self.drop, self.fc = nn.Dropout(0.3), nn.Linear(16, 3)

    def forward(self, batch):
        return self.fc(self.drop(self.layers(batch).flatten(1)))


BATCHES = [
    {"image": images(8 * 5)[8 * n : 8 * n + 8], "target": torch.arange(8) % 3, "row": torch.arange(8)} for n in range(5)
]


def small_learner(rho=0.1, adaptive=False):
    torch.manual_seed(0)
    options = TrainingOptions(seed=3, optimizer="sgd", rho=rho, adaptive=adaptive, weight_decay=0.1, mixup=0.4)
    learner = Learner(CARD, Small(), options)
    learner.stage = Stage("all", 1, 0.1)
    return learner


def fitted(learner, **options):
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, enable_model_summary=False, **quiet, **options)
    trainer.fit(learner, DataLoader(BATCHES, batch_size=None))
    return trainer


def reference(net, adaptive=False, accumulate=1, clip=None, dtype=None):
    """Train by the formula, with the second pass on a copy of the network; return the mean first-pass loss."""
    parameters = list(net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    losses = []

    def gradients(model, step, batches):
        model.train().zero_grad()
        for index, batch in enumerate(batches):
            torch.manual_seed(3 * 1_000_003 + step * accumulate + index)
            mixed, targets = MixUp(alpha=0.4, num_classes=3)(normalised(batch["image"]), batch["target"])
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None, cache_enabled=False):
                loss = functional.cross_entropy(model(mixed), targets)
            losses.append(float(loss.detach()))
            (loss / accumulate).backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    for step, begin in enumerate(range(0, len(BATCHES), accumulate)):
        window = BATCHES[begin : begin + accumulate]
        first = gradients(net, step, window)
        copied = copy.deepcopy(net)
        sizes = [parameter.abs() if adaptive else torch.ones_like(parameter) for parameter in parameters]
        norm = torch.cat([(size * gradient).flatten() for size, gradient in zip(sizes, first, strict=True)]).norm()
        for parameter, size, gradient in zip(copied.parameters(), sizes, first, strict=True):
            parameter.data += 0.1 * size**2 * gradient / norm
        second = gradients(copied, step, window)
        del losses[-len(window) :]
        norm = torch.cat([gradient.flatten() for gradient in second]).norm()
        for parameter, gradient in zip(parameters, second, strict=True):
            parameter.grad = gradient * min(1.0, clip / float(norm)) if clip else gradient
        optimizer.step()
    return float(np.mean(losses))


@pytest.mark.parametrize(
    ("trainer", "by_formula", "tolerance"),
    [
        ({}, {}, 1e-5),
        ({}, {"adaptive": True}, 1e-5),
        ({"gradient_clip_val": 0.05}, {"clip": 0.05}, 1e-5),
        ({"accumulate_grad_batches": 2}, {"accumulate": 2}, 1e-5),
        ({"precision": "bf16-mixed"}, {"dtype": torch.bfloat16}, 1e-4),
        ({"precision": "16-mixed", "gradient_clip_val": 0.05}, {"dtype": torch.half, "clip": 0.05}, 1e-3),
    ],
    ids=["plain", "adaptive", "clipped", "accumulated", "bf16", "16 with a scaler, clipped"],
)
def test_a_training_equals_the_formula_with_one_noise_for_both_passes(trainer, by_formula, tolerance):
    learner = small_learner(adaptive=by_formula.get("adaptive", False))
    net = copy.deepcopy(learner.net)
    if trainer.get("precision") == "16-mixed":
        scaled = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", 64.0))
        trainer = {**trainer, "precision": None, "plugins": scaled}  # Lightning itself has no scaler on a CPU
    done = fitted(learner, **trainer)
    loss = reference(net, **by_formula)
    for name, value in net.state_dict().items():  # including batch-norm statistics and batch counts
        torch.testing.assert_close(learner.net.state_dict()[name], value, rtol=0, atol=tolerance, msg=name)
    assert float(done.callback_metrics["train/loss_epoch"]) == pytest.approx(loss, abs=tolerance)


def test_a_scaler_whose_factor_is_too_large_skips_the_step_and_a_loss_that_is_not_finite_is_told(monkeypatch):
    with pytest.raises(DivergedError, match="not a finite number at step 0"):
        fitted(small_learner(rho=1e38))
    learner, scaler = small_learner(), torch.amp.GradScaler("cpu", 2.0**40)
    # as on a GPU, where gradients are unscaled before the step and can be clipped
    unfused = torch.optim.SGD(learner.net.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.1)
    monkeypatch.setattr(learner, "configure_optimizers", lambda: unfused)
    before = copy.deepcopy(list(learner.net.parameters()))
    fitted(learner, plugins=MixedPrecision("16-mixed", "cpu", scaler), limit_train_batches=2)
    assert scaler.get_scale() == 2.0**38
    assert all(map(torch.equal, before, learner.net.parameters()))
