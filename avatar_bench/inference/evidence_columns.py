"""Columns of a table of predictions with the evidence in the files, which changes no other column."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.data.evidence.evidence_rules import EVIDENCE_COLUMNS, conclude, find_evidence, format_evidence
from avatar_bench.data.evidence.file_metadata import read_metadata
from avatar_bench.errors import ConfigError
from avatar_bench.files.csv_io import unescape_formulas


def add_evidence(table: pd.DataFrame, name_class: Callable[[str], str], trust: str = "") -> pd.DataFrame:
    """Return a table of predictions with EVIDENCE_COLUMNS, None for files that failed.

    `name_class` returns the run's class for real, drawing or generated, "" if it has none; `trust` is a PEM text.
    """
    found = [_read(path, name_class, trust) if status == "ok" else (None, None) for path, status in _pair(table)]
    columns = zip(EVIDENCE_COLUMNS, zip(*found, strict=True), strict=True) if found else ()
    return table.assign(**{name: pd.Series(values, table.index, dtype=object) for name, values in columns})


def refuse_other_evidence(rows: Sequence[Mapping[str, Any]], name_class: Callable[[str], str], trust: str = "") -> None:
    """Read the evidence of earlier rows again; raise ConfigError if it differs in a file that can be read."""
    before = pd.DataFrame([row for row in rows if row["status"] == "ok"], columns=["path", "status", *EVIDENCE_COLUMNS])
    names = list(EVIDENCE_COLUMNS)
    after = add_evidence(before[["path", "status"]], name_class, trust)
    if not len(after):
        return
    readable = after["evidence"].notna()
    pairs = (unescape_formulas(frame.loc[readable, names].fillna("").astype(object)) for frame in (before, after))
    one, other = (frame.to_numpy().tolist() for frame in pairs)
    if one != other:
        raise ConfigError(
            "update=true: the evidence in the existing rows is another: a file, evidence.trust or view has changed.",
            "Choose another output, or remove update=true to predict all files again.",
        )


def _pair(table: pd.DataFrame) -> list[tuple[str, str]]:
    return list(zip(table["path"], table["status"], strict=True))


def _read(path: str, name_class: Callable[[str], str], trust: str) -> tuple[str | None, str | None]:
    try:
        data = Path(path).read_bytes()
    except OSError:  # it has gone since it was predicted
        return None, None
    found = find_evidence(read_metadata(data, trust))
    return name_class(conclude(found)), format_evidence(found)
