"""Strategies of averaging several classifiers, each fitted on calibration images alone.

A strategy gets the logits (M, N, C) that M members give to N calibration images, and these images' targets (N,), and
nothing else: what is judged later has no way into its weights. The tests hold every entry of STRATEGIES to that.
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
GREEDY_ROUNDS = 25  # of greedy selection: weights are multiples of 4 % at most


class AveragingWeights(NamedTuple):
    """Hold what each member's logits are divided by, and what its probabilities weigh, both (M,); weights sum to 1."""

    weights: Floats
    temperatures: Floats


Strategy = Callable[[Floats, Targets], AveragingWeights]


def soft_vote(logits: Floats, targets: Targets) -> AveragingWeights:
    """Weigh all members alike."""
    return _normalise_weights(np.ones(len(logits)))


def scaled_vote(logits: Floats, targets: Targets) -> AveragingWeights:
    """Weigh all members alike, each scaled by its own temperature first."""
    temperatures = np.array([calibration.fit_temperature(member, targets) for member in logits])
    return AveragingWeights(np.full(len(logits), 1 / len(logits)), temperatures)


def accuracy_ece(logits: Floats, targets: Targets) -> AveragingWeights:
    """Weigh a member by its accuracy times 1 - ECE (15 bins); all alike where no member is ever right."""
    scores = [_score_accuracy_ece(np.asarray(softmax(member, axis=1)), targets) for member in logits]
    return _normalise_weights(np.array(scores) if any(scores) else np.ones(len(logits)))


def greedy(logits: Floats, targets: Targets) -> AveragingWeights:
    """Add the member, one and the same as often as it helps, that leaves the lowest log loss, and keep the best of all.

    Of equals the first is added and the smallest kept. Caruana et al., ICML 2004.
    """
    own = np.asarray(softmax(logits, axis=2))[:, np.arange(len(targets)), targets]
    total, counts = np.zeros(len(targets)), np.zeros(len(logits))
    best, kept = np.inf, counts
    for size in range(1, GREEDY_ROUNDS + 1):
        losses = -np.log(np.maximum((total + own) / size, np.finfo(float).tiny)).mean(axis=1)
        chosen = int(losses.argmin())
        total, counts = total + own[chosen], counts + np.eye(len(logits))[chosen]
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
    """Give the logarithm of the weighted mean probability, (N, C), of members' logits (M, N, C).

    Its softmax is the mean probability itself, and nothing underflows.
    """
    scaled = np.asarray(logits, dtype=np.float64) / mix.temperatures[:, None, None]
    return np.asarray(logsumexp(log_softmax(scaled, axis=2), axis=0, b=mix.weights[:, None, None]))


def average_logits(logits: ArrayLike, mix: AveragingWeights) -> Floats:
    """Return logits (N, C) of an average of members whose logits are (M, N, C).

    Their softmax is the weighted mean probability. Their log-sum-exp, which softmax does not depend on, is the weighted
    mean of the members' own, of the logits before temperatures: their energy is the mean energy.
    """
    levels = mix.weights @ logsumexp(np.asarray(logits, dtype=np.float64), axis=2)
    return np.asarray(average_probabilities(logits, mix) + levels[:, None])


def find_best_member(logits: Floats, targets: Targets) -> int:
    """Give the position of the member of highest accuracy; of equals the one of lowest log loss, then the first."""
    accuracies = (logits.argmax(axis=2) == targets).mean(axis=1)
    losses = np.array([calibration.nll(member, targets) for member in logits])
    return int(np.lexsort((losses, -accuracies))[0])


def select_greedy_soup(scores: Sequence[float], judge: Callable[[list[int]], float]) -> list[int]:
    """Give the members whose average is kept: best first, each stays if the score of all so far does not fall.

    `scores` (M,) are the members' own, `judge` gives that of the average of some, and more is better; of equals the
    first comes first. Wortsman et al., ICML 2022.
    """
    order = [int(member) for member in np.argsort(-np.asarray(scores), kind="stable")]
    kept, reached = order[:1], scores[order[0]]
    for member in order[1:]:
        score = judge([*kept, member])
        if score >= reached:
            kept, reached = [*kept, member], score
    return kept


def _normalise_weights(weights: Floats) -> AveragingWeights:
    return AveragingWeights(weights / weights.sum(), np.ones(len(weights)))


def _score_accuracy_ece(probabilities: Floats, targets: Targets) -> float:
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == targets
    error = calibration.ece(confidence, correct, calibration.equal_width_edges(calibration.ECE_BINS))
    return float(correct.mean() * (1 - error))
