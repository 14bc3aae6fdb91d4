"""Exponential moving average of the weights."""

from __future__ import annotations

from dataclasses import dataclass

from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch import Tensor

from avatar_bench.config.options import Options, option


@dataclass(kw_only=True)
class EMA(Options):
    """Options of the average."""

    decay: float = option(help="decay of the averaged weights")

    def build(self) -> Callback:
        """Build the callback of one stage."""
        return EmaWeightAveraging(self.decay)


class EmaWeightAveraging(WeightAveraging):
    """Exponential moving average (EMA) of the weights, with a warm-up of the decay.

    After n steps the decay is min(decay, (1 + n) / (10 + n)); otherwise a short training would be evaluated on its
    initial weights.
    """

    def __init__(self, decay: float) -> None:
        def average(mean: Tensor, current: Tensor, count: int | Tensor) -> Tensor:
            factor = min(decay, (1 + int(count)) / (10 + int(count)))
            return factor * mean + (1 - factor) * current

        super().__init__(avg_fn=average)
