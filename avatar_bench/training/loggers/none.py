"""Nothing beyond the run folder's metrics.csv."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from avatar_bench.config.options import Options


@dataclass(kw_only=True)
class NoLogger(Options):
    """Absence of a logger."""

    def build(self, folder: Path, run_name: str) -> None:
        """Build nothing."""
