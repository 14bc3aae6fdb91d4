"""Warnings of out_of_domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from avatar_bench.evaluation.ood_sets import OutOfDomainSet
from avatar_bench.i18n import _

if TYPE_CHECKING:
    from avatar_bench.results.predictions import Predictions

_FEW = 30  # images of a set below which its metrics are unreliable


def explain_missing_embeddings() -> str:
    """Return the reason for a missing score that is fitted on training images."""
    return _("this score is fitted on the training images, which are not available")


def explain_missing_logits() -> str:
    """Return the reason for a missing score that needs logits."""
    return _("this score needs logits, but only probabilities are available")


def warn_about_scores(missing: Mapping[str, str], shrinkage: float) -> list[str]:
    """Return warnings about `missing` scores, by reason, and about a covariance shrunk by a weight above 0."""
    messages = []
    for why in dict.fromkeys(missing.values()):
        scores = ", ".join(name for name, reason in missing.items() if reason == why)
        messages.append(_("Not computed: {scores}; {why}.", scores=scores, why=why))
    if shrinkage > 0:
        message = _(
            "mahalanobis: the covariance of the training embeddings is ill-conditioned and was shrunk by {weight}.",
            weight=f"{shrinkage:.2g}",
        )
        messages.append(message)
    return messages


def warn_about_sets(training: Predictions | None, sets: Sequence[OutOfDomainSet]) -> list[str]:
    """Return warnings about sets that are small, partly labelled, or share sources with the training images."""
    return [line for each in sets for line in _warn_about_set(training, each)]


def _warn_about_set(training: Predictions | None, each: OutOfDomainSet) -> list[str]:
    messages = []
    n, known = len(each.predictions), int((each.predictions.targets >= 0).sum())
    if n < _FEW:
        messages.append(_("{name} has only {n} images: note the wide intervals.", name=each.name, n=n))
    if 0 < known < n:
        message = _(
            "Images of {name} without a label, left out of its accuracy: {n} of {all}.",
            n=n - known,
            all=n,
            name=each.name,
        )
        messages.append(message)
    seen = set(training.sources) & set(each.predictions.sources) - {""} if training is not None else set()
    if seen:
        message = _(
            "{name} shares sources with the training data ({sources}): the network may recognise "
            "its images by their source.",
            name=each.name,
            sources=", ".join(sorted(seen)),
        )
        messages.append(message)
    return messages
