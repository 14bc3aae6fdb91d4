"""Tables of predictions, one row an image file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.results.display import format_predictions
from avatar_bench.results.predictions import Predictions, to_string_array

# of runs/decisions
DECISION_COLUMNS = ("decision", "decision_reason", "prediction_set", "ood_percentile", "decision_guarantee")
STABILITY_COLUMNS = ("stability", "flips_on")  # of compare_versions
NOT_FINITE = "the network returned a score that is not finite"
EMBEDDING = "embedding"  # column with the vector of each image that was read, None elsewhere; never written


class PredictionTable(pd.DataFrame):
    """Rows of predictions: a pandas DataFrame, which notebooks show with the two cautions.

    Columns: `path`, `status` ("ok" or "error"), `reason` of an error, `prediction`, `confidence`, and `prob_<class>`
    for each class; those of stability, decisions and evidence where they are asked for.
    """

    @property
    def _constructor(self) -> type[PredictionTable]:
        return PredictionTable

    def _repr_html_(self) -> str:
        return format_predictions(self)


def list_prediction_columns(classes: Sequence[str]) -> list[str]:
    """Return the column names of a table of predictions."""
    return ["path", "status", "reason", "prediction", "confidence", *(f"prob_{name}" for name in classes)]


def tabulate_predictions(
    files: Sequence[tuple[str, str]],
    logits: NDArray[np.floating],
    classes: tuple[str, ...],
    temperature: float,
    embeddings: NDArray[np.floating] | None = None,
) -> pd.DataFrame:
    """Return a table of (path, reason) pairs: predictions by `logits` where the reason is "", errors elsewhere.

    A file whose logits are not finite is an error, too. With `embeddings` (n, D), it has a column EMBEDDING.
    """
    if not (finite := np.isfinite(logits).all(axis=1)).all():
        failed = iter(~finite)
        files = [(path, reason or (NOT_FINITE if next(failed) else "")) for path, reason in files]
        logits, embeddings = logits[finite], embeddings if embeddings is None else embeddings[finite]
    good = [path for path, reason in files if not reason]
    none = np.zeros((len(good), 0), dtype=np.float32)
    targets = np.full(len(good), -1, dtype=np.int64)
    paths = to_string_array(good)
    predictions = Predictions(classes, logits, none, targets, paths, paths, paths, temperature)
    columns, rows = list_prediction_columns(classes)[1:], []
    predicted = zip(predictions.predicted, predictions.probabilities, strict=True)
    for _, reason in files:
        values: list[Any] = ["error" if reason else "ok", reason]
        if not reason:
            best, chances = next(predicted)
            values += [classes[best], chances.max(), *chances]
        rows.append(dict(zip(columns, values, strict=False)))
    table = pd.DataFrame(rows, columns=columns)
    if embeddings is not None:
        vectors = iter(embeddings)
        table[EMBEDDING] = pd.Series([None if reason else next(vectors) for _, reason in files], dtype=object)
    # pandas' string type refuses names that are not UTF-8
    table.insert(0, "path", pd.Series([path for path, _ in files], dtype=object))
    return table


def compare_versions(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the rows of images as they are, the first of a table, with the STABILITY_COLUMNS.

    As many rows follow for each of the K variations named, of the same files in their order. `stability` is the
    fraction, 1 / (1 + K) to 1, of the answers that are that of the image as it is, this one included; `flips_on` names
    the variations with another answer or none, joined by |.
    """
    versions = table["prediction"].to_numpy(dtype=object).reshape(1 + len(names), -1)
    rows = table.iloc[: versions.shape[1]]
    flips, good = versions[1:] != versions[0], (rows["status"] == "ok").to_numpy()
    flipped = pd.Series(["|".join(np.array(names)[flip]) for flip in flips.T], rows.index, dtype=object)
    stability = 1 - flips.sum(axis=0) / len(versions)
    return rows.assign(stability=np.where(good, stability, np.nan), flips_on=flipped.where(good))


def merge_probabilities(table: pd.DataFrame, classes: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return a table of predictions of new classes, each with those whose probabilities it adds up.

    Where some classes are in none, probabilities are divided by the sum over all new classes.
    """
    columns = [table[[f"prob_{name}" for name in merged]].sum(axis=1, skipna=False) for merged in classes.values()]
    sums = np.column_stack([column.to_numpy(dtype=np.float64) for column in columns])
    total = sums.sum(axis=1, keepdims=True)
    chances = np.where(total == 0, 1 / len(classes), sums / np.where(total == 0, 1, total))
    good = (table["status"] == "ok").to_numpy()
    best = np.array(list(classes), dtype=object)[np.where(good[:, None], chances, 0.0).argmax(axis=1)]
    merged = table[["path", "status", "reason"]].assign(prediction=best, confidence=chances.max(axis=1))
    merged.loc[~good, "prediction"] = np.nan
    return merged.assign(**{f"prob_{name}": chances[:, index] for index, name in enumerate(classes)})
