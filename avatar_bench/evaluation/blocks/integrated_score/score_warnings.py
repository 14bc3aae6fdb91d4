"""Warnings of the integrated score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from avatar_bench.evaluation.blocks.integrated_score.score_inputs import Reading
from avatar_bench.i18n import _

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run


def warn_about_incomplete(scores: pd.DataFrame) -> list[str]:
    """Return a warning about models that are not ranked."""
    lacking = scores.loc[~scores["complete"], "run"]
    if lacking.empty:
        return []
    message = _(
        "Models that lack a quality ({n} of {all}) and are not ranked: {names}.",
        n=len(lacking),
        all=len(scores),
        names=", ".join(lacking),
    )
    return [message]


def warn_about_basis(runs: Sequence[Run], readings: Sequence[Reading], qualities: Sequence[str]) -> list[str]:
    """Return a warning for each quality whose values come from different images, options or machines."""
    messages = []
    for key in qualities:
        groups: dict[str, list[str]] = {}
        for run, reading in zip(runs, readings, strict=True):
            if not reading[key].missing:
                groups.setdefault(reading[key].basis, []).append(run.label)
        names = " | ".join(", ".join(labels) for labels in groups.values())
        if len(groups) > 1 and key == "speed":
            message = _(
                "Speed was measured on different machines or with different numbers of threads: {groups}.", groups=names
            )
            messages.append(message)
        elif len(groups) > 1:
            message = _(
                "{quality} was measured on different images or with different options: {groups}.",
                quality=key,
                groups=names,
            )
            messages.append(message)
    return messages


def warn_about_clipped(models: pd.DataFrame, settings: pd.DataFrame) -> list[str]:
    """Return a warning for each quality with values outside its fixed range."""
    messages = []
    for key, ends in settings.set_index("quality")[["worst", "best"]].iterrows():
        if key in models:
            cut = models.loc[(models[key] < ends.min()) | (models[key] > ends.max()), "run"]
            if len(cut):
                message = _(
                    "{quality} lies outside its range and is clipped: {names}.", quality=key, names=", ".join(cut)
                )
                messages.append(message)
    return messages
