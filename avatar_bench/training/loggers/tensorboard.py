"""TensorBoard, in logs/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.options import Options

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


@dataclass(kw_only=True)
class TensorBoard(Options):
    """TensorBoardLogger of Lightning."""

    def build(self, folder: Path, run_name: str) -> Logger:
        """Build the logger, which writes into logs/ of the run folder."""
        from pytorch_lightning.loggers import TensorBoardLogger

        return TensorBoardLogger(folder, name="", version="logs")
