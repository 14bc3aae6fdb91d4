"""Every training step in logs/metrics.csv, in addition to the run's metrics.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from avatar_bench.config.options import Options
from avatar_bench.files.paths import find_unused_folder

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


@dataclass(kw_only=True)
class StepsCSV(Options):
    """CSVLogger of Lightning."""

    def build(self, folder: Path, run_name: str) -> Logger:
        """Build the logger, which writes into logs/ of the run folder."""
        from pytorch_lightning.loggers import CSVLogger

        return CSVLogger(folder, name="", version=find_unused_folder(folder / "logs").name)
