"""Population of predictions, read in batches of rows, of which sums by score and a number for each row are kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from avatar_bench.config.entries import find_entry
from avatar_bench.console.terminal import format_name, format_names
from avatar_bench.data.user_tables import locate_rows
from avatar_bench.errors import ConfigError, DataError, suggest_names
from avatar_bench.files.remote import is_remote, open_remote
from avatar_bench.files.table_io import read_table
from avatar_bench.inference.prediction_writer import escape_path
from avatar_bench.inference.predictor import MAX_SUM_ERROR, ImproperError, normalise_rows
from avatar_bench.metrics.stats import Floats
from avatar_bench.reporting.prediction_outputs import read_predictions

STEP, BINS = 0.05, 560  # of log-odds of the score, from -14 to 14
_COARSE = 0.25  # of log-odds between two other classes
_MOST_RATIOS = 3  # such ratios in a cell, beyond which it has too few rows to save memory
_BATCH_ROWS = 2**17
_MERGED_BATCHES = 16
_CHARACTERS = {"month": 7, "year": 4}  # of a date


@dataclass(frozen=True)
class Design:
    """Strata of scores of the class `score`, from which images are drawn by the smallest keyed hashes of their paths.

    `cuts` (H - 1,) are the score bins at which strata after the first begin, `rates` (H,) the fractions of them that
    are drawn.
    """

    score: str
    cuts: NDArray[np.integer]
    rates: Floats
    seed: int

    @property
    def edges(self) -> Floats:
        """Return the scores (H + 1,) between strata, from 0 to 1."""
        return np.array([0.0, *expit((self.cuts - BINS // 2) * STEP), 1.0])

    def find_stratum(self, bins: NDArray[np.integer]) -> NDArray[np.intp]:
        """Return the strata of score bins."""
        return np.searchsorted(self.cuts, bins, side="right")


@dataclass
class Population:
    """What is kept of predictions: sums of rows by cells of alike probabilities, and a hash and score bin of each row.

    `cells` have `bin`, `predicted` and further columns that distinguish them, `n`, and for class k the sums `p<k>` of
    probabilities and `q<k>` of their squares; `groups` are, for each column of `by`, the same by its values. `rows` are
    those of wanted hashes, the `key`, with their position and `by_<column>`. Score bins are -1 for files that failed.
    """

    classes: tuple[str, ...]
    errors: int = 0
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    groups: dict[str, pd.DataFrame] = field(default_factory=dict)
    rows: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["key", "position", "bin"]))
    hashes: NDArray[np.uint64] = field(default_factory=lambda: np.zeros(0, dtype=np.uint64))
    bins: NDArray[np.int16] = field(default_factory=lambda: np.zeros(0, dtype=np.int16))

    @property
    def n(self) -> int:
        """Return the number of images with a prediction."""
        return int(self.cells["n"].sum())

    @property
    def predicted(self) -> NDArray[np.int64]:
        """Return the number of images predicted as each class, (C,)."""
        return np.bincount(self.cells["predicted"], self.cells["n"], len(self.classes)).astype(np.int64)

    def sum_scores(self, k: int) -> tuple[Floats, Floats]:
        """Return the number of images in each score bin, and their mean probability of class k, both (BINS,)."""
        n, p = (np.bincount(self.cells["bin"], self.cells[name], BINS) for name in ("n", f"p{k}"))
        return np.asarray(n, dtype=np.float64), np.divide(p, n, out=np.zeros(BINS), where=n > 0)

    def draw(self, design: Design) -> NDArray[np.intp]:
        """Return the positions of the rows that a design draws, in the order of the strata."""
        strata, drawn = design.find_stratum(self.bins), []
        for h, rate in enumerate(design.rates):
            inside = np.flatnonzero((strata == h) & (self.bins >= 0))
            n = round(rate * len(inside))
            drawn.append(np.sort(inside[np.argsort(self.hashes[inside], kind="stable")[:n]]))
        return np.concatenate(drawn)


@contextmanager
def explain_unreadable(option: str) -> Iterator[None]:
    """Raise DataError for a file that cannot be read."""
    try:
        yield
    except (OSError, ValueError, NotImplementedError) as error:  # ArrowInvalid is a ValueError
        raise DataError(f"{option} cannot be read: {' '.join(str(error).split())[:200] or 'no table'}") from error


class PredictionReader:
    """Reader of predictions in a file, or a folder of Parquet files, local or remote, with the columns of a manifest.

    `by` are columns of either, or month or year of a column `date`. Raises DataError if there is no such file, or it is
    not one of predictions by one detector; ConfigError if no such column is there.
    """

    def __init__(self, predictions: str, by: Sequence[str] = (), manifest: str | None = None) -> None:
        self.name, self.by, self._option = predictions, list(by), f"predictions={predictions}"
        is_parquet = os.path.isdir(predictions) or predictions.lower().endswith(".parquet")
        if not is_parquet:
            find_entry("prediction_output", Path(predictions).suffix.lower().removeprefix("."), self._option)
        with explain_unreadable(self._option):
            self._rows: Any = self._open_parquet() if is_parquet else read_predictions(predictions)
        columns = self._rows.schema.names if is_parquet else [*map(str, self._rows)]
        needed = ["path", "status", "prediction"]
        self.classes = tuple(name.removeprefix("prob_") for name in columns if name.startswith("prob_"))
        if not set(needed) <= set(columns) or len(self.classes) < 2:
            raise DataError(
                f"{self._option} holds no predictions.",
                "Expected a table that predict writes: path, status, prediction, and prob_<class> for each class.",
            )
        self._manifest = self._read_manifest(Path(manifest).expanduser()) if manifest and by else pd.DataFrame()
        dated = {name: "date" if name in _CHARACTERS and name not in columns else name for name in self.by}
        joined = [*map(str, self._manifest)]
        self._sources = {name: column for name, column in dated.items() if column in columns}
        self._joined = {name: column for name, column in dated.items() if column in joined and column not in columns}
        for name in set(self.by) - {*self._sources, *self._joined}:
            raise ConfigError(
                f"by={name}: there is no such column{suggest_names(name, [*columns, *joined])}",
                "Name a table that has it: manifest=FILE",
            )
        chances = (f"prob_{name}" for name in self.classes)
        self._columns = [*dict.fromkeys([*needed, *chances, *self._sources.values()])]

    def read(self) -> Iterator[pd.DataFrame]:
        """Yield batches of rows, in order."""
        if isinstance(self._rows, pd.DataFrame):
            yield from (self._rows[start : start + _BATCH_ROWS] for start in range(0, len(self._rows), _BATCH_ROWS))
            return
        options = {"batch_size": _BATCH_ROWS, "batch_readahead": 2, "fragment_readahead": 1}
        for batch in self._rows.to_batches(columns=self._columns, **options):
            if batch.num_rows:
                yield batch.to_pandas()

    def scan(self, target: str, design: Design | None = None, seed: int = 0, wanted: Sequence[int] = ()) -> Population:
        """Read all rows once; keep those with `wanted` hashes. Raise DataError for a path that is there twice."""
        population, start = Population(self.classes), 0
        kept, bins, hashes = [], [], []
        cells, groups = _Sums(), {name: _Sums() for name in self.by}
        score, seed = (target, seed) if design is None else (design.score, design.seed)
        index, searched = self.classes.index(score), np.array(wanted, dtype=np.uint64)
        for frame in self.read():
            keys, good = hash_paths(frame["path"].to_numpy(dtype=object), seed), (frame["status"] == "ok").to_numpy()
            rows = frame[good]
            chances, predicted = self._read_chances(rows, start + np.flatnonzero(good))
            place = np.full(len(frame), -1, dtype=np.int16)
            place[good] = inside = _bin(logit(chances[:, index]), STEP, BINS)
            sums = {f"{name}{k}": part for k, p in enumerate(chances.T) for name, part in (("p", p), ("q", p**2))}
            cells.add({"bin": inside, "predicted": predicted, **_bin_ratios(chances, index)}, sums)
            stratum = {} if design is None else {"stratum": design.find_stratum(inside)}
            for name, values in self._read_groups(rows).items():
                groups[name].add({"value": values, **stratum, "predicted": predicted}, sums)
            if (at := np.flatnonzero(np.isin(keys, searched) & good)).size:
                values = {f"by_{name}": column for name, column in self._read_groups(frame.iloc[at]).items()}
                shown = frame.iloc[at][[f"prob_{name}" for name in self.classes]]
                kept.append(shown.assign(key=keys[at], position=start + at, bin=place[at], **values))
            hashes.append(keys)
            bins.append(place)
            start += len(frame)
            population.errors += len(frame) - len(rows)
        if population.errors == start:
            raise DataError(f"{self._option} has no row of an image that was read.")
        population.hashes, population.bins = np.concatenate(hashes), np.concatenate(bins)
        population.cells, population.groups = cells.total(), {name: sums.total() for name, sums in groups.items()}
        if kept:
            population.rows = pd.concat(kept, ignore_index=True)
        self._refuse_repeated_paths(population.hashes)
        return population

    def take(self, positions: NDArray[np.intp]) -> pd.DataFrame:
        """Return the rows at some positions, in their order in the predictions, with a column `position`."""
        start, parts, ordered = 0, [], np.sort(positions)
        for frame in self.read():
            here = ordered[(ordered >= start) & (ordered < start + len(frame))]
            parts.append(frame.iloc[here - start].assign(position=here))
            start += len(frame)
        return pd.concat(parts, ignore_index=True)

    def _open_parquet(self) -> Any:
        from pyarrow import dataset

        system, path = open_remote(self.name) if is_remote(self.name) else (None, self.name)
        make: Any = dataset.ParquetFileFormat  # has no annotations
        options: Any = {"filesystem": system, "format": make(dictionary_columns={"status", "prediction"})}
        opened: Any = dataset.dataset(path, partitioning=None, **options)  # type: ignore[no-untyped-call]
        files: dict[tuple[str, ...], str] = {}
        for fragment in opened.get_fragments():
            names = tuple(name for name in fragment.physical_schema.names if name.startswith("prob_"))
            files.setdefault(names, os.path.basename(fragment.path))
        if len(files) > 1:
            (first, file), (second, other), *_others = files.items()
            raise DataError(
                f"{self._option} holds predictions of two detectors: {file} has {format_names(first, 4)}, {other} "
                f"{format_names(second, 4)}.",
                "Measure them apart, each in a folder of its own.",
            )
        return opened

    def _read_manifest(self, file: Path) -> pd.DataFrame:
        with explain_unreadable(f"manifest={file}"):
            table = read_table(file, texts=None)
        if "path" not in table:
            raise DataError(f"manifest={file} has no column path.")
        paths = [path if is_remote(path) else os.path.abspath(file.parent / path) for path in table["path"]]
        return table.drop(columns="path").set_axis(paths).loc[lambda frame: ~frame.index.duplicated()]

    def _read_chances(self, rows: pd.DataFrame, positions: NDArray[np.intp]) -> tuple[Floats, NDArray[np.intp]]:
        """Return the probabilities (N, C) and the predicted classes (N,); raise DataError where one is impossible."""
        numbers = rows[[f"prob_{name}" for name in self.classes]].apply(pd.to_numeric, errors="coerce")
        predicted = pd.Index(self.classes).get_indexer(pd.Index(rows["prediction"].astype(object)))
        classes = format_names(self.classes, 6)
        try:
            chances = normalise_rows(numbers)
            if not (predicted < 0).any():
                return np.clip(chances, 1e-9, 1 - 1e-9), predicted
            row, problem = int(np.argmax(predicted < 0)), f"the prediction is none of the classes ({classes})"
        except ImproperError as error:
            row = error.row
            stated = " ".join(f"{number:.6g}" for number in numbers.iloc[row])
            problem = f"{stated} are no probabilities of {classes}: from 0 to 1, whose sum is 1 within {MAX_SUM_ERROR}"
        location = f"{self._locate(int(positions[row]))} ({format_name(str(rows['path'].iloc[row]))})"
        raise DataError(
            f"{self._option}, {location}: {problem}.",
            "Is the file whole and of one detector, whose score has a threshold? avatar-bench calibrate fits one.",
        )

    def _locate(self, position: int) -> str:
        with suppress(OSError, ValueError):  # of a remote file, or one with names that are not UTF-8
            if self.name.lower().endswith(".csv"):
                return locate_rows(Path(self.name), len(self._rows))[position]
        return f"{'line' if self.name.lower().endswith('.jsonl') else 'row'} {position + 1}"

    def _read_groups(self, rows: pd.DataFrame) -> dict[str, Any]:
        """Return the values of the columns of `by` of rows, "" where a manifest lacks the image."""
        values = {name: rows[column] for name, column in self._sources.items()}
        if self._joined:
            paths = [path if is_remote(path) else os.path.abspath(path) for path in rows["path"].astype(str)]
            matched = self._manifest.reindex(paths)
            values |= {name: matched[column].fillna("") for name, column in self._joined.items()}
        texts = {name: values[name].astype(str) for name in self.by}
        return {name: text.str.slice(0, _CHARACTERS.get(name)).to_numpy(dtype=object) for name, text in texts.items()}

    def _refuse_repeated_paths(self, hashes: NDArray[np.uint64]) -> None:
        ordered = np.sort(hashes)
        if (repeated := ordered[1:][ordered[1:] == ordered[:-1]]).size:
            first = self.take(np.flatnonzero(hashes == repeated[0])[:1])["path"].iloc[0]
            raise DataError(
                f"{self._option}: {len(repeated):,} rows repeat the path of another, such as "
                f"{format_name(str(first))}.",
                "Is it the output of two detectors, or of two calls? Each image counts once: remove the others.",
            )


class _Sums:
    """Sums of rows with the same keys, over batches."""

    def __init__(self) -> None:
        self._parts: list[pd.DataFrame] = []

    def add(self, keys: dict[str, Any], columns: dict[str, Any]) -> None:
        """Add a batch of rows with these keys and columns, and count them as `n`."""
        self._names = list(keys)
        self._parts.append(self._sum(pd.DataFrame({**keys, "n": np.ones(len(keys["predicted"])), **columns})))
        if len(self._parts) >= _MERGED_BATCHES:
            self._parts = [self.total()]

    def total(self) -> pd.DataFrame:
        """Return the sums of all batches."""
        return self._sum(pd.concat(self._parts, ignore_index=True)) if self._parts else pd.DataFrame()

    def _sum(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.groupby(self._names, sort=True, observed=True).sum().reset_index()


def hash_paths(paths: NDArray[Any], seed: int) -> NDArray[np.uint64]:
    """Return a number of 64 bits for each path, as if drawn at random with this seed."""
    options: Any = {"hash_key": f"{seed:016d}", "categorize": False}
    try:
        return pd.util.hash_array(paths, **options)
    except UnicodeEncodeError:  # a name that is not UTF-8
        return pd.util.hash_array(np.array([escape_path(path) for path in paths], dtype=object), **options)


def _bin_ratios(chances: Floats, index: int) -> dict[str, NDArray[np.int16]]:
    """Return the bins of log-odds between the classes other than that of the score, which EM distinguishes."""
    logs = np.log(np.delete(chances, index, axis=1))
    pairs = range(1, min(logs.shape[1], _MOST_RATIOS + 1))
    return {f"ratio{k}": _bin(logs[:, k] - logs[:, 0], _COARSE, int(28 / _COARSE)) for k in pairs}


def _bin(values: Floats, step: float, bins: int) -> NDArray[np.int16]:
    return np.asarray(np.clip(np.floor(values / step) + bins // 2, 0, bins - 1), dtype=np.int16)
