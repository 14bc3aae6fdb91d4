"""Callbacks of a training: what is written, shown and averaged as it goes, and where it may end."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_swa_avg_fn
from tqdm import tqdm

from avatar_bench.console.signals import StopRequest
from avatar_bench.console.warning_filters import suppress_framework_warnings
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.models.checkpoint import BEST_CHECKPOINT
from avatar_bench.models.model_card import Card
from avatar_bench.training.checkpoint_progress import PROGRESS_KEY

MONITOR = "val/macro_f1"
LOGGED_METRICS = ("train/loss", "train/accuracy", "train/macro_f1", "val/loss", "val/accuracy", MONITOR)
TRAINING_COLUMNS = ("epoch", "stage", *LOGGED_METRICS, "lr")


class MetricsHistory(Callback):
    """Keep metrics.csv: one row an epoch, rewritten whole, epochs counted over all stages."""

    def __init__(self, folder: Path, first_epoch: int, show: bool) -> None:
        self.file = folder / "metrics.csv"
        self.first_epoch = first_epoch
        self.show = show
        self.lr = float("nan")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Silence the hints in every process: those of distributed training begin with their own filters."""
        suppress_framework_warnings()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Note the rate, which validation may lower for the epoch to come."""
        self.lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add this epoch's row, in place of any that an interrupted attempt left."""
        if not trainer.is_global_zero:
            return
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seen["train/loss"] = seen.get("train/loss_epoch", float("nan"))
        epoch = self.first_epoch + trainer.current_epoch
        card: Card = pl_module.card  # type: ignore[assignment]
        seen |= {"epoch": epoch, "stage": card.stage, "lr": self.lr}
        rows = read_history(self.file)
        rows = [row for row in rows if row["epoch"] < epoch] + [{name: seen.get(name) for name in TRAINING_COLUMNS}]
        with atomic_write(self.file) as part:
            pd.DataFrame(rows, columns=list(TRAINING_COLUMNS)).astype({"epoch": int, "stage": int}).to_csv(
                part, index=False
            )
        if self.show:
            figures = "  ".join(f"{name} {seen[name]:.4f}" for name in LOGGED_METRICS if name in seen)
            print(f"stage {card.stage}  epoch {epoch}  {figures}", file=sys.stderr)


def read_history(file: Path) -> list[dict[str, Any]]:
    """Give the rows of metrics.csv, none where there is no file."""
    return pd.read_csv(file).to_dict("records") if file.is_file() else []  # type: ignore[return-value]


class BatchProgressBar(Callback):
    """Draw a bar of an epoch's batches on stderr."""

    bar: tqdm[Any] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Begin the bar where this epoch has none, and move it on."""
        if self.bar is None:
            total = int(trainer.num_training_batches)
            self.bar = tqdm(total=total, initial=batch_idx, leave=False, file=sys.stderr, unit="batch")
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None


class BestCheckpoint(ModelCheckpoint):
    """Keep best.ckpt, by val macro-F1, in a run folder that may have been moved since it was begun."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            folder,
            Path(BEST_CHECKPOINT).stem,
            monitor=MONITOR,
            mode="max",
            enable_version_counter=False,
            auto_insert_metric_name=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best figure; the file that bears it lies in this folder."""
        file = str(Path(str(self.dirpath)) / BEST_CHECKPOINT)
        here: dict[str, Any] = {"dirpath": self.dirpath}
        for score in state_dict["best_k_models"].values():
            here |= {"best_k_models": {file: score}, "best_model_path": file, "kth_best_model_path": file}
        super().load_state_dict({**state_dict, **here})


class LastCheckpoint(Checkpoint):
    """Write last.ckpt: after each epoch, and within it after each `minutes` of training and when it must stop.

    Within an epoch a whole step is saved, never the last, for Lightning does not go on from there as it would have;
    the one before it rather, so that little is done again after an end in validation. `fresh` says that a further
    stage begins, whose start is saved before best.ckpt becomes its own.
    """

    def __init__(self, file: Path, minutes: float, stop: StopRequest, fresh: bool) -> None:
        self.file, self.seconds, self.stop, self.fresh = file, minutes * 60, stop, fresh
        self.saved = time.monotonic()
        self.batches = 0  # of this epoch, that are in the weights

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the start of a further stage."""
        if self.fresh:
            trainer.save_checkpoint(self.file)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save the step where it is time, and end where a signal asks for that."""
        self.batches = batch_idx + 1
        left = int(trainer.num_training_batches) - self.batches
        if left == 0 or self.batches % trainer.accumulate_grad_batches:
            return
        waited = (time.monotonic() - self.saved) * (10 if left <= trainer.accumulate_grad_batches else 1)
        if trainer.strategy.broadcast(self.stop.asked is not None or waited >= self.seconds):
            trainer.save_checkpoint(self.file)
            self.saved = time.monotonic()
        if self.stop.asked is not None:
            self.stop.end()

    def on_validation_batch_start(self, *args: Any, **options: Any) -> None:
        """End where a signal asks for that: a validation is done again from the step that was saved before."""
        if self.stop.asked is not None:
            self.stop.end()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch, and end where a signal asks for that."""
        self.batches = 0
        trainer.save_checkpoint(self.file)
        self.saved = time.monotonic()
        if self.stop.asked is not None:
            self.stop.end()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Say how much of its epoch a checkpoint has been through, and whether its stage was stopped early."""
        checkpoint[PROGRESS_KEY] = {"batches": self.batches, "stopped": bool(trainer.should_stop)}


class EmaWeightAveraging(WeightAveraging):
    """Keep an exponential moving average of the weights, by `decay` in the end.

    It begins as a plain one, min(decay, (1 + n) / (10 + n)) after n steps, or a short training would be judged by the
    weights that it began with.
    """

    def __init__(self, decay: float) -> None:
        def average(mean: Tensor, current: Tensor, count: int | Tensor) -> Tensor:
            kept = min(decay, (1 + int(count)) / (10 + int(count)))
            return kept * mean + (1 - kept) * current

        super().__init__(avg_fn=average)


class SwaWeightAveraging(WeightAveraging):
    """Average the weights of a stage's epochs from `start` on (stochastic weight averaging); plain ones before.

    Each epoch is judged by the average that it is part of.
    """

    def __init__(self, start: int) -> None:
        super().__init__(avg_fn=get_swa_avg_fn())  # type: ignore[no-untyped-call]
        self.start = start

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Say no: Lightning would ask after the epoch has been judged."""
        return False

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the weights of the epoch into the average, and the average into the network."""
        average = self._average_model
        if average is not None and not trainer.sanity_checking:
            if trainer.current_epoch <= self.start:
                average.n_averaged.zero_()  # the next is the first: it is copied
            average.update_parameters(pl_module)
        super().on_validation_epoch_start(trainer, pl_module)
