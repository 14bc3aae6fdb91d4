"""TensorBoard, in logs/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning.loggers import TensorBoardLogger

from avatar_bench.config.options import Options


@dataclass(kw_only=True)
class TensorBoard(Options):
    """TensorBoardLogger of Lightning."""

    def build(self, folder: Path, run_name: str) -> TensorBoardLogger:
        """Build the logger, which writes into logs/ of the run folder."""
        return TensorBoardLogger(folder, name="", version="logs")
