"""Warnings of the integrated score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from avatar_bench.evaluation.blocks.integrated_score.score_inputs import RunQualities
from avatar_bench.evaluation.blocks.integrated_score.score_tables import RankedModel
from avatar_bench.i18n import _

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run


def collect_warnings(
    runs: Sequence[Run], readings: Sequence[RunQualities], models: Sequence[RankedModel], qualities: Sequence[str]
) -> list[str]:
    """Return warnings about unranked models, incomparable or noisy values, and averaged runs."""
    messages = _warn_about_incomplete(models)
    for key in qualities:
        messages += _warn_about_basis(key, runs, readings)
    for run, reading in zip(runs, readings, strict=True):
        if reading.no_interval_reason and "speed" in qualities:
            messages.append(
                _("The speed of {name} has no interval: {reason}.", name=run.label, reason=reading.no_interval_reason)
            )
    averaged = [model.name for model in models if len(model.members) > 1]
    if averaged:
        messages.append(_("Runs that differ only in the seed are averaged: {names}.", names=", ".join(averaged)))
    return messages


def _warn_about_incomplete(models: Sequence[RankedModel]) -> list[str]:
    lacking = [model.name for model in models if model.missing]
    if not lacking:
        return []
    message = _(
        "Models that lack a quality ({n} of {all}) and are not ranked: {names}.",
        n=len(lacking),
        all=len(models),
        names=", ".join(lacking),
    )
    return [message]


def _warn_about_basis(key: str, runs: Sequence[Run], readings: Sequence[RunQualities]) -> list[str]:
    """Return a warning if the values of a quality come from different images, options or machines."""
    groups: dict[str, list[str]] = {}
    for run, reading in zip(runs, readings, strict=True):
        if key in reading.values:
            groups.setdefault(reading.basis[key], []).append(run.label)
    if len(groups) < 2:
        return []
    names = " | ".join(", ".join(labels) for labels in groups.values())
    if key == "speed":
        return [
            _("Speed was measured on different machines or with different numbers of threads: {groups}.", groups=names)
        ]
    return [
        _(
            "{quality} was measured on different images or with different options: {groups}.",
            quality=key,
            groups=names,
        )
    ]
