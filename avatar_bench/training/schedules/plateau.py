"""A lower learning rate whenever the loss on val stops falling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from avatar_bench.config.options import Options, option

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler


@dataclass(kw_only=True)
class Plateau(Options):
    """ReduceLROnPlateau of torch."""

    factor: float = option(
        0.5,
        help="factor of the learning rate at a plateau",
        check=lambda value: 0 < value < 1,
        expected="between 0 and 1",
    )
    patience: int = option(
        1, help="epochs without improvement to wait", check=lambda value: value >= 0, expected="0 or more"
    )

    def build(self, optimizer: Optimizer, steps: int, epochs: int) -> LRScheduler:
        """Build the schedule, which is stepped after each validation with its loss."""
        from torch.optim.lr_scheduler import ReduceLROnPlateau

        return ReduceLROnPlateau(optimizer, factor=self.factor, patience=self.patience)
