"""Sharpness-aware minimisation: two passes per step, for flat minima."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from avatar_bench.config.options import Options, option
from avatar_bench.training.builders import OptimizerBuilder, build_from

if TYPE_CHECKING:
    from torch.optim import Optimizer


@dataclass(kw_only=True)
class SAM(Options):
    """Options of sharpness-aware minimisation (training/optimization.py); `base` updates the weights."""

    rho: float = option(
        help="radius of the weight perturbation; about ten times as large if adaptive",
        check=lambda value: 0 < value < math.inf,
        expected="more than 0",
    )
    adaptive: bool = option(help="scale the perturbation by each weight's size")
    base: OptimizerBuilder

    def build(self, groups: list[dict[str, Any]], lr: float, weight_decay: float, fused: bool) -> Optimizer:
        """Build the base optimizer of these parameter groups."""
        import torch

        built: Optimizer = build_from(self.base, torch.optim.Optimizer, groups, lr, weight_decay, fused)
        return built
