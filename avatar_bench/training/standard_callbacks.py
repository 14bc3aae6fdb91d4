"""Lightning callbacks that every training has: metrics file and progress bar."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from avatar_bench.console.progress import open_bar
from avatar_bench.console.terminal import print_line
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.models.model_card import Card
from avatar_bench.runs.record import METRIC

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGED_METRICS = ("train/loss", "train/accuracy", "train/macro_f1", "val/loss", "val/accuracy", METRIC)
TRAINING_COLUMNS = ("epoch", "stage", *LOGGED_METRICS, "lr")


class MetricsHistory(Callback):
    """Writer of metrics.csv: one row per epoch, numbered across all stages; each epoch rewrites the file."""

    def __init__(self, folder: Path, first_epoch: int, show: bool) -> None:
        self.file, self.first_epoch, self.show = folder / "metrics.csv", first_epoch, show
        self.lr = float("nan")

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
            print_line(f"stage {card.stage}  epoch {epoch}  {values}", file=sys.stderr)


def read_history(file: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv; an empty list if the file does not exist."""
    return pd.read_csv(file).to_dict("records") if file.is_file() else []  # type: ignore[return-value]


def write_history(file: Path, row: dict[str, float], columns: Mapping[str, Any]) -> None:
    """Append a row to metrics.csv, instead of those of its epoch and later ones; `columns` maps names to types."""
    earlier = [other for other in read_history(file) if other["epoch"] < row["epoch"]]
    with atomic_write(file) as part:
        pd.DataFrame([*earlier, row], columns=list(columns)).astype(columns).to_csv(part, index=False)


class BatchProgressBar(Callback):
    """Progress bar of the batches of all epochs, those of an earlier attempt included."""

    bar: tqdm[Any] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Open the bar after the first batch, then advance it."""
        if not trainer.is_global_zero:
            return
        each, epochs = int(trainer.num_training_batches), trainer.max_epochs or 1
        if self.bar is None:
            self.bar = open_bar("", epochs * each, "batch", done=trainer.current_epoch * each + batch_idx)
        self.bar.set_description_str(f"epoch {trainer.current_epoch + 1}/{epochs}", refresh=False)
        self.bar.update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar before the error is printed."""
        self.on_train_end(trainer, pl_module)
