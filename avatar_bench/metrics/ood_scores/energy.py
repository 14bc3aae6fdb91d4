"""Minus the logarithm of the sum of the exponentials of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class Energy(OodScore):
    """Minus the log-sum-exp of the logits."""

    needs_logits: ClassVar[bool] = True

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return energy(outputs.logits)


def energy(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Compute -T log sum exp(logits / T) of logits (N, C), (N,); Liu et al., NeurIPS 2020."""
    scaled: Floats = np.asarray(logits, dtype=np.float64) / temperature
    return np.asarray(-temperature * logsumexp(scaled, axis=1))
