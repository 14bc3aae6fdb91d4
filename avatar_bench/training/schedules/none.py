"""A constant learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avatar_bench.config.options import Options


@dataclass(kw_only=True)
class NoSchedule(Options):
    """Absence of a schedule."""

    def build(self, optimizer: Any, steps: int, epochs: int) -> None:
        """Leave the learning rate as it is."""
