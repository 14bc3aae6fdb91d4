"""Training with Lightning: the trainer, its logger, and the callbacks that every training has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from torch import nn

from avatar_bench.config.instantiate import build
from avatar_bench.console.progress import open_bar
from avatar_bench.console.signals import StopRequest
from avatar_bench.console.terminal import format_names, print_note
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.loaders import ManagedLoader
from avatar_bench.errors import DivergedError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.paths import find_unused_folder
from avatar_bench.i18n import use_language
from avatar_bench.metrics.plots import draw_training_curves, encode_png
from avatar_bench.models.checkpoint import LAST_CHECKPOINT
from avatar_bench.models.model_card import Card
from avatar_bench.runs.record import METRIC
from avatar_bench.training.checkpoints import AtomicCheckpointIO, CheckpointProgress, LastCheckpoint
from avatar_bench.training.environment import is_single_process, resolve_precision
from avatar_bench.training.module import Learner
from avatar_bench.training.ranks import RankStrategy, prepare_process

if TYPE_CHECKING:
    from tqdm import tqdm

LOGGED_METRICS = ("train/loss", "train/accuracy", "train/macro_f1", "val/loss", "val/accuracy", METRIC)
TRAINING_COLUMNS = ("epoch", "stage", *LOGGED_METRICS, "lr")


def run_trainer(
    module: pl.LightningModule,
    net: nn.Module,
    data: Any,
    folder: Path,
    settings: Any,
    epochs: int,
    further: Sequence[Callback],
    loggers: Sequence[Logger],
    progress: CheckpointProgress | None,
) -> None:
    """Train a module, whose layers are in `net`, deterministically; write checkpoints/last.ckpt into the run folder.

    `further` are the callbacks of the command; those chosen by the settings come before them, new ones for each call.
    `data` starts where the checkpoint of `progress` does. Raises DivergedError if the loss is not finite;
    KeyboardInterrupt or SystemExit(143) after a signal, once the step is saved; OutputError if a checkpoint cannot be
    written or a process was killed.
    """
    data.position = (progress.epochs, progress.batches) if progress else (0, 0)
    options, stop = settings.trainer, StopRequest()
    prepare_process(options.threads)
    if options.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.compile:
        net.compile()  # in place: wrapping in a compiled module would rename the weights
    callbacks: list[Callback] = [BatchProgressBar()]
    callbacks += build_nodes("callbacks", settings.callbacks.others, Callback)
    further_stage = progress is None and isinstance(module, Learner) and module.card.stage > 1
    last = folder / "checkpoints" / LAST_CHECKPOINT
    # must come last: its checkpoint includes the state of the other callbacks
    final = LastCheckpoint(last, settings.callbacks.save_minutes, stop, fresh=further_stage)
    trainer = pl.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        strategy="auto" if is_single_process(options) else RankStrategy(options.threads),
        precision=resolve_precision(options),  # type: ignore[arg-type]
        max_epochs=epochs,
        limit_train_batches=options.limit_batches,
        limit_val_batches=options.limit_batches,
        gradient_clip_val=options.gradient_clip,
        accumulate_grad_batches=options.accumulate,
        deterministic="warn",
        logger=loggers or False,
        log_every_n_steps=1,
        callbacks=[*callbacks, *further, final],
        plugins=[AtomicCheckpointIO(), *build_nodes("trainer.plugins", options.plugins, object)],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_progress_bar=False,  # Lightning's bar writes to stdout
        enable_model_summary=False,
        use_distributed_sampler=False,  # RankBatches divides the images between processes
    )
    module.train()
    with stop.handle_signals():
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(progress.file) if progress else None, weights_only=True)
        except SystemExit as error:
            # Lightning has its own exit codes for signals; the command must end with ours and its last line
            if stop.asked is not None:
                stop.end()
            if error.code == 1 and trainer.interrupted:
                raise KeyboardInterrupt from error
            raise


@contextmanager
def end_loaders(dataset: Dataset) -> Iterator[None]:
    """End the loader processes after the `with`; name the images of a batch whose loss is not finite."""
    try:
        yield
    except DivergedError as error:
        if not error.rows:
            raise
        paths = list(dataset.select_split(error.split).frame["path"].iloc[list(error.rows)])
        images = f"Images of that batch: {format_names(paths, 4)}."
        raise DivergedError(error.lines[0], images, *error.lines[1:]) from error
    finally:
        ManagedLoader.end()  # the traceback keeps the loader alive, and the next job of a sweep may need its memory


def build_nodes(option: str, nodes: Mapping[str, Any], expected: type, **values: Any) -> list[Any]:
    """Build the objects of nodes by name, but of those that are null; see `build`."""
    stated = {name: node for name, node in nodes.items() if node is not None}
    return [build(f"{option}.{name}", node, expected, **values) for name, node in stated.items()]


def build_loggers(folder: Path, settings: Any) -> list[Logger]:
    """Build the experiment loggers that the settings of a run choose."""
    unused = find_unused_folder(folder / "logs").name
    if "{folder}/logs" in str(settings.logger):
        (folder / "logs").mkdir(exist_ok=True)
    loggers = build_nodes("logger", settings.logger, Logger, folder=folder, name=folder.name, logs=unused)
    for logger in loggers:
        logger.log_hyperparams(asdict(settings))
    return loggers


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
            print_note(f"stage {card.stage}  epoch {epoch}  {values}")


def read_history(file: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.csv; an empty list if the file does not exist."""
    return pd.read_csv(file).to_dict("records") if file.is_file() else []  # type: ignore[return-value]


def write_history(file: Path, row: dict[str, float], columns: Mapping[str, Any]) -> None:
    """Append a row to metrics.csv, instead of those of its epoch and later ones; `columns` maps names to types."""
    earlier = [other for other in read_history(file) if other["epoch"] < row["epoch"]]
    with atomic_write(file) as part:
        pd.DataFrame([*earlier, row], columns=list(columns)).astype(columns).to_csv(part, index=False)


def write_curves(history: pd.DataFrame, best_epoch: int | None, folder: Path, language: str) -> None:
    """Draw the curves of metrics.csv into curves.png, in a language, with a mark at the best epoch."""
    with use_language(language), atomic_write(folder / "curves.png") as part:
        part.write_bytes(encode_png(draw_training_curves(history, best_epoch)))


class BatchProgressBar(Callback):
    """Progress bar of the batches of all epochs, those of an earlier attempt included."""

    bar: tqdm[Any] | None = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Open the bar after the first batch, then advance it."""
        if not trainer.is_global_zero:
            return
        batches, epochs = int(trainer.num_training_batches), trainer.max_epochs or 1
        if self.bar is None:
            self.bar = open_bar("", epochs * batches, "batch", done=trainer.current_epoch * batches + batch_idx)
        self.bar.set_description_str(f"epoch {trainer.current_epoch + 1}/{epochs}", refresh=False)
        self.bar.update()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.bar is not None:
            self.bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.on_train_end(trainer, pl_module)
