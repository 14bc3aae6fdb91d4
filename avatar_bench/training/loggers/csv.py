"""Every training step in logs/metrics.csv, in addition to the run's metrics.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning.loggers import CSVLogger

from avatar_bench.config.options import Options
from avatar_bench.files.paths import find_unused_folder


@dataclass(kw_only=True)
class StepsCSV(Options):
    """CSVLogger of Lightning."""

    def build(self, folder: Path, run_name: str) -> CSVLogger:
        """Build the logger, which writes into logs/ of the run folder."""
        return CSVLogger(folder, name="", version=find_unused_folder(folder / "logs").name)
