"""Scores of images that are out of a network's domain, one module each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from avatar_bench.config.options import Options

Floats = NDArray[np.float64]


class NetworkOutputs(Protocol):
    """Outputs of a network for N images."""

    @property
    def logits(self) -> NDArray[Any]:
        """Return the logits before any temperature, (N, C); log probabilities where there are no logits."""

    @property
    def embeddings(self) -> NDArray[Any]:
        """Return the features before the classifier, (N, D)."""

    @property
    def targets(self) -> NDArray[Any]:
        """Return the true classes, (N,), -1 where unknown."""


@dataclass(kw_only=True)
class OodScore(Options):
    """Score of images by the outputs of a network: the higher, the more likely an image is out of domain.

    A subclass adds its options as fields. With `needs_logits` it is left out where there are only probabilities, with
    `needs_training` where the training images are not known; otherwise `fit` is called first.
    """

    needs_logits: ClassVar[bool] = False
    needs_training: ClassVar[bool] = False

    def fit(self, training: NetworkOutputs) -> None:
        """Fit the score to the outputs for the training images."""

    def score(self, outputs: NetworkOutputs) -> Floats:
        """Compute the score of N images, (N,)."""
        raise NotImplementedError
