"""Checkpoints of a training: their writers, the one to resume from, and the final one."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from avatar_bench.console.signals import StopRequest
from avatar_bench.console.terminal import print_note
from avatar_bench.errors import CheckpointError, OutputError
from avatar_bench.files.hashes import sha256_of_file
from avatar_bench.models.checkpoint import (
    BEST_CHECKPOINT,
    CARD_KEY,
    LAST_CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    hash_weights,
    read_checkpoint,
    remove_checkpoint,
    verify_checkpoint,
    write_checkpoint,
)
from avatar_bench.models.model_card import Card
from avatar_bench.models.stages import Stage
from avatar_bench.training.module import Learner

PROGRESS_KEY = "progress"


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
        remove_checkpoint(Path(path))


class BestCheckpoint(ModelCheckpoint):
    """Checkpoint with the highest value of `monitor`, in a run folder that may have moved since training started."""

    def __init__(self, folder: Path, monitor: str) -> None:
        super().__init__(
            folder,
            Path(BEST_CHECKPOINT).stem,
            monitor=monitor,
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
        stopped = self.stop.asked is not None
        stopped, is_due = trainer.strategy.broadcast((stopped, stopped or waited >= self.seconds))
        if is_due:
            trainer.save_checkpoint(self.file)
            self.saved = time.monotonic()
        if stopped:
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


@dataclass(frozen=True)
class CheckpointProgress:
    """Position of a checkpoint: stage (from 1), epochs completed, batches of the next; is_stopped: stopped early."""

    file: Path
    stage: int
    epochs: int
    batches: int
    is_stopped: bool

    @classmethod
    def read(cls, file: Path) -> CheckpointProgress:
        """Read the position from a checkpoint, in stage 1 without a card; raise CheckpointError if it holds none."""
        verify_checkpoint(file)
        checkpoint = read_checkpoint(file)
        stage = Card.from_checkpoint(checkpoint, file).stage if CARD_KEY in checkpoint else 1
        try:
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            stored = checkpoint.get(PROGRESS_KEY, {"batches": 0, "stopped": False})
            return cls(file, stage, int(epochs), int(stored["batches"]), bool(stored["stopped"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file} holds no training state to resume from.") from error


def find_newest_checkpoint(folder: Path) -> CheckpointProgress | None:
    """Read the position of last.ckpt, else before.ckpt, if written; raise CheckpointError if all are damaged."""
    damage = None
    for file in (folder / LAST_CHECKPOINT, folder / PREVIOUS_CHECKPOINT):
        try:
            at = CheckpointProgress.read(file) if file.is_file() else None
        except CheckpointError as error:
            damage = damage or error
            continue
        if at and not _is_best_newer(folder / BEST_CHECKPOINT, at):
            if damage:
                print_note(f"warning: {damage.lines[0]} Resuming from {file.name}.")
            return at
    if damage:
        raise CheckpointError(
            damage.lines[0], f"{PREVIOUS_CHECKPOINT} is damaged or missing too: train again with another out=DIR."
        )
    return None


def _is_best_newer(best: Path, at: CheckpointProgress) -> bool:
    """Return whether best.ckpt, from which the next stage starts, already belongs to a later stage."""
    verify_checkpoint(best)
    return best.is_file() and Card.from_checkpoint(read_checkpoint(best), best).stage > at.stage


def finish_checkpoint(best: Path, temperature: float) -> tuple[str, str]:
    """Store the temperature in the best checkpoint, without optimizer state; return the SHA-256 of file and weights."""
    checkpoint = read_checkpoint(best)
    card = Card.from_checkpoint(checkpoint, best)
    final = {key: checkpoint[key] for key in ("state_dict", "epoch", "global_step", "pytorch-lightning_version")}
    final[CARD_KEY] = {**card.plain(), "temperature": temperature}
    write_checkpoint(final, best)
    return sha256_of_file(best), hash_weights(final["state_dict"])


def check_disk_space(folder: Path, learner: Learner, stages: list[Stage]) -> None:
    """Raise OutputError before training if the disk has no room for the checkpoints."""
    net = learner.net
    weights = sum(value.nbytes for value in net.state_dict().values())
    trained = (sum(net.get_parameter(name).nbytes for name in learner.begin(stage)) for stage in stages)
    learning = max(trained, default=0)
    # best, last, previous and next checkpoint, each with two optimizer moments per trained parameter
    needed, free = 4 * (weights + 2 * learning) + 2**24, shutil.disk_usage(folder).free
    if free < needed:
        raise OutputError(
            f"out={folder}: {free / 2**20:.0f} MiB are free; the checkpoints of this run need {needed / 2**20:.0f}.",
            "Free some space, or choose a folder on another disk: out=DIR",
        )
