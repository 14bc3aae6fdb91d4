"""Minus the largest softmax probability."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import softmax

from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class Msp(OodScore):
    """Minus the largest softmax probability."""

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return msp(outputs.logits)


def msp(logits: ArrayLike) -> Floats:
    """Compute minus the largest softmax probability of logits (N, C), (N,), -1 to -1/C.

    Hendrycks and Gimpel, ICLR 2017.
    """
    probabilities: Floats = softmax(np.asarray(logits, dtype=np.float64), axis=1)
    return np.asarray(-probabilities.max(axis=1))
