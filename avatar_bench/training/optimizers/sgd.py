"""Stochastic gradient descent with Nesterov momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avatar_bench.config.options import Options, option

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(kw_only=True)
class SGD(Options):
    """SGD of torch."""

    momentum: float = option(
        0.9, help="Nesterov momentum; 0: none", check=lambda value: 0 <= value < 1, expected="0 or more and less than 1"
    )

    def build(self, groups: list[dict[str, Any]], lr: float, weight_decay: float, fused: bool) -> Optimizer:
        """Build the optimizer of these parameter groups."""
        import torch

        nesterov = self.momentum > 0
        return torch.optim.SGD(
            groups, lr, momentum=self.momentum, nesterov=nesterov, weight_decay=weight_decay, fused=fused
        )
