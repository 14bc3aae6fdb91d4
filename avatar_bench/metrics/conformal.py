"""Split conformal prediction: sets of classes that include the true one with a given probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import scipy  # loads its parts when they are used
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Reals = NDArray[np.floating]
Entry = TypeVar("Entry", bound=np.generic)
ScoreFunction = Callable[[Reals, Reals], Floats]  # from probabilities (N, C) and uniform numbers (N,) to scores (N, C)


def lac_scores(probabilities: Reals, uniform: Reals) -> Floats:
    """Compute LAC scores (N, C), 0 to 1: one minus the probability of each class; `uniform` is not used.

    Sadinle, Lei and Wasserman, J. Am. Stat. Assoc. 114 (2019) 223.
    """
    return np.asarray(1.0 - probabilities)


def aps_scores(probabilities: Reals, uniform: Reals) -> Floats:
    """Compute APS scores (N, C), 0 to 1: the probability of the likelier classes plus a random part of the class's own.

    The fraction `uniform` (N,), 0 to 1, of the class's own probability makes the coverage exact: without it sets would
    be too large, or empty for the most confident images. Romano, Sesia and Candes, NeurIPS 2020.
    """
    order = np.argsort(-probabilities, axis=1, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=1)
    scores = np.empty(ranked.shape)
    np.put_along_axis(scores, order, ranked.cumsum(axis=1) - (1 - uniform[:, None]) * ranked, axis=1)
    return scores


CONFORMAL_SCORES: dict[str, ScoreFunction] = {"lac": lac_scores, "aps": aps_scores}


def threshold(scores: Reals, alpha: float) -> float:
    """Compute the largest score of a class in the set, from the true classes' scores (M,) on calibration images.

    It is the ceil((M + 1) (1 - alpha))-th smallest; infinite, so that sets include every class, if M is too small.
    """
    rank = _compute_rank(len(scores), alpha)
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")


def threshold_of_units(scores: Reals, units: NDArray[np.generic], alpha: float) -> float:
    """Compute the score (of M) that an image of a new unit exceeds with a probability of at most `alpha`.

    Each of K units weighs 1 / (K + 1), shared by its images; infinite if K is below 1 / alpha - 1. Units of one image
    give `threshold`. Lee, Barber and Willett, "Distribution-free inference with hierarchical data" (2023).
    """
    _, inverse, counts = np.unique(units, return_inverse=True, return_counts=True)
    order = np.argsort(scores, kind="stable")
    reached = np.cumsum(1 / ((len(counts) + 1) * counts[inverse[order]])) >= 1 - alpha - 1e-9
    return float(scores[order][reached][0]) if reached.any() else float("inf")


def compute_loss_probability(covered: float, n: int, n_fit: int, alpha: float) -> float:
    """Compute how probable it is that at most `covered` of n new images have the true class in their set.

    That is for images like the n_fit ones of the fit, of which the k-th smallest score is the threshold: the coverage
    of a threshold is a draw from Beta(k, n_fit + 1 - k), so that the number is one from BetaBinomial(n, k, n_fit + 1 -
    k). With ties of scores it is at most as probable. Vovk, Mach. Learn. 92 (2013) 349.
    """
    rank = _compute_rank(n_fit, alpha)
    return float(scipy.stats.betabinom.cdf(covered, n, rank, n_fit + 1 - rank)) if rank <= n_fit else 1.0


def _compute_rank(n: int, alpha: float) -> int:
    return int(np.ceil((n + 1) * (1 - alpha) - 1e-9))  # 1 - .1 is not exactly .9


def select_targets(scores: NDArray[Entry], targets: NDArray[np.integer]) -> NDArray[Entry]:
    """Return the entry of each image's true class, (N,), of scores or membership (N, C)."""
    return np.asarray(scores[np.arange(len(targets)), targets])
