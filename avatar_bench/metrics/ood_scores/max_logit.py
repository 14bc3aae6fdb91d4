"""Minus the largest logit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class MaxLogit(OodScore):
    """Minus the largest logit."""

    needs_logits: ClassVar[bool] = True

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return max_logit(outputs.logits)


def max_logit(logits: ArrayLike) -> Floats:
    """Compute minus the largest of logits (N, C), (N,); Hendrycks et al., ICML 2022."""
    return np.asarray(-np.asarray(logits, dtype=np.float64).max(axis=1))
