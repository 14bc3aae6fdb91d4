"""Slices of a data set and the tables of error_bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.evaluation.block import tabulate_predictions
from avatar_bench.evaluation.intervals import IntervalOptions
from avatar_bench.evaluation.slice_gaps import GAP_COLUMNS, find_gap
from avatar_bench.metrics import classification
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.reasons import Reason


class Slice(NamedTuple):
    """Images (N,) of one slice: those of one true class, or of all its classes if `target` is ""."""

    by: str
    name: str
    target: str
    images: NDArray[np.bool_]
    others: NDArray[np.bool_]


def cut_slices(predictions: Predictions, kinds: pd.DataFrame) -> Iterator[Slice]:
    """Yield the slices of each column: one for each true class, and the whole slice if it holds several."""
    for by in kinds:
        values = kinds[by].to_numpy(str)
        for name in sorted(set(values) - {""}):
            inside = values == name
            labels = np.unique(predictions.targets[inside])
            if len(labels) > 1:
                yield Slice(str(by), name, "", inside, ~inside)
            for index in labels:
                own = predictions.targets == index
                yield Slice(str(by), name, predictions.classes[index], inside & own, ~inside & own)


def describe_slice(row: pd.Series) -> Reason:
    """Return the label of a row of the table of slices: property, slice and true class."""
    code = "slice_of_class" if row["target"] else "slice"
    return Reason(code, by=Reason(row["by"]), name=row["slice"], target=row["target"])


def compute_rest_accuracy(predictions: Predictions, each: Slice) -> float:
    """Compute the accuracy of the other images at the class mix of the slice; NaN if one of its classes has none."""
    classes = len(predictions.classes)
    mix = np.bincount(predictions.targets[each.images], minlength=classes)
    others = predictions.take(each.others)
    recall = classification.recall(classification.confusion_matrix(others.targets, others.predicted, classes))
    return float(recall[mix > 0] @ mix[mix > 0] / mix.sum())


def tabulate_gaps(block: IntervalOptions, predictions: Predictions, parts: list[Slice], minimum: int) -> pd.DataFrame:
    """Tabulate, by column and true class, the largest difference of accuracy between slices of `minimum` images."""
    rows, correct = [], predictions.correct[:, None]
    for by, target in dict.fromkeys((each.by, each.target) for each in parts):
        own = [each for each in parts if (each.by, each.target) == (by, target)]
        hits = np.where(np.stack([each.images for each in own], axis=1), correct, np.nan)
        gap = find_gap(block, [each.name for each in own], hits, predictions.group_codes, minimum)
        rows += [{"by": by, "target": target, **gap}] if gap else []
    return pd.DataFrame(rows, columns=["by", "target", *GAP_COLUMNS])


def build_confusion_table(predictions: Predictions, parts: list[Slice]) -> pd.DataFrame:
    """Count the predictions for each slice by true class; rows with `by` "class" count all images."""
    names = predictions.classes
    whole = [
        Slice("class", name, name, predictions.targets == index, predictions.targets != index)
        for index, name in enumerate(names)
        if (predictions.targets == index).any()
    ]
    rows = []
    for each in [*whole, *(one for one in parts if one.target)]:
        counts = np.bincount(predictions.predicted[each.images], minlength=len(names))
        rows.append((each.by, each.name, each.target, int(counts.sum()), *counts))
    return pd.DataFrame(rows, columns=["by", "slice", "target", "n", *(f"predicted_{name}" for name in names)])


def build_ood_table(ood: Mapping[str, Predictions]) -> pd.DataFrame:
    """Return a row for each image of the out-of-domain sets."""
    columns = ["set", "path", "group", "prediction", "confidence"]
    tables = [tabulate_predictions(each).assign(set=name)[columns] for name, each in ood.items()]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns)
