"""Tables of robustness."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from avatar_bench.data.corruptions import Corruption, Variation
from avatar_bench.metrics import classification
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.result import INFERENCE_COLUMNS, Metric


def tabulate_severities(
    accuracies: Mapping[str, Metric], variations: Mapping[str, Variation], n: int, resembled: Collection[str] | None
) -> pd.DataFrame:
    """Return accuracy by corruption and severity, clean as severity 0.

    `resembled` are the corruptions that the augmentation of training resembles, None if unknown.
    """
    clean = accuracies["clean"]
    rows: list[tuple[Any, ...]] = [("clean", 0, "", *_get_ends(clean), n, *clean.inference.values(), None)]
    for name, variation in variations.items():
        if isinstance(variation, Corruption):
            kind, seen = variation.kind, _mark(variation.kind, resembled)
            numbers = (*_get_ends(accuracies[name]), n, *accuracies[name].inference.values())
            rows.append((kind, variation.severity, str(variation.parameter), *numbers, seen))
    columns = ["corruption", "severity", "parameter", "accuracy", "low", "high", "n", *INFERENCE_COLUMNS, "resembled"]
    return pd.DataFrame(rows, columns=columns)


def tabulate_delivery(
    metrics: Mapping[str, Metric], tiers: Sequence[str], n: int, resembled: Collection[str] | None
) -> pd.DataFrame:
    """Return the accuracy after each tier, its drop, and whether training resembles the tier, None if unknown."""
    names = {tier: f"delivery/{tier}" for tier in tiers}
    rows = [
        (
            *(tier, *_get_ends(metrics[name]), n, *metrics[name].inference.values()),
            *(*_get_ends(metrics[f"drop/{name}"]), _mark(name, resembled)),
        )
        for tier, name in names.items()
    ]
    columns = ["tier", "accuracy", "low", "high", "n", *INFERENCE_COLUMNS]
    columns += ["drop", "drop_low", "drop_high", "resembled"]
    return pd.DataFrame(rows, columns=columns)


def tabulate_recalls(found: Mapping[str, Mapping[str, Metric]], clean: Predictions) -> pd.DataFrame:
    """Return the recall of each class under each variation; absent classes have no row."""
    counts = dict(zip(clean.classes, np.bincount(clean.targets, minlength=len(clean.classes)), strict=True))
    rows = [
        (variation, name, *_get_ends(metric), counts[name], *metric.inference.values())
        for name, shares in found.items()
        for variation, metric in shares.items()
    ]
    return pd.DataFrame(rows, columns=["variation", "class", "recall", "low", "high", "n", *INFERENCE_COLUMNS])


def tabulate_bias(
    found: Mapping[tuple[str, str, str], Metric], kinds: Sequence[str], classes: Sequence[str]
) -> pd.DataFrame:
    """Return bias and fragility of each class under each corruption at severity 3."""
    rows = [
        (kind, name, *_get_ends(found["bias", kind, name]), *_get_ends(found["fragility", kind, name]))
        for kind in kinds
        for name in classes
    ]
    ends = [f"{what}{end}" for what in ("bias", "fragility") for end in ("", "_low", "_high")]
    return pd.DataFrame(rows, columns=["corruption", "class", *ends])


def count_moved_predictions(found: Mapping[str, Predictions], kinds: Sequence[str]) -> pd.DataFrame:
    """Count the predictions for each class's images, clean and when that class is corrupted at severity 3."""
    clean, rows = found["clean"], []
    for kind in kinds:
        before, after = (
            classification.confusion_matrix(clean.targets, one.predicted, len(clean.classes)).astype(int)
            for one in (clean, found[f"{kind}/3"])
        )
        for target, prediction in np.ndindex(before.shape):
            names = clean.classes[target], clean.classes[prediction]
            rows.append((kind, *names, before[target, prediction], after[target, prediction]))
    return pd.DataFrame(rows, columns=["corruption", "transformed", "prediction", "clean", "corrupted"])


def _mark(name: str, resembled: Collection[str] | None) -> bool | None:
    return None if resembled is None else name in resembled


def _get_ends(metric: Metric) -> tuple[float | None, float | None, float | None]:
    return metric.value, metric.low, metric.high
