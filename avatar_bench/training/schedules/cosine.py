"""Linear warm-up of the learning rate, then cosine decay to 0."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_bench.config.options import Options, option

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(kw_only=True)
class Cosine(Options):
    """Cosine schedule over all steps of a stage."""

    warmup_epochs: float = option(
        0, help="epochs of warm-up; may be fractional", check=lambda value: value >= 0, expected="0 or more"
    )

    def build(self, optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        """Build the schedule, which is stepped after each step of the optimizer."""
        from torch.optim.lr_scheduler import LambdaLR

        warmup = int(steps * self.warmup_epochs / max(1, epochs))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))

        return LambdaLR(optimizer, factor)
