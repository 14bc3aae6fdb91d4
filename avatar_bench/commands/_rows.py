"""Rows of verdicts: a table written as it comes, as CSV, JSON lines or Parquet, that can be gone on with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import TracebackType
from typing import TextIO

import pandas as pd

from avatar_bench.errors import ConfigError, OutputError


def open_rows(output: str, columns: list[str], update: bool) -> Rows:
    """Open the output that `output` names: a .csv, .jsonl or .parquet file, or - for CSV on standard output.

    With `update`, the rows of an earlier output are kept; else a file of that name is replaced when all rows are
    written. Raise ConfigError on another ending or other columns, OutputError where it cannot be written.
    """
    if output == "-":
        return CsvRows(None, columns, update)
    kinds: dict[str, type[Rows]] = {".csv": CsvRows, ".jsonl": JsonRows, ".parquet": ParquetRows}
    kind = kinds.get(Path(output).suffix.lower())
    if kind is None:
        raise ConfigError(f"output={output} has no known ending.", "Expected .csv, .jsonl, .parquet, or - (CSV).")
    try:
        return kind(Path(output), columns, update)
    except OSError as error:
        raise OutputError(f"output={output} cannot be written: {error.strerror or error}.") from error


def make_room(output: str, option: str = "output") -> None:
    """Make the folder of an output, so that a place that cannot be written shows before the work; or OutputError."""
    if output == "-":
        return
    file = Path(output)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{option}={output}: its folder cannot be made: {error.strerror}.") from error
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise OutputError(f"{option}={output} cannot be written.", "Expected a file in a folder that you may write to.")


class Rows:
    """Write rows as they come; `done` holds the paths whose rows were there before."""

    def __init__(self, file: Path | None, columns: list[str], update: bool) -> None:
        self.file = file
        self.columns = columns
        earlier = file is not None and file.is_file()
        self.done = self.read(file) if earlier and update and file is not None else set()
        # an earlier file stays until the new one is whole
        self.part = file.with_name(f"{file.name}.part") if earlier and not self.done and file is not None else None
        self.begin()

    def __enter__(self) -> Rows:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()
        if self.part is not None and self.file is not None and kind is None:
            self.part.replace(self.file)

    def read(self, file: Path) -> set[str]:
        """Give the paths of an earlier output's rows."""
        raise NotImplementedError

    def begin(self) -> None:
        """Make ready to write."""
        raise NotImplementedError

    def write(self, rows: pd.DataFrame) -> None:
        """Write some rows."""
        raise NotImplementedError

    def end(self) -> None:
        """Write what is left, and close."""
        raise NotImplementedError


class TextRows(Rows):
    """Write lines of text, flushed after each batch, so that an interruption costs no row that is done."""

    stream: TextIO

    def begin(self) -> None:
        """Open the file, or standard output."""
        if self.file is None:
            self.stream = sys.stdout
        else:
            place = self.part or self.file
            self.stream = place.open("a" if self.done else "w", encoding="utf-8", errors="surrogateescape", newline="")
        if not self.done:
            self.head()

    def head(self) -> None:
        """Write what stands before the first row."""

    def end(self) -> None:
        """Close the file."""
        self.stream.flush()
        if self.file is not None:
            self.stream.close()


class CsvRows(TextRows):
    """Write CSV."""

    def head(self) -> None:
        """Write the header."""
        pd.DataFrame(columns=self.columns).to_csv(self.stream, index=False)

    def read(self, file: Path) -> set[str]:
        """Give the paths of whole rows; refuse a file with other columns."""
        _cut_to_whole_lines(file)
        if not file.stat().st_size:
            return set()
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        if list(table.columns) != self.columns:
            raise ConfigError(f"update=true: {file} has other columns than this run gives.", "Choose another output.")
        return set(table["path"])

    def write(self, rows: pd.DataFrame) -> None:
        """Write some rows, and flush them."""
        rows.to_csv(self.stream, index=False, header=False)
        self.stream.flush()


class JsonRows(TextRows):
    """Write one JSON object a line; what a failed file lacks is null."""

    def read(self, file: Path) -> set[str]:
        """Give the paths of whole rows."""
        _cut_to_whole_lines(file)
        with file.open(encoding="utf-8") as stream:
            return {json.loads(line)["path"] for line in stream}

    def write(self, rows: pd.DataFrame) -> None:
        """Write some rows, and flush them."""
        for row in rows.astype(object).where(rows.notna(), None).to_dict("records"):
            self.stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self.stream.flush()


class ParquetRows(Rows):
    """Write one Parquet file, whole, at the end or when interrupted: Parquet has no rows that can be added."""

    def begin(self) -> None:
        """Start with the rows of the earlier output, if they are to be kept."""
        assert self.file is not None
        self.rows = [pd.read_parquet(self.file)] if self.done else []

    def read(self, file: Path) -> set[str]:
        """Give the paths of the rows."""
        return set(pd.read_parquet(file, columns=["path"])["path"])

    def write(self, rows: pd.DataFrame) -> None:
        """Keep some rows."""
        self.rows.append(rows)

    def end(self) -> None:
        """Write all rows, and put them in their place."""
        assert self.file is not None
        place = self.part or self.file
        part = place.with_name(f"{place.name}.tmp")
        table = pd.concat(self.rows, ignore_index=True) if self.rows else pd.DataFrame(columns=self.columns)
        table.to_parquet(part, index=False)
        part.replace(place)


def _cut_to_whole_lines(file: Path) -> None:
    """Drop a last line that was not written to its end."""
    text = file.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]
    if len(whole) < len(text):
        file.write_bytes(whole)
