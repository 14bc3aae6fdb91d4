"""Strategies for averaging several classifiers, fitted on calibration images only.

A strategy receives the logits (M, N, C) of M members on N calibration images, their targets (N,) and groups (N,), but
no test data, so that its weights cannot depend on the evaluation. The tests check this for every entry of STRATEGIES.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_softmax, logsumexp, softmax

from avatar_bench.metrics import calibration

Floats = NDArray[np.float64]
Targets = NDArray[np.integer]
GREEDY_ROUNDS = 25  # of greedy selection, so that weights are multiples of 4 %


class AveragingWeights(NamedTuple):
    """Temperatures of the members' logits and weights of their probabilities, both (M,); weights sum to 1."""

    weights: Floats
    temperatures: Floats


Strategy = Callable[[Floats, Targets, ArrayLike], AveragingWeights]


def soft_vote(logits: Floats, targets: Targets, groups: ArrayLike) -> AveragingWeights:
    """Return equal weights for all members."""
    return _normalise_weights(np.ones(len(logits)))


def scaled_vote(logits: Floats, targets: Targets, groups: ArrayLike) -> AveragingWeights:
    """Return equal weights, with each member's own temperature, 1 where the fitted one is not applied."""
    return AveragingWeights(np.full(len(logits), 1 / len(logits)), _fit_temperatures(logits, targets, groups))


def accuracy_ece(logits: Floats, targets: Targets, groups: ArrayLike) -> AveragingWeights:
    """Return weights proportional to accuracy x (1 - ECE) with 15 bins; equal if no member is ever correct.

    The ECE is that of each member's probabilities at its temperature, as a user gets them: a missing temperature, which
    is fitted in any case, does not count against a member. It is fitted on the same calibration images, so that the ECE
    is a little too small; neither uses the evaluated images.
    """
    temperatures = _fit_temperatures(logits, targets, groups)
    scaled = np.asarray(softmax(logits / temperatures[:, None, None], axis=2))
    outcomes = zip(scaled.max(axis=2), scaled.argmax(axis=2) == targets, strict=True)
    scores = [float(correct.mean() * (1 - calibration.ece(confidence, correct))) for confidence, correct in outcomes]
    return _normalise_weights(np.array(scores) if any(scores) else np.ones(len(logits)))


def greedy(logits: Floats, targets: Targets, groups: ArrayLike) -> AveragingWeights:
    """Return weights by greedy forward selection, with replacement, for the lowest log loss; keep the best step.

    Ties go to the first member and to the smaller ensemble. Caruana et al., ICML 2004.
    """
    true_class = np.asarray(softmax(logits, axis=2))[:, np.arange(len(targets)), targets]
    total, counts = np.zeros(len(targets)), np.zeros(len(logits))
    best, kept = np.inf, counts
    for size in range(1, GREEDY_ROUNDS + 1):
        losses = -np.log(np.maximum((total + true_class) / size, np.finfo(float).tiny)).mean(axis=1)
        chosen = int(losses.argmin())
        total, counts = total + true_class[chosen], counts + np.eye(len(logits))[chosen]
        if losses[chosen] < best - 1e-12:
            best, kept = float(losses[chosen]), counts
    return _normalise_weights(kept)


STRATEGIES: dict[str, Strategy] = {
    "soft_vote": soft_vote,
    "accuracy_ece": accuracy_ece,
    "greedy": greedy,
    "scaled_vote": scaled_vote,
}


def average_probabilities(logits: ArrayLike, mix: AveragingWeights) -> Floats:
    """Compute the logarithm of the weighted mean probability, (N, C), from the members' logits (M, N, C).

    Working with logarithms avoids underflow; the softmax of the result is the mean probability.
    """
    scaled = np.asarray(logits, dtype=np.float64) / mix.temperatures[:, None, None]
    return np.asarray(logsumexp(log_softmax(scaled, axis=2), axis=0, b=mix.weights[:, None, None]))


def average_logits(logits: ArrayLike, mix: AveragingWeights) -> Floats:
    """Compute logits (N, C) of an average of members with logits (M, N, C).

    Their softmax is the weighted mean probability. Their log-sum-exp, which does not affect the softmax, is the
    weighted mean of the members' log-sum-exps before temperatures, so that the energy is the mean energy.
    """
    levels = mix.weights @ logsumexp(np.asarray(logits, dtype=np.float64), axis=2)
    return np.asarray(average_probabilities(logits, mix) + levels[:, None])


def find_best_member(logits: Floats, targets: Targets) -> int:
    """Return the index of the most accurate member; ties go to the lower log loss, then to the first."""
    accuracies = (logits.argmax(axis=2) == targets).mean(axis=1)
    losses = np.array([calibration.nll(member, targets) for member in logits])
    return int(np.lexsort((losses, -accuracies))[0])


def select_greedy_soup(scores: Sequence[float], score_average: Callable[[list[int]], float]) -> list[int]:
    """Select soup members, best first, keeping each one that does not lower the score of the average.

    `scores` (M,) are the members' own, `score_average` returns that of the average of some; higher is better and ties
    go to the first. Wortsman et al., ICML 2022.
    """
    order = [int(member) for member in np.argsort(-np.asarray(scores), kind="stable")]
    kept, reached = order[:1], scores[order[0]]
    for member in order[1:]:
        score = score_average([*kept, member])
        if score >= reached:
            kept, reached = [*kept, member], score
    return kept


def _fit_temperatures(logits: Floats, targets: Targets, groups: ArrayLike) -> Floats:
    return np.array([calibration.fit_temperature_of_logits(member, targets, groups).value for member in logits])


def _normalise_weights(weights: Floats) -> AveragingWeights:
    return AveragingWeights(weights / weights.sum(), np.ones(len(weights)))
