"""Tables of the report, for HTML, Markdown and CSV."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import pandas as pd

from avatar_bench.files.csv_io import format_csv
from avatar_bench.reporting.number_format import format_cell

Column = dict[str, Any]
BETTER = {True: "higher", False: "lower", None: None}  # direction of a column, by whether higher values are better
_MAX_INLINE_ROWS = 100  # rows of a table embedded as CSV


@dataclass
class TableRow:
    """Row of a table: cells, label of its model or labels of its models, and whether it is highlighted."""

    cells: list[Any]
    model: str | list[str] | None = None
    best: bool = False


@dataclass
class Table:
    """Table of the report: `href` is the link to its CSV, `notes` how to read it, `compact` means low rows.

    `main`: it is open where other tables of its block are folded.
    """

    name: str
    caption: str
    columns: list[Column]
    rows: list[TableRow] = field(default_factory=list)
    notes: str | None = None
    href: str | None = None
    compact: bool = False
    main: bool = False

    @property
    def csv(self) -> str | None:
        """Return the link to its CSV: a saved file, or a data URL for a short table made by the report."""
        if self.href or not 0 < len(self.rows) <= _MAX_INLINE_ROWS:
            return self.href
        return "data:text/csv;charset=utf-8," + quote(format_csv(self.frame()))

    @property
    def plain_rows(self) -> list[dict[str, Any]]:
        """Return the rows as expected by the macros of the page."""
        return [vars(row) for row in self.rows]

    @property
    def texts(self) -> list[list[str]]:
        """Return the rows as plain text, for Markdown."""
        return [[format_cell(cell) for cell in row.cells] for row in self.rows]

    def frame(self) -> pd.DataFrame:
        """Return the table for CSV: numbers in full, intervals in separate columns."""
        parts: dict[str, list[Any]] = {}
        for place, column in enumerate(self.columns):
            cells = [row.cells[place] for row in self.rows]
            name = str(column.get("key", column["text"]))
            name = f"{name} {len(parts)}" if name in parts else name
            parts[name] = [_find_full_value(cell) for cell in cells]
            for end in ("low", "high"):
                if any(isinstance(cell, dict) and end in cell for cell in cells):
                    parts[f"{name} {end}"] = [cell.get(end) if isinstance(cell, dict) else None for cell in cells]
        return pd.DataFrame(parts)


def make_column(text: str, number: bool = False, better: str | None = None, **more: Any) -> Column:
    """Return a column; `better` is "higher" or "lower" where one direction is better."""
    return {"text": text, "number": number} | ({"better": better} if better else {}) | more


def fit_scale(columns: Sequence[Column], rows: Iterable[TableRow]) -> None:
    """Enable the drawing of intervals for columns whose values all lie between 0 and 1."""
    all_rows = list(rows)
    for place, one in enumerate(columns):
        cells = [row.cells[place] for row in all_rows]
        ends = [cell[key] for cell in cells if isinstance(cell, dict) for key in ("low", "high") if key in cell]
        one["bars"] = bool(ends) and min(ends) >= 0 and max(ends) <= 1


def fit_ends(cells: Iterable[Any]) -> Column:
    """Return the properties of a column that draws its intervals on a scale from their lowest to their highest end."""
    ends = [cell[key] for cell in cells if isinstance(cell, dict) for key in ("low", "high") if key in cell]
    return {"bars": True, "start": min(ends), "stop": max(ends)} if ends else {"bars": False}


def _find_full_value(cell: Any) -> Any:
    """Return the full value of a cell, such as a whole hash of which a few digits are shown."""
    if not isinstance(cell, dict):
        return cell
    return next((cell[key] for key in ("full", "value") if cell.get(key) is not None), format_cell(cell))
