"""Probabilities or scores of images, computed by others: their scale, the check of their tables, prediction by them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from avatar_bench.data.corruptions import Variation
from avatar_bench.data.dataset import Dataset, hash_files
from avatar_bench.data.decoding import read_content
from avatar_bench.data.leakage import refuse_changed_files
from avatar_bench.data.transforms import Preprocessing
from avatar_bench.data.user_tables import MAX_TABLE_BYTES, read_user_table
from avatar_bench.data.variation_set import CLEAN, RECIPE
from avatar_bench.errors import BlockError, CheckpointError, ConfigError, DataError, suggest_names
from avatar_bench.files.hashes import sha256_of_bytes
from avatar_bench.inference.predictor import (
    DEFAULT_OPTIONS,
    MAX_SUM_ERROR,
    DatasetPredictor,
    FileOptions,
    ImproperError,
    compute_logarithms,
    normalise_rows,
)
from avatar_bench.metrics.calibration import find_fences
from avatar_bench.results.predictions import Predictions
from avatar_bench.results.view import name_classes

_COLUMNS = ("path", "sha256", "score", "status")  # beside prob_<class>
_LEAST = 1e-15  # probability
_LARGEST_LOG_ODDS = 20.0  # of an unbounded score that is no outlier: all of them stay distinct in 32 bits
_AGREEMENT = 1e-6  # largest difference of probabilities between two rows of one image


@dataclass(frozen=True)
class ScoreScale:
    """Scale on which scores are probabilities of a class, or its log-odds divided by `factor`.

    Of log-odds beyond 20, as outliers have, the logarithm counts, so that they keep their order.
    """

    is_probability: bool = False
    factor: float = 1.0

    @classmethod
    def of(cls, scores: NDArray[np.float64], threshold: float | None) -> ScoreScale:
        """Return the scale of scores (N,): those from 0 to 1 count as probabilities, large ones are divided."""
        if scores.min() >= 0 and scores.max() <= 1:
            return cls(is_probability=True)
        low, high = find_fences(scores)
        usual = scores[(scores >= low) & (scores <= high)]
        largest = float(np.abs(usual - (threshold or 0.0)).max())
        return cls(factor=min(1.0, _LARGEST_LOG_ODDS / max(largest, 1e-300)))

    def to_log_odds(self, scores: ArrayLike, threshold: float | None) -> NDArray[np.float64]:
        """Return the log-odds of scores, 0 at the threshold; without one, at a probability of 1/2 or a score of 0."""
        values = np.asarray(scores, dtype=np.float64)
        if self.is_probability:
            shifted = _compute_logit(values) - (0.0 if threshold is None else _compute_logit(threshold))
            return np.asarray(shifted)
        return _compress((values - (threshold or 0.0)) * self.factor)

    def to_probabilities(self, scores: ArrayLike, threshold: float | None) -> NDArray[np.float64]:
        """Return the probabilities (N, 2) of the class and of the other one, 1/2 where the log-odds are 0."""
        log_odds = self.to_log_odds(scores, threshold)
        return np.column_stack([expit(log_odds), expit(-log_odds)])

    def to_score(self, log_odds: float, threshold: float | None) -> float:
        """Return the score of log-odds that are 0 at the threshold."""
        if self.is_probability:
            return float(expit(log_odds + (0.0 if threshold is None else _compute_logit(threshold))))
        beyond = np.expm1(max(0.0, abs(log_odds) - _LARGEST_LOG_ODDS))
        size = min(abs(log_odds), _LARGEST_LOG_ODDS) + beyond
        return float(np.sign(log_odds) * size / self.factor + (threshold or 0.0))


def read_score_table(file: Path, columns: Mapping[str, str]) -> pd.DataFrame:
    """Read the table, whose columns have the names `columns` states for ours, else ours.

    Raise DataError if it cannot be read or names no images, ConfigError for another suffix or a column that is missing.
    """
    readers: dict[str, Callable[[Path], pd.DataFrame]] = {
        ".csv": lambda file: read_user_table(file, []),
        ".jsonl": _read_lines,
        ".parquet": pd.read_parquet,
    }
    if file.suffix.lower() not in readers:
        raise ConfigError(f"file={file}: expected a file that ends in {', '.join(readers)}")
    try:
        if file.stat().st_size > MAX_TABLE_BYTES:
            raise ValueError(f"it is larger than {MAX_TABLE_BYTES // 2**20} MiB")
        table = readers[file.suffix.lower()](file)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
        raise DataError(f"{file} cannot be read: {reason}.") from error
    table = _rename_columns(table, columns, file)
    if table.empty or not {"path", "sha256"} & set(table):
        raise DataError(
            f"{file}: expected rows with a column path or sha256. It has: {', '.join(map(str, table))}.",
            "Say what it calls them: 'columns={path: NAME, score: NAME}'",
        )
    scores: pd.DataFrame = table.reset_index(drop=True)
    return scores


def find_hashes(table: pd.DataFrame, file: Path, root: str | None) -> pd.Series:
    """Return the SHA-256 of each row's image, "" where the image is missing."""
    if "sha256" in table:
        hashes = table["sha256"].astype(str).str.strip().str.lower()
        if not (bad := ~hashes.str.fullmatch("[0-9a-f]{64}")).any():
            return hashes
        raise DataError(f"{file}: {int(bad.sum())} of {len(table)} values of sha256 are not 64 hex digits.")
    paths = [str(path) for path in table["path"]]
    if root is None and not all(map(os.path.isabs, paths)):
        raise ConfigError(f"{file} has paths but no column sha256: root=DIR is needed, the folder of its paths.")
    files = [Path(root or "", path) for path in paths]
    there = [candidate.is_file() for candidate in files]
    computed = iter(hash_files(candidate for candidate, is_file in zip(files, there, strict=True) if is_file))
    return pd.Series([next(computed) if is_file else "" for is_file in there], table.index, dtype=object)


def read_probabilities(
    table: pd.DataFrame, file: Path, score: str | None, threshold: float | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the probabilities, one column a class, and the settings of the predictor."""
    classes = [str(name).removeprefix("prob_") for name in table if str(name).startswith("prob_")]
    columns = [f"prob_{name}" for name in classes]
    if classes:
        if score is not None:
            raise ConfigError(f"score={score}: {file} has probabilities, columns prob_<class>.")
        numbers = _read_numbers(table[columns], file)
        try:
            values = normalise_rows(numbers)
        except ImproperError as error:
            raise DataError(
                f"{file}: {error.n} of {len(numbers)} rows are no probabilities, first row {error.row + 1}, "
                f"whose sum is {error.total:.6g}.",
                f"Expected numbers from 0 to 1 whose sum is 1 within {MAX_SUM_ERROR}.",
            ) from error
        return pd.DataFrame(values, table.index, columns), {"classes": classes}
    if "score" not in table:
        raise DataError(
            f"{file} has neither columns prob_<class> nor a column score. It has: {', '.join(map(str, table))}.",
            "Say what it calls them: 'columns={score: NAME}', or 'columns={prob_real: NAME, ...}' with every class",
        )
    if score is None:
        raise ConfigError(f"{file} has scores: which class is a high score? For example score=higher_is_generated")
    classes = name_classes(score)
    scores = _read_numbers(table[["score"]], file)[:, 0]
    scale = ScoreScale.of(scores, threshold)
    if scale.is_probability and threshold is None:
        values = np.column_stack([scores, 1 - scores])
    else:
        values = scale.to_probabilities(scores, threshold)
    settings = {"classes": classes, "score": score, "threshold": threshold, "scale": asdict(scale)}
    return pd.DataFrame(values, table.index, [f"prob_{name}" for name in classes]), settings


def merge_rows(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return one row per image, without those whose rows disagree, and the number of these images."""
    columns = [name for name in table if name != "sha256"]
    groups = table.groupby("sha256", sort=True)[columns]
    spread = (groups.max() - groups.min()).max(axis=1)
    kept = groups.first()[spread <= _AGREEMENT].reset_index()
    return kept, int((spread > _AGREEMENT).sum())


@dataclass(frozen=True)
class VariedFiles:
    """Files that vary has written, of the images of which every file has a prediction.

    `rows` has the SHA-256 of each file, `source_sha256` of its image and the `key` of its variation, "" for none.
    `incomplete` is the number of images that are left out; `preprocessing` states how images were resized, if at all.
    """

    rows: pd.DataFrame
    incomplete: int
    preprocessing: dict[str, Any] | None


def read_variations(manifest: Path, predicted: pd.Series) -> VariedFiles:
    """Read the manifest of vary, whose files have predictions by their SHA-256; raise DataError for another file."""
    table = read_user_table(manifest, ["path", "source_sha256", "variation"])
    try:
        recipe = json.loads((manifest.parent / RECIPE).read_text(encoding="utf-8"))
        keys = {CLEAN: "", **recipe["variations"]}
        if recipe.get("preprocessing"):
            Preprocessing.from_dict(recipe["preprocessing"])
    except (OSError, ValueError, KeyError, TypeError, CheckpointError) as error:
        raise DataError(f"variations={manifest}: {RECIPE} beside it is missing or damaged: {error}.") from error
    if set(table["variation"]) != set(keys):
        raise DataError(f"variations={manifest}: its variations are not those of {RECIPE} beside it.")
    rows = pd.DataFrame({"source_sha256": table["source_sha256"], "key": table["variation"].map(keys)})
    rows["sha256"] = hash_files(manifest.parent / path for path in table["path"])
    rows = rows.drop_duplicates(["source_sha256", "key"])  # copies of one image
    lacking = set(rows.loc[~rows["sha256"].isin(predicted), "source_sha256"])
    kept = rows[~rows["source_sha256"].isin(lacking)].reset_index(drop=True)
    return VariedFiles(kept, len(lacking), recipe.get("preprocessing"))


@dataclass(eq=False, kw_only=True)
class TablePredictor(DatasetPredictor):
    """Saved probabilities (N, C) of images by the SHA-256 of their files, `hashes` (N,).

    `varied` has those of varied images: by the key of the variation, the row of each image, by its SHA-256.
    """

    hashes: pd.Index
    probabilities: NDArray[np.float64]
    varied: Mapping[str, pd.Series] = field(default_factory=dict)
    provides: frozenset[str] = frozenset({"predictions"})
    computes_logits: bool = field(default=False, init=False)
    has_logits: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if self.varied:
            self.provides = self.provides | {"variations"}

    def mark_answered(self, dataset: Dataset) -> NDArray[np.bool_]:
        """Return which images of a dataset are in the table, (N,)."""
        return np.asarray(dataset.frame["sha256"].isin(self.hashes))

    def predict_variations(self, dataset: Dataset, variations: Sequence[Variation | None]) -> list[Predictions]:
        """Look up the Predictions under each variation; raise BlockError if one, or an image, was not imported."""
        refuse_changed_files(dataset)
        digests, varied = pd.Index(dataset.frame["sha256"]), []
        none = np.zeros((len(dataset), 0), dtype=np.float32)
        for variation in variations:
            if variation is None:
                rows = self.hashes.get_indexer(digests)
            elif variation.key in self.varied:
                rows = self.varied[variation.key].reindex(digests, fill_value=-1).to_numpy()
            else:
                raise BlockError(
                    f"{self.name} has no predictions of images with {variation.key}, which were not imported.",
                    "Choose the corruptions, severities and resolution (at) with which vary made them.",
                )
            if (rows < 0).any():
                path = dataset.frame["path"].iat[int(np.flatnonzero(rows < 0)[0])]
                raise BlockError(f"{self.name} has no prediction of {path}, an image of {dataset.name}.")
            logits = compute_logarithms(self.probabilities[rows])
            varied.append(self.describe(dataset, logits, none))
        return varied

    def predict_files(
        self, paths: Sequence[str], options: FileOptions = DEFAULT_OPTIONS
    ) -> Generator[pd.DataFrame, None, None]:
        """Yield the table of predictions of image files batch by batch, in order; of none under variations."""
        for first in range(0, len(paths), self.batch_size):
            seen, rows = [], []
            for path in paths[first : first + self.batch_size]:
                try:
                    row = self.hashes.get_indexer(pd.Index([sha256_of_bytes(read_content(path, path))]))[0]
                    reason = "" if row >= 0 else "not among the imported predictions"
                except DataError as error:
                    reason = error.lines[0]
                seen.append((path, reason))
                rows += [] if reason else [row]
            yield self.tabulate(seen, compute_logarithms(self.probabilities[rows]), options.calibrated)


def _rename_columns(table: pd.DataFrame, columns: Mapping[str, str], file: Path) -> pd.DataFrame:
    for ours, theirs in columns.items():
        if ours not in _COLUMNS and not ours.startswith("prob_"):
            known = f"There are: {', '.join(_COLUMNS)}, prob_<class>."
            raise ConfigError(f"columns: there is no {ours}{suggest_names(ours, _COLUMNS, '')}", known)
        if theirs not in table:
            has = f"It has: {', '.join(map(str, table))}."
            raise ConfigError(
                f"columns: {file} has no column {theirs}{suggest_names(theirs, map(str, table), '')}", has
            )
    renamed = {ours: table[theirs] for ours, theirs in columns.items()}
    return table.drop(columns=list(columns.values())).assign(**renamed)


def _read_lines(file: Path) -> pd.DataFrame:
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("expected one JSON object a line")
    return pd.DataFrame(rows)


def _read_numbers(table: pd.DataFrame, file: Path) -> NDArray[np.float64]:
    values = np.array([[_read_number(value) for value in row] for row in table.to_numpy(object)], dtype=np.float64)
    if not len(values):
        raise DataError(f"{file}: no row has a prediction.")
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        row = table.index[int(np.flatnonzero(bad)[0])] + 1
        raise DataError(f"{file}: {int(bad.sum())} of {len(table)} rows have no finite number, first row {row}.")
    return values


def _read_number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _compute_logit(probabilities: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(logit(np.clip(probabilities, _LEAST, 1 - _LEAST)))


def _compress(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return log-odds, of which the logarithm counts beyond the largest."""
    beyond = np.log1p(np.maximum(0.0, np.abs(log_odds) - _LARGEST_LOG_ODDS))
    return np.asarray(np.sign(log_odds) * (np.minimum(np.abs(log_odds), _LARGEST_LOG_ODDS) + beyond))
