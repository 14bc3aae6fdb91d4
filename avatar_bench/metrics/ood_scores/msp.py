"""Minus the largest softmax probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class Msp(OodScore):
    """Minus the largest softmax probability, -1 to -1/C; Hendrycks and Gimpel, ICLR 2017."""

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return np.asarray(-softmax(outputs.logits.astype(np.float64), axis=1).max(axis=1))
