"""What every training by Lightning does at a step: noise that (seed, step) alone decides, and finite numbers."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch

from avatar_bench.errors import DivergedError
from avatar_bench.models.optimizers import TrainingOptions


class Stepping(pl.LightningModule):
    """A module that learns by `options`."""

    options: TrainingOptions

    @property
    def may_fuse(self) -> bool:
        """Tell whether the optimizer's steps may be fused: in 16 bits, Lightning does not clip what such ones take."""
        trainer = self._trainer
        return trainer is None or not trainer.gradient_clip_val or trainer.precision == "32-true"

    def seed_noise(self, batch: int) -> None:
        """Let dropout, mixup and masks depend on (seed, step, batch of it) alone: not on workers or what ran before.

        `batch` counts those of an epoch, or of the step, of which there are several where gradients are accumulated.
        """
        together = self.trainer.accumulate_grad_batches
        torch.manual_seed(self.options.seed * 1_000_003 + self.global_step * together + batch % together)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise DivergedError where a weight is not finite: the checkpoints before stay the last ones."""
        for name, value in checkpoint["state_dict"].items():
            if not torch.isfinite(value).all():
                raise self.diverged(f"{name} of the network is")

    def diverged(self, what: str) -> DivergedError:
        """Give the error to raise where `what`, with its verb, has become infinite or no number."""
        return DivergedError(
            f"{what} not a finite number at step {self.global_step} (epoch {self.current_epoch + 1}).",
            "The checkpoints before it are kept. Use a smaller lr, or trainer.precision=32.",
        )
