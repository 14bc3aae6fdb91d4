"""Training with Lightning: the trainer, its loader processes and its logger."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from torch import nn

from avatar_bench.console.signals import StopRequest
from avatar_bench.data.dataset import Dataset
from avatar_bench.data.file_names import format_names
from avatar_bench.data.worker_processes import ManagedLoader
from avatar_bench.errors import ConfigError, DivergedError
from avatar_bench.models.checkpoint import LAST_CHECKPOINT
from avatar_bench.training.builders import LoggerBuilder, build_from, load_builder, load_callbacks
from avatar_bench.training.checkpoints import AtomicCheckpointIO, LastCheckpoint
from avatar_bench.training.environment import is_single_process, resolve_precision
from avatar_bench.training.module import Learner
from avatar_bench.training.ranks import RankStrategy, prepare_process
from avatar_bench.training.standard_callbacks import BatchProgressBar


def run_trainer(
    module: pl.LightningModule,
    net: nn.Module,
    data: pl.LightningDataModule,
    folder: Path,
    settings: Any,
    epochs: int,
    own: Sequence[Callback],
    logger: Logger | None,
    resume: Path | None,
) -> None:
    """Train a module, whose layers are in `net`, deterministically; write checkpoints/last.ckpt into the run folder.

    `own` are the callbacks of the command; those chosen by the settings come before them, new ones for each call.
    `resume` is a checkpoint to resume from; `data` must start at its position. Raises DivergedError if the loss is not
    finite; KeyboardInterrupt or SystemExit(143) after a signal, once the step is saved; OutputError if a checkpoint
    cannot be written or a process was killed.
    """
    options, stop = settings.trainer, StopRequest()
    prepare_process(options.threads)
    if options.channels_last:
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if options.compile:
        net.compile()  # in place: wrapping in a compiled module would rename the weights
    callbacks: list[Callback] = [BatchProgressBar()]
    callbacks += [build_from(builder, Callback) for builder in load_callbacks(asdict(settings.callbacks))]
    further_stage = resume is None and isinstance(module, Learner) and module.card.stage > 1
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
        logger=logger or False,
        log_every_n_steps=1,
        callbacks=[*callbacks, *own, final],
        plugins=[AtomicCheckpointIO()],
        default_root_dir=folder,
        num_sanity_val_steps=0,
        enable_progress_bar=False,  # Lightning's bar writes to stdout
        enable_model_summary=False,
        use_distributed_sampler=False,  # RankBatches divides the images between processes
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


def build_logger(folder: Path, settings: Any) -> Logger | None:
    """Build the experiment logger that the settings of a run choose; raise ConfigError if its package is missing."""
    options = asdict(settings)
    name = settings.logger.name
    builder: LoggerBuilder = load_builder("logger", options["logger"])
    try:
        logger: Logger | None = build_from(builder, Logger | None, folder, folder.name)
        if logger is not None:
            logger.log_hyperparams(options)  # type: ignore[arg-type]
    except ImportError as error:
        raise ConfigError(
            f"logger={name}: its package is not installed.", f'Install it: pip install "avatar-bench[{name}]".'
        ) from error
    return logger
