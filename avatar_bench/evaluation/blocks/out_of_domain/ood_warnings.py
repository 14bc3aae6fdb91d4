"""What out_of_domain warns of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from avatar_bench.evaluation.ood_sets import OutOfDomainSet
from avatar_bench.i18n import _

if TYPE_CHECKING:
    from avatar_bench.results.predictions import Predictions

_FEW = 30  # images of a set below which its figures are little more than anecdotes


def explain_missing_embeddings() -> str:
    """Say why a score that is fitted on training images is not there."""
    return _("the run's training images are not known, and this score is fitted on them")


def explain_missing_logits() -> str:
    """Say why a score that is made of logits is not there."""
    return _("only probabilities are known, and this score is made of logits")


def warn_about_scores(missing: Mapping[str, str], shrinkage: float) -> list[str]:
    """Tell which scores are `missing`, each with why, and that a covariance had to be shrunk, by a weight above 0."""
    said = []
    for why in dict.fromkeys(missing.values()):
        scores = ", ".join(name for name, reason in missing.items() if reason == why)
        said.append(_("Left out: {scores}; {why}.", scores=scores, why=why))
    if shrinkage > 0:
        told = _(
            "mahalanobis: the covariance of the training embeddings is ill-conditioned and was shrunk by {weight}.",
            weight=f"{shrinkage:.2g}",
        )
        said.append(told)
    return said


def warn_about_sets(training: Predictions | None, sets: Sequence[OutOfDomainSet]) -> list[str]:
    """Tell of sets that are small, known in part, or of sources that the images of training share."""
    return [line for each in sets for line in _of_set(training, each)]


def _of_set(training: Predictions | None, each: OutOfDomainSet) -> list[str]:
    said = []
    n, known = len(each.predictions), int((each.predictions.targets >= 0).sum())
    if n < _FEW:
        said.append(_("{name} has only {n} images: see the width of the intervals.", name=each.name, n=n))
    if 0 < known < n:
        told = _(
            "The class of {n} of {all} images of {name} is not known; its accuracy leaves them out.",
            n=n - known,
            all=n,
            name=each.name,
        )
        said.append(told)
    seen = set(training.sources) & set(each.predictions.sources) - {""} if training is not None else set()
    if seen:
        told = _(
            "{name} has images of sources that training saw ({sources}): the network may know them by these.",
            name=each.name,
            sources=", ".join(sorted(seen)),
        )
        said.append(told)
    return said
