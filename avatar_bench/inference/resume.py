"""Resuming an output of predict: remaining and changed files, and a check that earlier rows are of the same run."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.errors import ConfigError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.table_io import unescape_formulas

if TYPE_CHECKING:
    from avatar_bench.inference.prediction_columns import PredictionColumns
    from avatar_bench.runs.decisions import DecisionRule
    from avatar_bench.runs.run import Run

Stamp = tuple[int, int]  # of a file that a row was made from: bytes, and time of change in nanoseconds since 1970
# by precision: larger differences of log probabilities do not occur between machines
MAX_LOG_DIFFERENCE = {"32": 0.05, "bf16": 1.0, "16": 0.5, "int8": 1.0}


def locate_stamps(output: Path) -> Path:
    """Return the file of the stamps of an output of predict."""
    return output.with_name(f".{output.name}.stamps")


def read_stamp(file: str) -> Stamp | None:
    """Return the stamp of a file, None if it is not there."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):  # of a name that holds a null
        return None
    return status.st_size, status.st_mtime_ns


def load_stamps(file: Path) -> dict[str, Stamp | None]:
    """Return the stamps of rows by their path, {} if there are none; what is damaged is left out."""
    stamps: dict[str, Stamp | None] = {}
    try:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                path, stamp = json.loads(line)
                stamps[path] = stamp and tuple(stamp)
    except (OSError, ValueError, TypeError):
        return stamps
    return stamps


def save_stamps(stamps: Mapping[str, Stamp | None], file: Path) -> None:
    """Write stamps, one a line."""
    with atomic_write(file, sync=False) as part, part.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(pair)}\n" for pair in stamps.items())


def find_outdated(
    current: Mapping[str, Stamp | None], earlier: Mapping[str, Stamp | None], paths: Iterable[str], written: int
) -> Iterator[str]:
    """Yield those of the `paths` of rows whose file has changed since, by its stamp; a file that is gone has not.

    A row without an `earlier` stamp was made before its output was `written`, in nanoseconds since 1970.
    """
    for path in paths:
        if (stamp := current.get(path)) and (stamp != earlier[path] if path in earlier else stamp[1] > written):
            yield path


def find_remaining(
    files: Sequence[str], paths: Sequence[str], kept: Sequence[str], batch_size: int
) -> tuple[list[str], int]:
    """Return the files to predict, and how many of the first of them already have a row.

    `paths` (n,) are `files` as written in rows, `kept` the paths of the earlier rows. The batch in which an interrupted
    output ends is predicted again as a whole, because the last digits of a probability depend on the other images in
    the batch. A file that is named twice has two rows.
    """
    if paths[: len(kept)] == kept:
        again = len(kept) % batch_size if len(kept) < len(files) else 0
        return list(files[len(kept) - again :]), again
    left, remaining = Counter(kept), []
    for file, path in zip(files, paths, strict=True):
        if not left[path]:
            remaining.append(file)
        left[path] = max(0, left[path] - 1)
    return remaining, 0


def refuse_other_run(
    run: Run, rows: Sequence[Mapping[str, Any]], calibrated: bool, precision: str, rule: DecisionRule | None = None
) -> None:
    """Predict some files again; raise ConfigError if most of their earlier rows differ, or any decision.

    Missing and unreadable files are ignored, and a few changed files are tolerated.
    """
    rows = [row for row in rows if row["status"] == "ok"]
    again = run.predict_files([row["path"] for row in rows], calibrated, precision, rule) if rows else ()
    table = pd.concat(list(again) or [pd.DataFrame({"status": []})], ignore_index=True)
    compared = np.flatnonzero(table["status"] == "ok")
    if not len(compared):
        return
    names = [f"prob_{name}" for name in run.classes]
    before = _to_logarithms([[row[name] for name in names] for row in (rows[k] for k in compared)])
    after = _to_logarithms(table.loc[compared, names].to_numpy())
    differs = np.abs(before - after).max(axis=1) > MAX_LOG_DIFFERENCE[precision]
    if differs.mean() > 0.5:
        raise ConfigError(
            "update=true: the existing rows are of another checkpoint, or of another calibrated, precision or runtime.",
            "Choose another output, or remove update=true to predict all files again.",
        )
    decided = [name for name in ("decision", "decision_reason", "prediction_set") if name in table]
    kept = [k for k, differs_much in zip(compared, differs, strict=True) if not differs_much]
    if any(rows[k][name] != table.at[k, name] for k in kept for name in decided):
        raise ConfigError(
            "update=true: the existing decisions were made with another target_error, costs, alpha or calibration.",
            "Choose another output, or remove update=true to decide on all files again.",
        )


def refuse_other_columns(name: str, columns: PredictionColumns, run: Run, rows: Sequence[Mapping[str, Any]]) -> None:
    """Compute the columns of an entry again for earlier rows; raise ConfigError if they differ for a file."""
    good = pd.DataFrame([row for row in rows if row["status"] == "ok"], columns=["path", "status", *columns.names])
    again = columns.add_to(good[["path", "status"]], run)[[*columns.names]]
    is_there = again.notna().any(axis=1)
    # what a spreadsheet would run as a formula is preceded by a sign in CSV
    before, after = (unescape_formulas(table[is_there].astype(object)) for table in (good[[*columns.names]], again))
    if not before.equals(after):
        options = [f"{name}.{each.name}" for each in fields(columns) if each.name != "enabled"]
        raise ConfigError(
            f"update=true: the {name} in the existing rows is another: "
            f"{', '.join(['a file', *options])} or view has changed.",
            "Choose another output, or remove update=true to predict all files again.",
        )


def _to_logarithms(probabilities: Iterable[Any]) -> NDArray[np.float64]:
    return np.log(np.maximum(np.array(probabilities, dtype=np.float64), 1e-12))
