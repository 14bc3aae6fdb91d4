"""End of a stage after epochs without improvement of val macro-F1."""

from __future__ import annotations

from dataclasses import dataclass

from pytorch_lightning import callbacks

from avatar_bench.config.options import Options, option
from avatar_bench.runs.record import METRIC


@dataclass(kw_only=True)
class EarlyStopping(Options):
    """EarlyStopping of Lightning."""

    patience: int = option(help="epochs without improvement")

    def build(self) -> callbacks.Callback:
        """Build the callback of one stage."""
        return callbacks.EarlyStopping(METRIC, mode="max", patience=self.patience, check_finite=False)
