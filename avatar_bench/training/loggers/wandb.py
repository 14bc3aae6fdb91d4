"""Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning.loggers import WandbLogger

from avatar_bench.config.options import Options, option


@dataclass(kw_only=True)
class WeightsAndBiases(Options):
    """WandbLogger of Lightning."""

    project: str = option(help="project that the run belongs to")
    offline: bool = option(help="write into logs/ and upload nothing")

    def build(self, folder: Path, run_name: str) -> WandbLogger:
        """Build the logger, which writes into logs/ of the run folder."""
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        return WandbLogger(run_name, logs, project=self.project, offline=self.offline)
