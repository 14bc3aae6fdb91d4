"""Training of one stage by Lightning: trainer, callbacks, loggers and checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import (
    Callback,
    EarlyStopping,
)
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from tqdm import tqdm

from avatar_bench.console.memory import retain_freed_memory
from avatar_bench.console.signals import StopRequest
from avatar_bench.console.warning_filters import suppress_framework_warnings
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.files.paths import find_unused_folder
from avatar_bench.models.checkpoint import (
    CARD_KEY,
    LAST_CHECKPOINT,
    hash_weights,
    read_checkpoint,
    remove_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from avatar_bench.models.model_card import Card
from avatar_bench.training.callbacks import (
    MONITOR,
    BatchProgressBar,
    BestCheckpoint,
    EmaWeightAveraging,
    LastCheckpoint,
    MetricsHistory,
    SwaWeightAveraging,
)
from avatar_bench.training.module import Learner


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
    save_minutes: float = 5.0
    progress: bool = True


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint complete or not at all, with its .sha256 beside it, and read it as plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write it; raise OutputError, leaving all earlier files, where that cannot be done."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load tensors and plain types, whatever was asked for."""
        verify_checkpoint(Path(path))
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file and its checksum."""
        remove_checkpoint(Path(path))


def fit_stage(
    learner: Learner,
    data: pl.LightningDataModule,
    folder: Path,
    options: TrainerOptions,
    logger: Logger | None,
    first_epoch: int,
    resume: Path | None = None,
) -> Path:
    """Train the learner's stage, and give its best checkpoint by val macro-F1.

    `folder` is the run folder: checkpoints/best.ckpt, last.ckpt and metrics.csv are written there, epochs counted
    from `first_epoch`. `resume` is a checkpoint of this stage that is gone on from; `data` begins where it ends.
    Raises DivergedError on a loss that is not finite, KeyboardInterrupt or SystemExit(143) when a signal ended it,
    once the step is saved, OutputError where a checkpoint cannot be written or a process of the loader was killed.
    """
    suppress_framework_warnings()
    retain_freed_memory()
    stage, stop = learner.stage, StopRequest()
    if options.channels_last:
        learner.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.compile:
        learner.net.compile()  # in place: a compiled module around it would rename the weights
    best = folder / "checkpoints" / "best.ckpt"
    fresh = resume is None and learner.card.stage > 1
    callbacks = _callbacks(folder, options, first_epoch, stop, fresh)
    trainer = build_trainer(options, stage.epochs, folder, logger, callbacks)
    with stop.handle_signals():
        run_trainer(trainer, learner, data, resume, stop)
    if not best.is_file():
        raise DataError("No checkpoint was chosen: val macro-F1 was never measured.", "Is the val split empty?")
    return best


def build_trainer(
    options: TrainerOptions, epochs: int, folder: Path, logger: Logger | None, callbacks: list[Callback]
) -> pl.Trainer:
    """Build Lightning's trainer of some epochs, whose checkpoints are whole and plain."""
    # deterministic algorithms would have all memory filled before it is written to: a tenth of a small network's step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a property
    return pl.Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        strategy=options.strategy,
        precision=resolve_precision(options),  # type: ignore[arg-type]
        max_epochs=epochs,
        limit_train_batches=options.limit_batches,
        limit_val_batches=options.limit_batches,
        gradient_clip_val=options.gradient_clip,
        accumulate_grad_batches=options.accumulate,
        deterministic="warn",
        logger=logger or False,
        log_every_n_steps=1,
        callbacks=callbacks,
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_progress_bar=False,  # Lightning's writes on stdout
        enable_model_summary=False,
        use_distributed_sampler=False,  # EpochSampler divides the images itself
    )


def run_trainer(
    trainer: pl.Trainer,
    learner: pl.LightningModule,
    data: pl.LightningDataModule,
    resume: Path | None,
    stop: StopRequest,
) -> None:
    """Have the trainer fit; end as a signal asks for, and not with Lightning's own exit codes."""
    learner.train()
    try:
        trainer.fit(learner, datamodule=data, ckpt_path=str(resume) if resume else None, weights_only=True)
    except SystemExit as error:
        # Lightning has exit codes of its own for signals; the command has its own last words
        if stop.asked is not None:
            stop.end()
        if error.code == 1 and trainer.interrupted:
            raise KeyboardInterrupt from error
        raise


@torch.inference_mode()
def embed(learner: Learner, batches: Iterable[dict[str, Any]], options: TrainerOptions) -> NDArray[np.float32]:
    """Give the embeddings (N, D) of batches of images, as the learner makes them in evaluation."""
    learner.eval().to("cuda" if resolve_device(options.accelerator) == "cuda" else "cpu")
    if options.channels_last:
        learner.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bar = tqdm(batches, "features", leave=False, disable=None if options.progress else True)
    short = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision(options))
    with torch.autocast(learner.device.type, short or torch.bfloat16, enabled=short is not None):
        found = [learner(batch["image"].to(learner.device))[1].float().cpu().numpy() for batch in bar]
    return np.concatenate(found)


def refuse_missing_devices(accelerator: str, devices: Any, strategy: str) -> None:
    """Raise ConfigError where the options of the trainer ask for devices that this machine lacks."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not (there | {"gpu": any(there.values())}).get(accelerator, True):
        raise ConfigError(
            f"trainer.accelerator={accelerator}: torch finds no GPU here.",
            "Leave it out (and trainer=gpu, which sets it), or give trainer=cpu.",
        )
    suppress_framework_warnings()
    try:
        pl.Trainer(accelerator=accelerator, devices=devices, strategy=strategy, logger=False)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"trainer.accelerator={accelerator}, trainer.devices={devices}, trainer.strategy={strategy}: this machine "
            "cannot do that.",
            " ".join(str(error).split()),
        ) from error


def resolve_device(accelerator: str) -> str:
    """Give cpu, cuda or mps: what trainer.accelerator stands for on this machine."""
    if accelerator == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_precision(options: TrainerOptions) -> str:
    """Give Lightning's name of the precision; "amp" is 16-mixed on CUDA and 32 elsewhere.

    Raises ConfigError on 16-mixed without a GPU, in whose place Lightning would compute with bf16.
    """
    cuda = resolve_device(options.accelerator) == "cuda"
    if options.precision == "amp":
        return "16-mixed" if cuda else "32-true"
    if options.precision == "16-mixed" and not cuda and options.accelerator in ("auto", "cpu"):
        raise ConfigError(
            "trainer.precision=16-mixed: numbers of 16 bits need a GPU, and there is none to compute on.",
            "Expected 32, auto or bf16-mixed; amp takes 16 bits where there is a GPU.",
        )
    return "32-true" if options.precision == "32" else options.precision


def finish_checkpoint(best: Path, temperature: float) -> tuple[str, str]:
    """Put the temperature into the best checkpoint, drop the optimizer's state; give its and its weights' SHA-256."""
    checkpoint = read_checkpoint(best)
    card = Card.from_checkpoint(checkpoint, best)
    kept = {key: checkpoint[key] for key in ("state_dict", "epoch", "global_step", "pytorch-lightning_version")}
    kept[CARD_KEY] = {**card.plain(), "temperature": temperature}
    write_checkpoint(kept, best)
    return sha256_of_file(best), hash_weights(kept["state_dict"])


def build_logger(name: str, folder: Path, run_name: str, project: str, offline: bool, settings: Any) -> Logger | None:
    """Build the experiment logger; raise ConfigError where its package is not installed."""
    logs = folder / "logs"
    builders: dict[str, Callable[[], Logger | None]] = {
        "none": lambda: None,
        "csv": lambda: pl.loggers.CSVLogger(folder, name="", version=find_unused_folder(logs).name),
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


def _callbacks(
    folder: Path, options: TrainerOptions, first_epoch: int, stop: StopRequest, fresh: bool
) -> list[Callback]:
    bars = options.progress and sys.stderr.isatty()
    callbacks: list[Callback] = [BatchProgressBar()] if bars else []
    if options.ema is not None:
        callbacks.append(EmaWeightAveraging(options.ema))
    if options.swa is not None:
        callbacks.append(SwaWeightAveraging(options.swa))
    if options.early_stopping is not None:
        callbacks.append(EarlyStopping(MONITOR, mode="max", patience=options.early_stopping, check_finite=False))
    callbacks.append(MetricsHistory(folder, first_epoch, options.progress))
    callbacks.append(BestCheckpoint(folder / "checkpoints"))
    # the last of all: what it writes holds the state of the others
    callbacks.append(LastCheckpoint(folder / "checkpoints" / LAST_CHECKPOINT, options.save_minutes, stop, fresh))
    return callbacks
