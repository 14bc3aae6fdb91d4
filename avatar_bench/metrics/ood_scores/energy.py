"""Minus the logarithm of the sum of the exponentials of the logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy.special import logsumexp

from avatar_bench.metrics.ood_scores import Floats, NetworkOutputs, OodScore


@dataclass(kw_only=True)
class Energy(OodScore):
    """Minus the log-sum-exp of the logits; Liu et al., NeurIPS 2020."""

    needs_logits: ClassVar[bool] = True

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        return np.asarray(-logsumexp(outputs.logits.astype(np.float64), axis=1))
