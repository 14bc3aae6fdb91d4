"""Averages of the weights: exponential over the steps of a stage, and stochastic over its epochs."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_swa_avg_fn

from avatar_bench.data.loaders import iterate_batches
from avatar_bench.data.training_batches import DataModule
from avatar_bench.errors import ConfigError
from avatar_bench.models.stages import list_tracking_norms


class EmaWeightAveraging(WeightAveraging):
    """Exponential moving average (EMA) of the weights, of decay min(decay, (1 + n) / (10 + n)) after n steps."""

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ConfigError(f"callbacks.ema.decay={decay}: expected between 0 and 1")

        def average(mean: Tensor, current: Tensor, count: int | Tensor) -> Tensor:
            factor = min(decay, (1 + int(count)) / (10 + int(count)))
            return factor * mean + (1 - factor) * current

        super().__init__(avg_fn=average)


class SwaWeightAveraging(WeightAveraging):
    """Stochastic weight averaging (SWA) over a stage's epochs, from epoch `start` on.

    Each epoch is evaluated with the average that includes it. Before `start`, the weights are not averaged. The
    batch-norm statistics of an average are those of the training images as it sees them (Izmailov et al. 2018): a mean
    of the epochs' statistics is that of other networks' activations.
    """

    def __init__(self, start: int) -> None:
        if start < 0:
            raise ConfigError(f"callbacks.swa.start={start}: expected 0 or more")
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
        if average is not None and average.n_averaged > 1 and not trainer.sanity_checking:
            estimate_statistics(trainer, pl_module)


@torch.no_grad()
def estimate_statistics(trainer: pl.Trainer, learner: pl.LightningModule) -> None:
    """Estimate the batch-norm statistics that learn in the stage anew, as means over the epoch's training batches."""
    learner.train()
    norms: list[Any] = [norm for norm in list_tracking_norms(learner) if norm.training]
    learner.eval()
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    if not norms or data.embeddings is not None:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    with iterate_batches(_load_epoch(data, trainer.current_epoch)) as batches:
        for batch in islice(batches, int(trainer.num_training_batches)):
            with trainer.precision_plugin.forward_context():
                learner(trainer.strategy.batch_to_device(batch)["image"])
    for norm, momentum in zip(norms, momenta, strict=True):
        for statistic in (norm.running_mean, norm.running_var):
            statistic.copy_(trainer.strategy.reduce(statistic.clone(), reduce_op="mean"))
        norm.momentum = momentum
        norm.eval()


def _load_epoch(data: DataModule, epoch: int) -> Any:
    position, data.position = data.position, (epoch, 0)
    loader = data.train_dataloader()
    data.position = position
    return loader
