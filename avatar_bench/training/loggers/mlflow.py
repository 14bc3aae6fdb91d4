"""MLflow, in logs/."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pytorch_lightning.loggers import MLFlowLogger

from avatar_bench.config.options import Options, option


@dataclass(kw_only=True)
class MLflow(Options):
    """MLFlowLogger of Lightning."""

    project: str = option(help="project that the run belongs to")

    def build(self, folder: Path, run_name: str) -> MLFlowLogger:
        """Build the logger, which writes into logs/ of the run folder."""
        logs = folder / "logs"
        logs.mkdir(exist_ok=True)
        return MLFlowLogger(self.project, run_name, tracking_uri=f"sqlite:///{logs / 'mlflow.db'}")
