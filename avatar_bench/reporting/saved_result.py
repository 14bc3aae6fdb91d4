"""Saved results: reading a result from its folder, with tables, figures and problems."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.files.csv_io import read_csv
from avatar_bench.i18n import _
from avatar_bench.results.result import Metric, Result, check_schema

METRICS_FILE = "metrics.json"
MAX_SHOWN_ROWS = 60  # rows of a table shown in the page; longer tables are linked
_SHOWN_TABLES = {"blind_test": ("per_source",)}  # tables shown of blocks of one run; comparisons show all


@dataclass(frozen=True)
class SavedResult:
    """Result with its folder, the names of all files saved with it, and those that are missing now."""

    folder: Path
    result: Result
    files: tuple[str, ...]
    missing_files: tuple[str, ...]

    @property
    def figures(self) -> list[str]:
        """Return the sorted names of its figures, missing ones included."""
        return sorted(Path(name).stem for name in self.files if name.endswith(".svg"))

    @property
    def image_folders(self) -> dict[str, int]:
        """Return the number of images in each of its image folders."""
        return Counter(str(Path(name).parent) for name in self.files if "/" in name and name not in self.missing_files)

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the evaluated images, or ""."""
        return str(self.result.provenance.get("data_fingerprint", ""))

    def metric(self, name: str) -> Metric | None:
        """Return a metric by its name, None where the result lacks it."""
        return self.result.metrics.get(name)


@dataclass(frozen=True)
class Problem:
    """Unfinished, missing, damaged or foreign item (`kind`), with its place, reason and `model`."""

    kind: str
    where: str
    why: str
    model: str = ""


def read_saved(folder: Path, compares: bool = False) -> SavedResult | Problem:
    """Read the result in a folder with the tables to show, or return the Problem why it cannot be read.

    Of each table, only as many rows are read as are needed to detect that it is too long.
    """
    try:
        text = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        files = tuple(str(name) for name in text["files"])
        missing = tuple(name for name in files if not (folder / name).is_file())
        tables = [name for name in files if name.endswith(".csv") and name not in missing]
        if not compares:
            tables = [name for name in tables if Path(name).stem in _SHOWN_TABLES.get(folder.name, ())]
        result = _build_result(
            text, {Path(name).stem: read_csv(folder / name, nrows=MAX_SHOWN_ROWS + 1) for name in tables}
        )
    except FileNotFoundError:
        return Problem("damaged", str(folder), _("{file} is missing", file=METRICS_FILE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Problem("damaged", str(folder), _("it cannot be read: {why}", why=_shorten(error)))
    if result.block != folder.name:
        why = _("{file} belongs to the block {block}", file=METRICS_FILE, block=result.block)
        return Problem("foreign", str(folder), why)
    return SavedResult(folder, result, files, missing)


def read_evaluation(place: Path, compares: bool = False) -> Iterator[SavedResult | Problem]:
    """Yield every result in evaluation/<set>/<block>/ of a folder, sorted by name."""
    for folder in sorted((place / "evaluation").glob("*/*/")):
        if not folder.name.startswith("."):  # a result being written
            yield read_saved(folder, compares)


def _build_result(text: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Result:
    check_schema(text)
    metrics = {str(name): Metric.parse(stated) for name, stated in text["metrics"].items()}
    parts = (text["block"], text["set"], text["n"], tuple(text["classes"]), metrics, tables)
    return Result(*parts, warnings=list(text["warnings"]), provenance=dict(text["provenance"]))


def _shorten(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
