"""Optimizers and schedules of learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # it lacks a marker of what it exports
from torch import nn


@dataclass(frozen=True)
class TrainingOptions:
    """How to train: optimizer, schedule and regularisation, as in conf/optimizer."""

    seed: int
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.9
    layer_decay: float | None = None
    decay_norms: bool = True
    schedule: str = "none"
    warmup_epochs: float = 0.0
    factor: float = 0.5
    patience: int = 1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    class_weights: Sequence[float] | None = None
    rho: float = 0.0  # of sharpness-aware minimisation; 0: without
    adaptive: bool = False  # of the same


def build_parameter_groups(net: nn.Module, options: TrainingOptions, lr: float) -> list[dict[str, Any]]:
    """Give the parameters of a timm network that learn, in groups with the learning rate and weight decay of each.

    With `layer_decay`, the rate of a layer is lr * layer_decay ** (its distance from the head), counted in timm's fine
    layer groups (Bao et al., BEiT, ICLR 2022, https://arxiv.org/abs/2106.08254). Without `decay_norms`, parameters of
    one dimension (norms, biases) and those that the network names, such as positions and tokens, do not decay.
    """
    if options.layer_decay is None and options.decay_norms:
        return [{"params": [parameter for parameter in net.parameters() if parameter.requires_grad]}]
    named: set[str] = getattr(net, "no_weight_decay", set)()
    groups = param_groups_layer_decay(
        net,
        options.weight_decay,
        no_weight_decay_list=() if options.decay_norms else named,
        weight_decay_exclude_1d=not options.decay_norms,
        layer_decay=options.layer_decay or 1.0,
    )
    return [
        {"params": group["params"], "lr": lr * group["lr_scale"], "weight_decay": group["weight_decay"]}
        for group in groups
    ]


def build_head_groups(parameters: Sequence[nn.Parameter], options: TrainingOptions) -> list[dict[str, Any]]:
    """Give parameters of layers that stand on a network in groups, at its full rate."""
    decaying = [each for each in parameters if options.decay_norms or each.ndim > 1]
    resting = [each for each in parameters if not options.decay_norms and each.ndim <= 1]
    groups = {"params": decaying}, {"params": resting, "weight_decay": 0.0}
    return [group for group in groups if group["params"]]


def build_optimizer(
    groups: list[dict[str, Any]], options: TrainingOptions, lr: float, may_fuse: bool = True
) -> torch.optim.Optimizer:
    """Build the optimizer of a stage whose learning rate is `lr`, on groups that may state others."""
    # on a CPU, a loop over tensors takes ten times as long; on a GPU Lightning does not clip what is fused
    fused = may_fuse and all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    if options.optimizer == "sgd":
        nesterov = options.momentum > 0
        return torch.optim.SGD(
            groups,
            lr,
            momentum=options.momentum,
            nesterov=nesterov,
            weight_decay=options.weight_decay,
            fused=fused,
        )
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=lr, weight_decay=options.weight_decay, fused=fused)


def build_cosine_schedule(
    optimizer: torch.optim.Optimizer, steps: int, warmup: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Let the learning rate rise for `warmup` steps, then fall by a half cosine to 0 at `steps`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@contextmanager
def perturb_weights(optimizer: torch.optim.Optimizer, rho: float, adaptive: bool) -> Iterator[None]:
    """Move the weights of an optimizer to where the loss near them is highest, and back to the bit at the end.

    That is, to first order, `rho` along the gradient, which is then cleared: the sharpness-aware minimisation of Foret
    et al. 2021. `adaptive` measures the distance relative to each weight's size (Kwon et al. 2021).
    """
    from pytorch_optimizer import SAM  # takes most of a second to import

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    mover = SAM(weights, _NoStep, rho=rho, adaptive=adaptive)  # type: ignore[arg-type]
    mover.first_step(zero_grad=True)
    try:
        yield
    finally:
        mover.second_step()


class _NoStep(torch.optim.Optimizer):
    """Step nowhere: the weights are stepped once they are back, by an optimizer that Lightning and its scaler know."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Leave the weights as they are."""


@contextmanager
def freeze_statistics(net: nn.Module) -> Iterator[None]:
    """Normalise by the batch and leave running statistics, and their count of batches, as they are."""
    tracking = [module for module in net.modules() if getattr(module, "track_running_stats", False)]
    for module in tracking:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]
