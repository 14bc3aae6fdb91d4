"""Columns of a table of predictions with the evidence in the files, which changes no other column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from avatar_bench.data.decoding import read_content
from avatar_bench.data.evidence.evidence_rules import EVIDENCE_COLUMNS, conclude, find_evidence, format_evidence
from avatar_bench.data.evidence.file_metadata import read_metadata
from avatar_bench.errors import ConfigError, DataError
from avatar_bench.files.csv_io import unescape_formulas


def add_evidence(table: pd.DataFrame, name_class: Callable[[str], str], trust: str = "") -> pd.DataFrame:
    """Return a table of predictions with EVIDENCE_COLUMNS, None for files that failed.

    `name_class` returns the run's class for real, drawing or generated, "" if it has none; `trust` is a PEM text.
    """
    files = zip(table["path"], table["status"], strict=True)
    found = [_read(path, name_class, trust) if status == "ok" else (None, None) for path, status in files]
    columns = zip(EVIDENCE_COLUMNS, zip(*found, strict=True), strict=True) if found else ()
    return table.assign(**{name: pd.Series(values, table.index, dtype=object) for name, values in columns})


def refuse_other_evidence(rows: Sequence[Mapping[str, Any]], name_class: Callable[[str], str], trust: str = "") -> None:
    """Read the evidence of earlier rows again; raise ConfigError if it differs in a file that can be read."""
    good = [(row, _read(row["path"], name_class, trust)) for row in rows if row["status"] == "ok"]
    pairs = [([row[name] for name in EVIDENCE_COLUMNS], list(found)) for row, found in good if found[1] is not None]
    # what a spreadsheet would run as a formula is preceded by a sign in CSV
    before, after = (unescape_formulas(pd.DataFrame([pair[k] for pair in pairs], dtype=object)) for k in (0, 1))
    if not before.equals(after):
        raise ConfigError(
            "update=true: the evidence in the existing rows is another: a file, evidence.trust or view has changed.",
            "Choose another output, or remove update=true to predict all files again.",
        )


def _read(path: str, name_class: Callable[[str], str], trust: str) -> tuple[str | None, str | None]:
    try:
        data = read_content(path, path)
    except DataError:  # it has gone since it was predicted
        return None, None
    found = find_evidence(read_metadata(data, trust))
    return name_class(conclude(found)), format_evidence(found)
