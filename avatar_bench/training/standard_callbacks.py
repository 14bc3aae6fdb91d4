"""Lightning callbacks that every training has: metrics file, progress bar and checkpoints."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint
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
    """Writer of metrics.csv: one row per epoch, numbered across all stages; each epoch rewrites the file."""

    def __init__(self, folder: Path, first_epoch: int, show: bool) -> None:
        self.file, self.first_epoch, self.show = folder / "metrics.csv", first_epoch, show
        self.lr = float("nan")

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Suppress framework warnings in every process: each distributed process starts with its own filters."""
        suppress_framework_warnings()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the learning rate before validation can lower it for the next epoch."""
        self.lr = max(group["lr"] for group in trainer.optimizers[0].param_groups)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write this epoch's row, replacing any left by an interrupted attempt."""
        if not trainer.is_global_zero:
            return
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        metrics["train/loss"] = metrics.get("train/loss_epoch", float("nan"))
        epoch = self.first_epoch + trainer.current_epoch
        card: Card = pl_module.card  # type: ignore[assignment]
        metrics |= {"epoch": epoch, "stage": card.stage, "lr": self.lr}
        write_history(self.file, metrics, dict.fromkeys(TRAINING_COLUMNS, float) | {"epoch": int, "stage": int})
        if self.show:
            values = "  ".join(f"{name} {metrics[name]:.4f}" for name in LOGGED_METRICS if name in metrics)
            print(f"stage {card.stage}  epoch {epoch}  {values}", file=sys.stderr)


def read_history(file: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv; an empty list if the file does not exist."""
    return pd.read_csv(file).to_dict("records") if file.is_file() else []  # type: ignore[return-value]


def write_history(file: Path, row: dict[str, float], columns: Mapping[str, Any]) -> None:
    """Append a row to metrics.csv, instead of those of its epoch and later ones; `columns` maps names to types."""
    earlier = [other for other in read_history(file) if other["epoch"] < row["epoch"]]
    with atomic_write(file) as part:
        pd.DataFrame([*earlier, row], columns=list(columns)).astype(columns).to_csv(part, index=False)


class BatchProgressBar(Callback):
    """Progress bar of an epoch's batches on stderr."""

    bar: tqdm[Any] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Create the bar on the first batch of an epoch, then advance it."""
        if self.bar is None:
            total = int(trainer.num_training_batches)
            self.bar = tqdm(total=total, initial=batch_idx, leave=False, file=sys.stderr, unit="batch")
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None


class BestCheckpoint(ModelCheckpoint):
    """Checkpoint with the best val macro-F1, in a run folder that may have moved since training started."""

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
        """Restore the best score and point its path at best.ckpt in the current folder."""
        file = str(Path(str(self.dirpath)) / BEST_CHECKPOINT)
        here: dict[str, Any] = {"dirpath": self.dirpath}
        for score in state_dict["best_k_models"].values():
            here |= {"best_k_models": {file: score}, "best_model_path": file, "kth_best_model_path": file}
        super().load_state_dict({**state_dict, **here})


class LastCheckpoint(Checkpoint):
    """Writer of last.ckpt: after each epoch, every `minutes` of training within one, and when training is stopped.

    Within an epoch only complete optimizer steps are saved. The last step is never saved, because Lightning does not
    resume from it correctly; the step before it is saved sooner, so that a stop during validation loses little work.
    `fresh` marks the start of a further stage, which is saved before that stage overwrites best.ckpt.
    """

    def __init__(self, file: Path, minutes: float, stop: StopRequest, fresh: bool) -> None:
        self.file, self.seconds, self.stop, self.fresh = file, minutes * 60, stop, fresh
        self.saved = time.monotonic()
        self.batches = 0  # of this epoch, already in the weights

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save a checkpoint at the start of a further stage."""
        if self.fresh:
            trainer.save_checkpoint(self.file)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save the step if it is due, and stop if a signal has asked for it."""
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
        """Stop if a signal has asked for it; a resumed run repeats validation from the last saved step."""
        if self.stop.asked is not None:
            self.stop.end()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the epoch, and stop if a signal has asked for it."""
        self.batches = 0
        trainer.save_checkpoint(self.file)
        self.saved = time.monotonic()
        if self.stop.asked is not None:
            self.stop.end()

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Store in the checkpoint the batches done in its epoch and whether its stage was stopped early."""
        checkpoint[PROGRESS_KEY] = {"batches": self.batches, "stopped": bool(trainer.should_stop)}
