"""Predictions as CSV, which is also written to standard output."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.files.table_io import format_csv, read_csv, unescape_formulas
from avatar_bench.inference.prediction_writer import TextWriter, read_whole_lines


class CsvWriter(TextWriter):
    """A writer of CSV that is safe to open in a spreadsheet."""

    def format_header(self) -> str:
        """Return the header."""
        return format_csv(pd.DataFrame(columns=self.columns))

    def format_rows(self, rows: pd.DataFrame) -> str:
        """Return the lines of rows."""
        return format_csv(rows, header=False)

    def read_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield complete rows, with numbers as text."""
        for row in csv.reader(self.read_texts(path)):
            yield dict(zip(self.columns, row, strict=True))

    def read_texts(self, path: Path) -> Iterator[str]:
        """Return the text of each complete row, perhaps of several lines."""
        return islice(read_whole_lines(path, self.format_header(), quotes=True), 1, None)

    def restore_paths(self, paths: list[str]) -> list[str]:
        """Remove from paths what made them safe for a spreadsheet."""
        return list(unescape_formulas(pd.DataFrame({"path": pd.Series(paths, dtype=object)}))["path"])

    @classmethod
    def read_table(cls, output: str) -> pd.DataFrame:
        """Read what was written, as texts."""
        return read_csv(output, dtype=object, keep_default_na=False, encoding_errors="surrogateescape")
