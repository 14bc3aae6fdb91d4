"""Optimisation of a network: learning rate and weight decay of each parameter, and the passes of SAM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]  # it does not declare its exports
from torch import nn

from avatar_bench.models.stages import list_tracking_norms
from avatar_bench.training.builders import OptimizerBuilder, ScheduleBuilder
from avatar_bench.training.optimizers.adamw import AdamW
from avatar_bench.training.schedules.none import NoSchedule


@dataclass(frozen=True)
class TrainingOptions:
    """Training options: optimizer, schedule and regularisation, as in conf/optimizer."""

    seed: int
    optimizer: OptimizerBuilder = field(default_factory=AdamW)
    schedule: ScheduleBuilder = field(default_factory=NoSchedule)
    weight_decay: float = 0.01
    layer_decay: float | None = None
    decay_norms: bool = True
    label_smoothing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    class_weights: Sequence[float] | None = None


def build_parameter_groups(net: nn.Module, options: TrainingOptions, lr: float) -> list[dict[str, Any]]:
    """Group the trainable parameters of a timm network by learning rate and weight decay.

    With `layer_decay`, the rate of a layer is lr * layer_decay ** (its distance from the head), counted in timm's fine
    layer groups (Bao et al., BEiT, ICLR 2022, https://arxiv.org/abs/2106.08254). Without `decay_norms`, there is no
    weight decay on one-dimensional parameters (norms, biases) or on those in the network's `no_weight_decay`, such as
    position embeddings and tokens.
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
    """Group the parameters of a head by weight decay; all use the full learning rate."""
    decayed = [each for each in parameters if options.decay_norms or each.ndim > 1]
    not_decayed = [each for each in parameters if not options.decay_norms and each.ndim <= 1]
    groups = {"params": decayed}, {"params": not_decayed, "weight_decay": 0.0}
    return [group for group in groups if group["params"]]


@contextmanager
def perturb_weights(optimizer: torch.optim.Optimizer, rho: float, adaptive: bool) -> Iterator[None]:
    """Move the weights inside the `with` to the nearby point of highest loss, and restore them exactly afterwards.

    To first order, that point lies `rho` along the gradient, which is then cleared: sharpness-aware minimisation (SAM),
    Foret et al. 2021. `adaptive` scales the distance by each weight's size (Kwon et al. 2021).
    """
    from pytorch_optimizer import SAM  # takes most of a second to import

    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    sam = SAM(weights, _NoStep, rho=rho, adaptive=adaptive)  # type: ignore[arg-type]
    sam.first_step(zero_grad=True)
    try:
        yield
    finally:
        sam.second_step()


class _NoStep(torch.optim.Optimizer):
    """Optimizer whose step does nothing: Lightning's own optimizer updates the weights once they are restored."""

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Leave the weights unchanged."""


@contextmanager
def freeze_statistics(net: nn.Module) -> Iterator[None]:
    """Use batch statistics inside the `with`, without updating running statistics or their batch counts."""
    tracking = list_tracking_norms(net)
    for module in tracking:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]
