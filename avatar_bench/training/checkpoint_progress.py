"""Training progress stored in a checkpoint, and the choice of the checkpoint to resume from."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from avatar_bench.console.terminal import print_line
from avatar_bench.errors import CheckpointError
from avatar_bench.models.checkpoint import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    PREVIOUS_CHECKPOINT,
    read_checkpoint,
    verify_checkpoint,
)
from avatar_bench.models.model_card import Card

PROGRESS_KEY = "progress"


@dataclass(frozen=True)
class CheckpointProgress:
    """Position of a checkpoint in training: stage (from 1), epochs completed in it, batches done of the next epoch.

    `is_stopped` means that early stopping has ended the stage.
    """

    stage: int
    epochs: int
    batches: int
    is_stopped: bool

    @classmethod
    def read(cls, file: Path, staged: bool = True) -> CheckpointProgress:
        """Read the position from a checkpoint; raise CheckpointError if training cannot resume from it.

        Pretraining is not `staged`: its checkpoints have no card.
        """
        verify_checkpoint(file)
        checkpoint = read_checkpoint(file)
        stage = Card.from_checkpoint(checkpoint, file).stage if staged else 1
        try:
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            stored = checkpoint.get(PROGRESS_KEY, {"batches": 0, "stopped": False})
            return cls(stage, int(epochs), int(stored["batches"]), bool(stored["stopped"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file} holds no training state to resume from.") from error


def find_newest_checkpoint(folder: Path, staged: bool = True) -> tuple[Path | None, CheckpointProgress | None]:
    """Find the checkpoint to resume from (last.ckpt, else before.ckpt) and its position; None if none was written.

    Raises CheckpointError if every checkpoint that was written is damaged.
    """
    damage = None
    for file in (folder / LAST_CHECKPOINT, folder / PREVIOUS_CHECKPOINT):
        try:
            at = CheckpointProgress.read(file, staged) if file.is_file() else None
        except CheckpointError as error:
            damage = damage or error
            continue
        if at and not _is_best_newer(folder / BEST_CHECKPOINT, at):
            if damage:
                print_line(f"warning: {damage.lines[0]} Resuming from {file.name}.", file=sys.stderr)
            return file, at
    if damage:
        raise CheckpointError(
            damage.lines[0], f"{PREVIOUS_CHECKPOINT} is damaged or missing too: train again with another out=DIR."
        )
    return None, None


def _is_best_newer(best: Path, at: CheckpointProgress) -> bool:
    """Return whether best.ckpt, from which the next stage starts, already belongs to a later stage."""
    verify_checkpoint(best)
    return best.is_file() and Card.from_checkpoint(read_checkpoint(best), best).stage > at.stage
