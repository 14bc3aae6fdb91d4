"""Sharpness-aware minimisation: the two passes of a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


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
    tracking = [module for module in net.modules() if getattr(module, "track_running_stats", False)]
    for module in tracking:
        module.track_running_stats = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in tracking:
            module.track_running_stats = True  # type: ignore[assignment]
