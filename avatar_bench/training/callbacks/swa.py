"""Stochastic weight averaging over the epochs of a stage."""

from __future__ import annotations

from dataclasses import dataclass

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, WeightAveraging
from torch.optim.swa_utils import get_swa_avg_fn

from avatar_bench.config.options import Options, option


@dataclass(kw_only=True)
class SWA(Options):
    """Options of the average."""

    start: int = option(help="first epoch of a stage whose weights are averaged, counted from 0")

    def build(self) -> Callback:
        """Build the callback of one stage."""
        return SwaWeightAveraging(self.start)


class SwaWeightAveraging(WeightAveraging):
    """Stochastic weight averaging (SWA) over a stage's epochs, from epoch `start` on.

    Each epoch is evaluated with the average that includes it. Before `start`, the weights are not averaged.
    """

    def __init__(self, start: int) -> None:
        super().__init__(avg_fn=get_swa_avg_fn())  # type: ignore[no-untyped-call]
        self.start = start

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Return False: Lightning asks after validation, which is too late."""
        return False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add the epoch's weights to the average, and load the average into the network."""
        average = self._average_model
        if average is not None and not trainer.sanity_checking:
            if trainer.current_epoch <= self.start:
                average.n_averaged.zero_()  # the next update then copies the weights
            average.update_parameters(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)
