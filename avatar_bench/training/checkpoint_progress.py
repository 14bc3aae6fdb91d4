"""Progress: how far a checkpoint has come, and which one a training goes on from."""

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
    """Hold how far a checkpoint has come: its stage, from 1, whole epochs of that, and batches of the next.

    `stopped` says that no epoch of the stage is to follow.
    """

    stage: int
    epochs: int
    batches: int
    is_stopped: bool

    @classmethod
    def read(cls, file: Path, staged: bool = True) -> CheckpointProgress:
        """Read it from last.ckpt or the one before; raise CheckpointError where it cannot be gone on from there.

        A pretraining is not `staged`: its checkpoints bear no card.
        """
        verify_checkpoint(file)
        checkpoint = read_checkpoint(file)
        stage = Card.from_checkpoint(checkpoint, file).stage if staged else 1
        try:
            epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
            within = checkpoint.get(PROGRESS_KEY, {"batches": 0, "stopped": False})
            return cls(stage, int(epochs), int(within["batches"]), bool(within["stopped"]))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{file} holds no state of a training that could go on.") from error


def find_newest_checkpoint(folder: Path, staged: bool = True) -> tuple[Path | None, CheckpointProgress | None]:
    """Give the checkpoint to go on from, last.ckpt or else the one before, and how far it is; None where none was made.

    Raise CheckpointError where none of those that were made is whole.
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
                print_line(f"warning: {damage.lines[0]} Goes on from {file.name}.", file=sys.stderr)
            return file, at
    if damage:
        raise CheckpointError(
            damage.lines[0], f"{PREVIOUS_CHECKPOINT} is damaged or gone as well: train anew, with another out=DIR."
        )
    return None, None


def _is_best_newer(best: Path, at: CheckpointProgress) -> bool:
    """Say whether best.ckpt, where the next stage begins, is that of a later stage already."""
    verify_checkpoint(best)
    return best.is_file() and Card.from_checkpoint(read_checkpoint(best), best).stage > at.stage
