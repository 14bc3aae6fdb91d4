"""Optimizers and schedules of learning rates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class TrainingOptions:
    """How to train: optimizer, schedule and regularisation, as in conf/optimizer."""

    seed: int
    optimizer: str = "adamw"
    weight_decay: float = 0.01
    momentum: float = 0.9
    schedule: str = "none"
    warmup_epochs: int = 0
    factor: float = 0.5
    patience: int = 1
    label_smoothing: float = 0.0
    mixup: float = 0.0
    class_weights: Sequence[float] | None = None


def build(parameters: list[nn.Parameter], options: TrainingOptions, lr: float) -> torch.optim.Optimizer:
    """Build the optimizer of a stage whose learning rate is `lr`."""
    # on a CPU, a loop over tensors takes ten times as long; on a GPU Lightning does not clip what is fused
    fused = all(parameter.device.type == "cpu" for parameter in parameters)
    if options.optimizer == "sgd":
        nesterov = options.momentum > 0
        return torch.optim.SGD(
            parameters,
            lr,
            momentum=options.momentum,
            nesterov=nesterov,
            weight_decay=options.weight_decay,
            fused=fused,
        )
    kind = torch.optim.Adam if options.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=options.weight_decay, fused=fused)


def cosine(optimizer: torch.optim.Optimizer, steps: int, warmup: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Let the learning rate rise for `warmup` steps, then fall by a half cosine to 0 at `steps`."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
