"""Training of one stage by Lightning: trainer, callbacks, loggers and checkpoints."""

from __future__ import annotations

import itertools
import logging
import signal
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint, WeightAveraging
from pytorch_lightning.loggers import Logger
from torch.optim.swa_utils import get_swa_avg_fn
from tqdm import tqdm

from avatar_bench.errors import ConfigError, DataError
from avatar_bench.models.checkpoints import AtomicCheckpointIO, checksum_of, read_checkpoint, weights_sha256
from avatar_bench.models.classifier import CARD_KEY, Card, Classifier

MONITOR = "val/macro_f1"
HISTORY = ("epoch", "stage", "train/loss", "val/loss", "val/accuracy", "val/macro_f1", "lr")


@dataclass(frozen=True)
class TrainerOptions:
    """Where and how Lightning runs, as in conf/trainer and conf/callbacks."""

    accelerator: str = "auto"
    devices: Any = 1
    strategy: str = "auto"
    precision: str = "32"
    limit_batches: int | None = None
    channels_last: bool = True
    compile: bool = False
    gradient_clip: float | None = None
    accumulate: int = 1
    early_stopping: int | None = None
    ema: float | None = None
    swa: int | None = None
    progress: bool = True


def fit_stage(
    classifier: Classifier,
    data: pl.LightningDataModule,
    folder: Path,
    options: TrainerOptions,
    logger: Logger | None,
    first_epoch: int,
    resume: Path | None = None,
) -> Path:
    """Train the classifier's stage, and give its best checkpoint by val macro-F1.

    `folder` is the run folder: checkpoints/best.ckpt, last.ckpt and metrics.csv are written there, epochs counted
    from `first_epoch`. Raises DivergedError on a loss that is not finite, KeyboardInterrupt when interrupted.
    """
    quiet()
    stage = classifier.stage
    if options.channels_last:
        classifier.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.compile:
        classifier.net.compile()  # in place: a compiled module around it would rename the weights
    best = folder / "checkpoints" / "best.ckpt"
    trainer = pl.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        strategy=options.strategy,
        precision=precision_for(options),  # type: ignore[arg-type]
        max_epochs=stage.epochs,
        limit_train_batches=options.limit_batches,
        limit_val_batches=options.limit_batches,
        gradient_clip_val=options.gradient_clip,
        accumulate_grad_batches=options.accumulate,
        deterministic="warn",
        logger=logger or False,
        log_every_n_steps=1,
        callbacks=_callbacks(folder, options, first_epoch),
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_progress_bar=False,  # Lightning's writes on stdout
        enable_model_summary=False,
        use_distributed_sampler=False,  # EpochSampler divides the images itself
    )
    _run(trainer, classifier, data, resume)
    if not best.is_file():
        raise DataError("No checkpoint was chosen: val macro-F1 was never measured.", "Is the val split empty?")
    return best


@torch.inference_mode()
def embed(classifier: Classifier, batches: Iterable[dict[str, Any]], options: TrainerOptions) -> NDArray[np.float32]:
    """Give the embeddings (N, D) of batches of images, as the classifier makes them in evaluation."""
    cuda = options.accelerator != "cpu" and torch.cuda.is_available()
    classifier.eval().to("cuda" if cuda else "cpu")
    if options.channels_last:
        classifier.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bar = tqdm(batches, "features", leave=False, disable=None if options.progress else True)
    found = [classifier(batch["image"].to(classifier.device))[1].float().cpu().numpy() for batch in bar]
    return np.concatenate(found)


def precision_for(options: TrainerOptions) -> str:
    """Give Lightning's name of the precision; "amp" is 16-mixed on CUDA and 32 elsewhere."""
    if options.precision != "amp":
        return options.precision if options.precision != "32" else "32-true"
    return "16-mixed" if options.accelerator != "cpu" and torch.cuda.is_available() else "32-true"


def finish(best: Path, temperature: float) -> tuple[str, str]:
    """Put the temperature into the best checkpoint, drop the optimizer's state; give its and its weights' SHA-256."""
    checkpoint = read_checkpoint(best)
    card = Card.from_checkpoint(checkpoint, best)
    kept = {key: checkpoint[key] for key in ("state_dict", "epoch", "global_step", "pytorch-lightning_version")}
    kept[CARD_KEY] = {**card.plain(), "temperature": temperature}
    AtomicCheckpointIO().save_checkpoint(kept, best)
    return checksum_of(best), weights_sha256(kept["state_dict"])


def build_logger(name: str, folder: Path, run_name: str, project: str, offline: bool, settings: Any) -> Logger | None:
    """Build the experiment logger; raise ConfigError where its package is not installed."""
    logs = folder / "logs"
    builders: dict[str, Callable[[], Logger | None]] = {
        "none": lambda: None,
        "csv": lambda: pl.loggers.CSVLogger(folder, name="", version=_unused(logs).name),
        "tensorboard": lambda: pl.loggers.TensorBoardLogger(folder, name="", version="logs"),
        "wandb": lambda: pl.loggers.WandbLogger(run_name, logs, project=project, offline=offline),
        "mlflow": lambda: pl.loggers.MLFlowLogger(project, run_name, tracking_uri=f"sqlite:///{logs / 'mlflow.db'}"),
    }
    logs.mkdir(exist_ok=True) if name in ("wandb", "mlflow") else None
    try:
        logger = builders[name]()
        if logger is not None:
            logger.log_hyperparams(settings)
    except (ImportError, ModuleNotFoundError) as error:
        raise ConfigError(
            f"logger={name}: its package is not installed.", f'Install it: pip install "avatar-bench[{name}]".'
        ) from error
    return logger


def _unused(folder: Path) -> Path:
    """Give the folder, or where it holds something its name with a number: a resumed run keeps its earlier steps."""
    numbered = (folder.with_name(f"{folder.name}_{number}") for number in itertools.count(2))
    return next(place for place in itertools.chain([folder], numbered) if not place.exists())


class History(Callback):
    """Keep metrics.csv: one row an epoch, rewritten whole, epochs counted over all stages."""

    def __init__(self, folder: Path, first_epoch: int, show: bool) -> None:
        self.file = folder / "metrics.csv"
        self.first_epoch = first_epoch
        self.show = show

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Silence the hints in every process: those of distributed training begin with their own filters."""
        quiet()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Add this epoch's row, in place of any that an interrupted attempt left."""
        if not trainer.is_global_zero:
            return
        seen = {name: float(value) for name, value in trainer.callback_metrics.items()}
        seen["train/loss"] = seen.get("train/loss_epoch", float("nan"))
        epoch = self.first_epoch + trainer.current_epoch
        card: Card = pl_module.card  # type: ignore[assignment]
        seen |= {"epoch": epoch, "stage": card.stage, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        rows = read_history(self.file)
        rows = [row for row in rows if row["epoch"] < epoch] + [{name: seen.get(name) for name in HISTORY}]
        part = self.file.with_name(self.file.name + ".part")
        pd.DataFrame(rows, columns=list(HISTORY)).astype({"epoch": int, "stage": int}).to_csv(part, index=False)
        part.replace(self.file)
        if self.show:
            figures = "  ".join(f"{name} {seen[name]:.4f}" for name in HISTORY[2:6] if name in seen)
            print(f"stage {card.stage}  epoch {epoch}  {figures}", file=sys.stderr)


def read_history(file: Path) -> list[dict[str, Any]]:
    """Give the rows of metrics.csv, none where there is no file."""
    return pd.read_csv(file).to_dict("records") if file.is_file() else []  # type: ignore[return-value]


class Progress(Callback):
    """Draw a bar of an epoch's batches on stderr."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar."""
        self.bar = tqdm(total=int(trainer.num_training_batches), leave=False, file=sys.stderr, unit="batch")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Move the bar on."""
        self.bar.update()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take the bar away."""
        self.bar.close()


class EpochAverage(WeightAveraging):
    """Average the weights at the end of each epoch from `start` on (stochastic weight averaging)."""

    def __init__(self, start: int) -> None:
        super().__init__(avg_fn=get_swa_avg_fn())  # type: ignore[no-untyped-call]
        self.start = start

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        """Say yes once an epoch, from the start on."""
        return epoch_idx is not None and epoch_idx >= self.start


def _callbacks(folder: Path, options: TrainerOptions, first_epoch: int) -> list[Callback]:
    def checkpoint(name: str, **more: Any) -> ModelCheckpoint:
        options = {"enable_version_counter": False, "auto_insert_metric_name": False, **more}
        return ModelCheckpoint(folder / "checkpoints", filename=name, **options)

    bars = options.progress and sys.stderr.isatty()
    callbacks: list[Callback] = [Progress()] if bars else []
    if options.ema is not None:
        callbacks.append(EMAWeightAveraging(decay=options.ema))
    if options.swa is not None:
        callbacks.append(EpochAverage(options.swa))
    if options.early_stopping is not None:
        callbacks.append(EarlyStopping(MONITOR, mode="max", patience=options.early_stopping, check_finite=False))
    callbacks.append(History(folder, first_epoch, options.progress))
    callbacks.append(checkpoint("best", monitor=MONITOR, mode="max"))
    callbacks.append(checkpoint("last", monitor=None, save_on_train_epoch_end=True))
    return callbacks


def _run(trainer: pl.Trainer, classifier: Classifier, data: pl.LightningDataModule, resume: Path | None) -> None:
    classifier.train()
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(classifier, datamodule=data, ckpt_path=str(resume) if resume else None, weights_only=True)
    except SystemExit as error:
        # Lightning ends the process with 1 on Ctrl-C; the command has its own last words
        if error.code == 1 and trainer.interrupted:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, handler)


def quiet() -> None:
    """Silence Lightning's hints about its other products and about settings that are on purpose."""
    for name in ("pytorch_lightning", "lightning_fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in (
        ".*does not have many workers.*",
        ".*persistent_workers=True.*",  # val is short
        ".*srun.*",
        ".*exists and is not empty.*",  # the run folder is ours
        ".*number of training batches.*",
        ".*litlogger.*",
        ".*This DataLoader will create.*",  # the number of workers is the user's choice
        ".*in eval mode at the start of training.*",  # frozen layers are, on purpose
        ".*isinstance\\(treespec, LeafSpec\\).*",  # torch's own deprecation inside Lightning
        ".*Starting from v1.9.0.*",
        ".*lr_scheduler.step.*",  # the first step under mixed precision may be skipped
    ):
        warnings.filterwarnings("ignore", text)
