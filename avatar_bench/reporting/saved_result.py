"""Saved: one Result as it lies in its folder, with its tables, figures, and what is wrong with it."""

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
MAX_SHOWN_ROWS = 60  # of a table that stands in the page; longer ones are linked to
_SHOWN_TABLES = {
    "blind_test": ("per_source",)
}  # tables of blocks of one run that the page shows; of comparisons it shows all


@dataclass(frozen=True)
class SavedResult:
    """Hold a Result, its folder, the names of all files that it was saved with, and those of them that are gone."""

    folder: Path
    result: Result
    files: tuple[str, ...]
    gone: tuple[str, ...]

    @property
    def figures(self) -> list[str]:
        """Return the names of its figures, in order, those that are gone too."""
        return sorted(Path(name).stem for name in self.files if name.endswith(".svg"))

    @property
    def image_folders(self) -> dict[str, int]:
        """Return the folders of its images, and how many each holds."""
        return Counter(str(Path(name).parent) for name in self.files if "/" in name and name not in self.gone)

    @property
    def fingerprint(self) -> str:
        """Give the fingerprint of the images that were judged, or an empty text."""
        return str(self.result.provenance.get("data_fingerprint", ""))

    def metric(self, name: str) -> Metric | None:
        """Give a figure by its name, None where the Result has none of that name."""
        return self.result.metrics.get(name)


@dataclass(frozen=True)
class Problem:
    """Say that something is unfinished, missing, damaged or foreign (`kind`), where, why, and of which `model`."""

    kind: str
    where: str
    why: str
    model: str = ""


def read_saved(folder: Path, compares: bool = False) -> SavedResult | Problem:
    """Read the Result in a folder with the tables that are shown, or give the Problem why it cannot be had.

    Of a table no more rows are read than tell that it is too long to be shown.
    """
    try:
        text = json.loads((folder / METRICS_FILE).read_text(encoding="utf-8"))
        files = tuple(str(name) for name in text["files"])
        gone = tuple(name for name in files if not (folder / name).is_file())
        tables = [name for name in files if name.endswith(".csv") and name not in gone]
        if not compares:
            tables = [name for name in tables if Path(name).stem in _SHOWN_TABLES.get(folder.name, ())]
        result = _build_result(
            text, {Path(name).stem: read_csv(folder / name, nrows=MAX_SHOWN_ROWS + 1) for name in tables}
        )
    except FileNotFoundError:
        return Problem("damaged", str(folder), _("it holds no {file}", file=METRICS_FILE))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Problem("damaged", str(folder), _("it cannot be read: {why}", why=_shorten(error)))
    if result.block != folder.name:
        why = _("its {file} is of the block {block}", file=METRICS_FILE, block=result.block)
        return Problem("foreign", str(folder), why)
    return SavedResult(folder, result, files, gone)


def read_evaluation(place: Path, compares: bool = False) -> Iterator[SavedResult | Problem]:
    """Read every Result below a folder called evaluation: <set>/<block>/, in the order of their names."""
    for folder in sorted((place / "evaluation").glob("*/*/")):
        if not folder.name.startswith("."):  # a Result that is being written
            yield read_saved(folder, compares)


def _build_result(text: dict[str, Any], tables: dict[str, pd.DataFrame]) -> Result:
    check_schema(text)
    metrics = {str(name): Metric.parse(stated) for name, stated in text["metrics"].items()}
    parts = (text["block"], text["set"], text["n"], tuple(text["classes"]), metrics, tables)
    return Result(*parts, warnings=list(text["warnings"]), provenance=dict(text["provenance"]))


def _shorten(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
