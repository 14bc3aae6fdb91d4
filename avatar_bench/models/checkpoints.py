"""Files of checkpoints: written whole, with their checksum, and read as plain data alone."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import TorchCheckpointIO

from avatar_bench.errors import CheckpointError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write a checkpoint complete or not at all, with its .sha256 beside it, and read it as plain data only."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write to a temporary file in the same folder, flush it to the disk, and rename it."""
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.part")
        with part.open("wb") as stream:
            torch.save(checkpoint, stream)
            stream.flush()
            os.fsync(stream.fileno())
        digest = checksum_of(part)
        part.replace(file)
        side = _side(file)
        part = side.with_name(f"{side.name}.part")
        part.write_text(f"{digest}  {file.name}\n", encoding="utf-8")
        part.replace(side)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Load tensors and plain types, whatever was asked for."""
        verify(Path(path))
        return read_checkpoint(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        """Remove the file and its checksum."""
        super().remove_checkpoint(path)
        _side(Path(path)).unlink(missing_ok=True)


def checksum_of(file: Path) -> str:
    """Give a checkpoint's SHA-256, as hex digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def verify(file: Path) -> None:
    """Raise CheckpointError where a checkpoint is not what its .sha256 says; without one, say nothing."""
    side = _side(file)
    if file.is_file() and side.is_file() and side.read_text(encoding="utf-8").split()[:1] != [checksum_of(file)]:
        raise CheckpointError(
            f"{file} is damaged: its SHA-256 is not the one in {side.name}.",
            "Use another checkpoint of the run, or train again.",
        )


def read_checkpoint(file: Path) -> dict[str, Any]:
    """Read a checkpoint file as tensors and plain types alone; raise CheckpointError where that cannot be done."""
    if not file.is_file():
        raise CheckpointError(f"{file} is not a file.", "Expected a checkpoint, such as RUN/checkpoints/best.ckpt.")
    try:
        # weights_only stands here even against the environment variable that turns it off
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and storage errors of many types
        raise CheckpointError(
            f"{file} cannot be read as a checkpoint ({type(error).__name__}).",
            "It is damaged, or holds more than tensors and plain values, which is never loaded.",
        ) from error
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{file} holds no checkpoint.")
    return checkpoint


def weights_sha256(state: dict[str, torch.Tensor]) -> str:
    """Give the SHA-256 of all tensors by name, whatever else their file holds."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _side(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")
