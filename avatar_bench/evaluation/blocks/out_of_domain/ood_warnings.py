"""Warnings of out_of_domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from avatar_bench.evaluation.ood_sets import OutOfDomainSet
from avatar_bench.results.reasons import Reason

if TYPE_CHECKING:
    from avatar_bench.results.predictions import Predictions

_FEW = 30  # images of a set below which its metrics are unreliable


def warn_about_scores(missing: Mapping[str, Reason], shrinkage: float) -> list[Reason]:
    """Return warnings about `missing` scores, by reason, and about a covariance shrunk by a weight above 0."""
    found = [
        Reason("not_computed", scores=[name for name, reason in missing.items() if reason == why], why=why)
        for why in dict.fromkeys(missing.values())
    ]
    return found + ([Reason("shrunk", weight=shrinkage)] if shrinkage > 0 else [])


def warn_about_sets(training: Predictions | None, sets: Sequence[OutOfDomainSet]) -> list[Reason]:
    """Return warnings about sets that are small, partly labelled, or share sources with the training images."""
    return [warning for each in sets for warning in _warn_about_set(training, each)]


def _warn_about_set(training: Predictions | None, each: OutOfDomainSet) -> Iterator[Reason]:
    n, known = len(each.predictions), int((each.predictions.targets >= 0).sum())
    if n < _FEW:
        yield Reason("few_images", name=each.name, n=n)
    if 0 < known < n:
        yield Reason("partly_labelled", name=each.name, n=n - known, all=n)
    seen = set(training.sources) & set(each.predictions.sources) - {""} if training is not None else set()
    if seen:
        yield Reason("shared_sources", name=each.name, sources=sorted(seen))
