"""Adam, weight decay as an L2 term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avatar_bench.config.options import Options

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(kw_only=True)
class Adam(Options):
    """Adam of torch."""

    def build(self, groups: list[dict[str, Any]], lr: float, weight_decay: float, fused: bool) -> Optimizer:
        """Build the optimizer of these parameter groups."""
        import torch

        return torch.optim.Adam(groups, lr=lr, weight_decay=weight_decay, fused=fused)
