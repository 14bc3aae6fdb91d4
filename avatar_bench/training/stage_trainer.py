"""Training of one stage with Lightning: trainer, callbacks, logger and checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]
from torch import nn
from tqdm import tqdm

from avatar_bench.console.memory import retain_freed_memory
from avatar_bench.console.signals import StopRequest
from avatar_bench.console.warning_filters import suppress_framework_warnings
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.models.checkpoint import (
    BEST_CHECKPOINT,
    CARD_KEY,
    LAST_CHECKPOINT,
    hash_weights,
    read_checkpoint,
    remove_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from avatar_bench.models.model_card import Card
from avatar_bench.training.builders import CallbackBuilder, LoggerBuilder, build_from, load_builder
from avatar_bench.training.module import Learner
from avatar_bench.training.standard_callbacks import BatchProgressBar, BestCheckpoint, LastCheckpoint, MetricsHistory

if TYPE_CHECKING:
    from avatar_bench.config.schema import PretrainConfig, TrainConfig, TrainerConfig


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoint plugin that writes atomically with a .sha256 file, and loads plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write the checkpoint; on failure raise OutputError and keep earlier files."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load tensors and plain types, whatever `weights_only` says."""
        verify_checkpoint(Path(path))
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the checkpoint and its checksum file."""
        remove_checkpoint(Path(path))


def fit_stage(
    learner: Learner,
    data: pl.LightningDataModule,
    folder: Path,
    settings: TrainConfig,
    chosen: Sequence[CallbackBuilder],
    logger: Logger | None,
    first_epoch: int,
    resume: Path | None = None,
) -> Path:
    """Train the learner's current stage as `run_trainer` does; return its best checkpoint by val macro-F1.

    Writes checkpoints/best.ckpt, last.ckpt and metrics.csv into the run folder, numbering epochs from `first_epoch`.
    `chosen` are the callbacks besides the standard ones.
    """
    best = folder / "checkpoints" / BEST_CHECKPOINT
    callbacks: list[Callback] = [build_from(builder, Callback) for builder in chosen]
    callbacks += [MetricsHistory(folder, first_epoch, settings.callbacks.progress), BestCheckpoint(best.parent)]
    run_trainer(learner, learner.net, data, folder, settings, learner.stage.epochs, callbacks, logger, resume)
    if not best.is_file():
        raise DataError("No checkpoint was saved: val macro-F1 was never computed.", "Check that val has images.")
    return best


def run_trainer(
    module: pl.LightningModule,
    net: nn.Module,
    data: pl.LightningDataModule,
    folder: Path,
    settings: TrainConfig | PretrainConfig,
    epochs: int,
    callbacks: Sequence[Callback],
    logger: Logger | None,
    resume: Path | None,
) -> None:
    """Train a module, whose layers are in `net`, deterministically; write checkpoints/last.ckpt into the run folder.

    `resume` is a checkpoint to resume from; `data` must start at its position. Raises DivergedError if the loss is not
    finite; KeyboardInterrupt or SystemExit(143) after a signal, once the step is saved; OutputError if a checkpoint
    cannot be written or a loader process was killed.
    """
    suppress_framework_warnings()
    retain_freed_memory()
    options, stop = settings.trainer, StopRequest()
    if options.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.compile:
        net.compile()  # in place: wrapping in a compiled module would rename the weights
    bars = [BatchProgressBar()] if settings.callbacks.progress and sys.stderr.isatty() else []
    further_stage = resume is None and isinstance(module, Learner) and module.card.stage > 1
    last = folder / "checkpoints" / LAST_CHECKPOINT
    # must come last: its checkpoint includes the state of the other callbacks
    final = LastCheckpoint(last, settings.callbacks.save_minutes, stop, fresh=further_stage)
    # deterministic algorithms would fill all new memory first: a tenth of a small network's step
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # set by a property
    trainer = pl.Trainer(
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
        callbacks=[*bars, *callbacks, final],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_progress_bar=False,  # Lightning's bar writes to stdout
        enable_model_summary=False,
        use_distributed_sampler=False,  # EpochSampler already divides the images between processes
    )
    module.train()
    with stop.handle_signals():
        try:
            trainer.fit(module, datamodule=data, ckpt_path=str(resume) if resume else None, weights_only=True)
        except SystemExit as error:
            # Lightning has its own exit codes for signals; the command must end with ours and its last line
            if stop.asked is not None:
                stop.end()
            if error.code == 1 and trainer.interrupted:
                raise KeyboardInterrupt from error
            raise


@torch.inference_mode()
def embed(learner: Learner, batches: Iterable[dict[str, Any]], settings: TrainConfig) -> NDArray[np.float32]:
    """Compute the embeddings (N, D) of batches of images with the learner in eval mode."""
    options = settings.trainer
    learner.eval().to("cuda" if resolve_device(options.accelerator) == "cuda" else "cpu")
    if options.channels_last:
        learner.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    bar = tqdm(batches, "features", leave=False, disable=None if settings.callbacks.progress else True)
    reduced = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(resolve_precision(options))
    with torch.autocast(learner.device.type, reduced or torch.bfloat16, enabled=reduced is not None):
        embeddings = [learner(batch["image"].to(learner.device))[1].float().cpu().numpy() for batch in bar]
    return np.concatenate(embeddings)


def refuse_missing_devices(accelerator: str, devices: Any, strategy: str) -> None:
    """Raise ConfigError if the trainer options ask for devices that this machine lacks."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not (available | {"gpu": any(available.values())}).get(accelerator, True):
        raise ConfigError(
            f"trainer.accelerator={accelerator}: torch finds no GPU here.",
            "Remove the option (and trainer=gpu, which sets it), or use trainer=cpu.",
        )
    suppress_framework_warnings()
    try:
        pl.Trainer(accelerator=accelerator, devices=devices, strategy=strategy, logger=False)
    except (MisconfigurationException, ValueError) as error:
        raise ConfigError(
            f"trainer.accelerator={accelerator}, trainer.devices={devices}, trainer.strategy={strategy}: not possible "
            "on this machine.",
            " ".join(str(error).split()),
        ) from error


def resolve_device(accelerator: str) -> str:
    """Return the device type that trainer.accelerator selects on this machine: cpu, cuda or mps."""
    if accelerator == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def resolve_precision(options: TrainerConfig) -> str:
    """Return Lightning's name of the precision; "amp" is 16-mixed on CUDA and 32 elsewhere.

    Raises ConfigError for 16-mixed without a GPU, where Lightning would silently use bf16.
    """
    cuda = resolve_device(options.accelerator) == "cuda"
    if options.precision == "amp":
        return "16-mixed" if cuda else "32-true"
    if options.precision == "16-mixed" and not cuda and options.accelerator in ("auto", "cpu"):
        raise ConfigError(
            "trainer.precision=16-mixed needs a GPU, and this run has none.",
            "Expected 32, auto or bf16-mixed; amp uses 16 bits if there is a GPU.",
        )
    return "32-true" if options.precision == "32" else options.precision


def finish_checkpoint(best: Path, temperature: float) -> tuple[str, str]:
    """Store the temperature in the best checkpoint and drop its optimizer state.

    Returns the SHA-256 of the file and of its weights.
    """
    checkpoint = read_checkpoint(best)
    card = Card.from_checkpoint(checkpoint, best)
    final = {key: checkpoint[key] for key in ("state_dict", "epoch", "global_step", "pytorch-lightning_version")}
    final[CARD_KEY] = {**card.plain(), "temperature": temperature}
    write_checkpoint(final, best)
    return sha256_of_file(best), hash_weights(final["state_dict"])


def build_logger(folder: Path, settings: dict[str, Any]) -> Logger | None:
    """Build the experiment logger that the settings of a run choose; raise ConfigError if its package is missing."""
    name = settings["logger"]["name"]
    builder: LoggerBuilder = load_builder("logger", settings["logger"])
    try:
        logger: Logger | None = build_from(builder, Logger | None, folder, folder.name)
        if logger is not None:
            logger.log_hyperparams(settings)  # type: ignore[arg-type]
    except ImportError as error:
        raise ConfigError(
            f"logger={name}: its package is not installed.", f'Install it: pip install "avatar-bench[{name}]".'
        ) from error
    return logger
