"""Predictions as JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.inference.prediction_writer import TextWriter, format_json, list_objects, read_whole_lines


class JsonLinesWriter(TextWriter):
    """A writer of one JSON object a line; missing values of a failed file are null."""

    def read_rows(self, path: Path) -> Iterator[dict[str, Any]]:
        """Yield complete rows."""
        for row in map(json.loads, self.read_texts(path)):
            if list(row) != self.columns:
                raise ValueError(list(row))
            yield row

    def read_texts(self, path: Path) -> Iterator[str]:
        """Return complete lines."""
        return read_whole_lines(path, '{"path": ')

    def format_rows(self, rows: pd.DataFrame) -> str:
        """Return the lines of rows."""
        return "".join(f"{format_json(row)}\n" for row in list_objects(rows))

    @classmethod
    def read_table(cls, output: str) -> pd.DataFrame:
        """Read what was written."""
        with open(output, encoding="utf-8", newline="\n") as lines:
            return pd.DataFrame(map(json.loads, lines))
