"""Going on with an output: which files have no row yet, and whether the rows there are this run's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from avatar_bench.errors import ConfigError

if TYPE_CHECKING:
    from avatar_bench.runs.run import Run

# logarithms of a probability that no machine brings so far apart
MAX_LOG_DIFFERENCE = {"32": 0.05, "bf16": 1.0, "16": 0.5, "int8": 1.0}


def find_remaining(
    files: Sequence[str], told: Sequence[str], kept: Sequence[str], batch_size: int
) -> tuple[list[str], int]:
    """Give the files to judge, and how many of the first of them have their rows already.

    `told` (n,) are the paths of `files` as rows tell them, `kept` those of the rows that are there. The batch in which
    an interrupted output ends is judged whole: what stands beside an image in its batch changes the last digits of its
    verdict. A file that is named twice has two rows.
    """
    if told[: len(kept)] == kept:
        again = len(kept) % batch_size if len(kept) < len(files) else 0
        return list(files[len(kept) - again :]), again
    left = Counter(kept)
    return [file for file, path in zip(files, told, strict=True) if not _take(left, path)], 0


def refuse_other_run(run: Run, rows: Sequence[Mapping[str, Any]], calibrated: bool, precision: str) -> None:
    """Judge some files again; raise ConfigError where most of their rows say something else.

    Files that are gone or bad say nothing, a few that have changed are let pass.
    """
    rows = [row for row in rows if row["status"] == "ok"]
    again = run.predict_rows([row["path"] for row in rows], calibrated, precision) if rows else ()
    table = pd.concat(list(again) or [pd.DataFrame({"status": []})], ignore_index=True)
    there = np.flatnonzero(table["status"] == "ok")
    if not len(there):
        return
    names = [f"prob_{name}" for name in run.classes]
    before = _to_logarithms([[row[name] for name in names] for row in (rows[k] for k in there)])
    apart = (
        np.abs(before - _to_logarithms(table.loc[there, names].to_numpy())).max(axis=1) > MAX_LOG_DIFFERENCE[precision]
    )
    if apart.mean() > 0.5:
        raise ConfigError(
            "update=true: the rows there are of another checkpoint, or of another calibrated, precision or runtime.",
            "Choose another output, or leave update=true out: all files are judged anew.",
        )


def _take(left: Counter[str], file: str) -> bool:
    """Take a file's row from those that are left, and say whether there was one."""
    there = left[file] > 0
    left[file] -= there
    return there


def _to_logarithms(probabilities: Iterable[Any]) -> NDArray[np.float64]:
    return np.log(np.maximum(np.array(probabilities, dtype=np.float64), 1e-12))
