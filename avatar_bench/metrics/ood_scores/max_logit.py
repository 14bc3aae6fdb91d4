"""Minus the largest logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class MaxLogit(OodScore):
    """Minus the largest logit; Hendrycks et al., ICML 2022."""

    needs_logits: ClassVar[bool] = True

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return np.asarray(-outputs.logits.astype(np.float64).max(axis=1))
