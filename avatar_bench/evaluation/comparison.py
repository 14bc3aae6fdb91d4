"""Comparison of new results with the earlier results given by against=."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd

from avatar_bench.config.entries import find_entry, find_renamed
from avatar_bench.console.terminal import format_names
from avatar_bench.errors import DataError, RegressionError
from avatar_bench.evaluation.result_writer import ResultWriter
from avatar_bench.results.reasons import Reason, format_reason
from avatar_bench.results.result import AGAINST_FOLDER, METRICS_FILE, Result
from avatar_bench.results.view import ALL


class EarlierResults:
    """Earlier Results found at against=: the folder of a Result, of a run, or one written with out=."""

    def __init__(self, path: Path, alpha: float) -> None:
        self.place = path.parent if path.name == METRICS_FILE else path
        self.alpha = alpha
        self.told: list[str] = []
        self.worse: list[str] = []
        if not self.place.is_dir():
            raise DataError(f"against={path}: there is no such folder.", _EXPECTED)

    def read(self, folder: Path, blocks: Collection[str], classes: Collection[str]) -> dict[str, Result]:
        """Return the earlier Results by block; call it before `folder`, which may hold them, is overwritten.

        Raise DataError if there are none, or if one is damaged or has other classes.
        """
        renamed = find_renamed("block")
        names = [*blocks, *(former for former, block in renamed.items() if block in blocks)]
        places = [self.place, *(self.place / f"evaluation/{folder.name}/{name}" for name in names)]
        results: dict[str, Result] = {}
        for result in filter(None, map(_load, places)):
            block = renamed.get(result.block, result.block)
            if block in blocks:  # results of blocks that have become one are joined
                joined = results.setdefault(block, replace(result, block=block))
                joined.metrics = result.metrics | joined.metrics
        if not results:
            have = sorted({file.parent.name for file in self.place.rglob(METRICS_FILE)} - {AGAINST_FOLDER})
            raise DataError(
                f"against={self.place} has no result of {', '.join(blocks)} on {folder.name}"
                + (f"; it has {format_names(have, 5)}." if have else "."),
                _EXPECTED,
            )
        for name, result in results.items():
            if set(result.classes) != set(classes):
                raise DataError(
                    f"against={self.place}: its {name} is of the classes {', '.join(result.classes)}, "
                    f"this run knows {', '.join(classes)}.",
                    "Expected a result of the same classes.",
                )
        return results

    def compare(self, results: list[Result], earlier: dict[str, Result], folder: Path, saving: ResultWriter) -> None:
        """Save the differences in folder/against and record a summary line for each."""
        pairs = [(result, earlier[result.block]) for result in results if result.block in earlier]
        if not pairs:
            return
        comparison: Result = find_entry("block", AGAINST_FOLDER).load().compare(pairs, self.alpha)
        comparison.provenance |= {"against": str(self.place), "view": pairs[0][0].provenance.get("view", ALL)}
        saving.add(comparison, folder / AGAINST_FOLDER)
        for row in comparison.tables.get("pairs", pd.DataFrame()).to_dict("records"):
            difference, significant = float(row["difference"]), bool(row["significant"])
            numbers = f"difference in accuracy {difference:+.3f}, p = {row['p']:.2g}, {row['n']} images in common"
            change = f"significantly {'better' if difference > 0 else 'worse'}" if significant else "statistically tied"
            if reason := Reason.parse_cell(row["reason"]):
                change = f"not tested: {format_reason(reason)}"
            self.told.append(f"against {self.place}: {change} ({numbers})")
            if significant and difference < 0:
                self.worse.append(f"{folder / row['block']} is significantly worse than {self.place}: {numbers}.")

    def finish(self) -> None:
        """Raise RegressionError if a result is significantly worse than the earlier one."""
        if self.worse:
            rest = f"So are {len(self.worse) - 1} others, see above." if len(self.worse) > 1 else ""
            raise RegressionError(self.worse[0], *[rest] * bool(rest))


_EXPECTED = "Expected an earlier RUN/evaluation/<set>/<block>, or a run already evaluated on this set with this block."


def _load(folder: Path) -> Result | None:
    """Load a Result; return None if there is none, raise DataError if it is damaged or of another version."""
    try:
        return Result.load(folder)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"against={folder}: its {METRICS_FILE} cannot be read: {error}.", _EXPECTED) from error
