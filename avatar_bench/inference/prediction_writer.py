"""Rows of verdicts: a table written as it comes, as CSV, JSON lines or Parquet, that can be gone on with."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pandas as pd
from pyarrow.lib import ArrowInvalid

from avatar_bench.console.signals import ignore_termination
from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.files.csv_io import unescape_formulas, write_csv

CHECKED_ROWS = 16  # rows of an earlier output by which it is told whose they are


def open_writer(output: str, columns: list[str], update: bool) -> PredictionWriter:
    """Open the output that `output` names: a .csv, .jsonl or .parquet file, or - for CSV on standard output.

    With `update`, the rows of an earlier output are kept; else a file of that name is replaced when all rows are
    written. Raise ConfigError on another ending or other columns, OutputError where it cannot be written.
    """
    kind, file = find_writer(output), Path(output)
    if output == "-":
        return kind(None, columns)
    part = file.with_name(f"{file.name}.part")  # an earlier file stays until the new one is whole
    if update:
        place = part if part.is_file() else file
    elif file.is_file():
        place = part
    else:
        place = file
    try:
        if place is file:
            part.unlink(missing_ok=True)
        return kind(place, columns, update and place.is_file(), file)
    except OSError as error:
        raise OutputError(f"output={output} cannot be written: {error.strerror or error}.") from error


def find_writer(output: str) -> type[PredictionWriter]:
    """Give what writes the kind of file that an output's ending names; raise ConfigError where there is none."""
    kinds: dict[str, type[PredictionWriter]] = {
        ".csv": CsvWriter,
        ".jsonl": JsonLinesWriter,
        ".parquet": ParquetFileWriter,
    }
    kind = CsvWriter if output == "-" else kinds.get(Path(output).suffix.lower())
    if kind is None:
        raise ConfigError(f"output={output} has no known ending.", "Expected .csv, .jsonl, .parquet, or - (CSV).")
    return kind


class PredictionWriter:
    """Write rows to `place`, and put it where `final` is once all are written; None: standard output.

    `kept` holds the paths of the rows that were there before, in order, `last` the last of these rows, and `bad` counts
    those of files that could not be used; `count` is the number of rows there now.
    """

    def __init__(
        self, place: Path | None, columns: list[str], going_on: bool = False, final: Path | None = None
    ) -> None:
        self.place, self.columns, self.final = place, columns, final
        self.kept: list[str] = []
        self.bad = 0
        self.last: deque[dict[str, Any]] = deque(maxlen=CHECKED_ROWS)
        if going_on and place is not None:
            self._read_earlier(place)
        self.count = len(self.kept)
        self.begin()

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with ignore_termination():
            self.end()
            if self.place is not None and self.final is not None and kind is None:
                self.place.replace(self.final)

    def path_of(self, file: str) -> str:
        """Give the path of a file as its row tells it."""
        return file

    def read(self, place: Path) -> Iterator[dict[str, Any]]:
        """Give the rows of an earlier output, and cut off what is not whole; raise ConfigError where it is no such."""
        raise NotImplementedError

    def plain(self, paths: list[str]) -> list[str]:
        """Give the paths that rows tell, as `path_of` gives them."""
        return paths

    def begin(self) -> None:
        """Make ready to write after the rows that are kept."""
        raise NotImplementedError

    def write(self, rows: pd.DataFrame) -> None:
        """Write some rows."""
        raise NotImplementedError

    def end(self) -> None:
        """Write what is left, and close."""
        raise NotImplementedError

    def _read_earlier(self, place: Path) -> None:
        try:
            for row in self.read(place):
                self.kept.append(row["path"])
                self.bad += row["status"] == "error"
                self.last.append(row)
            self.kept = self.plain(self.kept)
            for path, row in zip(self.kept[-CHECKED_ROWS:], self.last, strict=True):
                row["path"] = path
        except (ValueError, TypeError, KeyError, ArrowInvalid, csv.Error) as error:
            raise ConfigError(
                f"update=true: {place} has other columns than this run gives, or is damaged.", "Choose another output."
            ) from error


class TextWriter(PredictionWriter):
    """Write whole lines, a batch at a time, so that an interruption costs no row that is done."""

    stream: BinaryIO

    def begin(self) -> None:
        """Open the file, or standard output."""
        if self.place is None:
            self.stream = sys.stdout.buffer
        else:
            self.stream = self.place.open("ab" if self.kept else "wb", buffering=0)
        self.whole = self.stream.tell() if self.place is not None else 0
        if not self.kept:
            self._put(self.head())

    def head(self) -> str:
        """Give what stands before the first row."""
        return ""

    def text(self, rows: pd.DataFrame) -> str:
        """Give the lines of some rows."""
        raise NotImplementedError

    def write(self, rows: pd.DataFrame) -> None:
        """Write some rows; raise OutputError where there is no room for them."""
        self._put(self.text(rows))
        self.count += len(rows)

    def end(self) -> None:
        """Close the file; what was not written to its end is cut off."""
        if self.place is not None:
            with suppress(OSError):  # a pipe cannot be cut
                self.stream.truncate(self.whole)
            self.stream.close()

    def _put(self, text: str) -> None:
        left = memoryview(text.encode("utf-8", errors="surrogateescape"))  # names that are not UTF-8 stay as they are
        size = len(left)
        try:
            while left:
                left = left[self.stream.write(left) :]
            self.stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"output={self.final or '-'} cannot be written: {error.strerror}.") from error
        self.whole += size


class CsvWriter(TextWriter):
    """Write CSV that a spreadsheet may open."""

    def head(self) -> str:
        """Give the header."""
        return _format_csv(pd.DataFrame(columns=self.columns), header=True)

    def text(self, rows: pd.DataFrame) -> str:
        """Give the lines of some rows."""
        return _format_csv(rows, header=False)

    def read(self, place: Path) -> Iterator[dict[str, Any]]:
        """Give whole rows, their numbers as text."""
        whole = _measure_whole_lines(place, self.head(), quotes=True)
        with place.open("rb") as stream:
            for row in islice(csv.reader(_read_lines(stream, whole)), 1, None):
                yield dict(zip(self.columns, row, strict=True))
        _truncate(place, whole)

    def plain(self, paths: list[str]) -> list[str]:
        """Give paths as they were before they were made safe for a spreadsheet."""
        return list(unescape_formulas(pd.DataFrame({"path": pd.Series(paths, dtype=object)}))["path"])


class JsonLinesWriter(TextWriter):
    """Write one JSON object a line; what a failed file lacks is null."""

    def read(self, place: Path) -> Iterator[dict[str, Any]]:
        """Give whole rows."""
        whole = _measure_whole_lines(place, '{"path": ')
        with place.open("rb") as stream:
            for row in map(json.loads, _read_lines(stream, whole)):
                if list(row) != self.columns:
                    raise ValueError(list(row))
                yield row
        _truncate(place, whole)

    def text(self, rows: pd.DataFrame) -> str:
        """Give the lines of some rows."""
        objects = rows.astype(object).where(rows.notna(), None).to_dict("records")
        return "".join(f"{_format_json(row)}\n" for row in objects)


class ParquetFileWriter(PredictionWriter):
    """Write one Parquet file, whole, at the end or when interrupted: Parquet has no rows that can be added."""

    def path_of(self, file: str) -> str:
        r"""Give the path of a file; bytes that are not UTF-8, which Parquet cannot hold, are told as \xff."""
        return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def read(self, place: Path) -> Iterator[dict[str, Any]]:
        """Give the rows."""
        self.earlier = pd.read_parquet(place)
        if list(self.earlier) != self.columns:
            raise ValueError(list(self.earlier))
        yield from (dict(zip(self.columns, row, strict=True)) for row in self.earlier.itertuples(index=False))

    def begin(self) -> None:
        """Start with the rows of the earlier output, if they are to be kept."""
        self.rows = [self.earlier] if self.kept else []

    def write(self, rows: pd.DataFrame) -> None:
        """Keep some rows."""
        self.rows.append(rows.assign(path=rows["path"].map(self.path_of)))
        self.count += len(rows)

    def end(self) -> None:
        """Write all rows, and put them in their place."""
        assert self.place is not None
        part = self.place.with_name(f"{self.place.name}.tmp")
        table = pd.concat(self.rows, ignore_index=True) if self.rows else pd.DataFrame(columns=self.columns)
        try:
            table.to_parquet(part, index=False)
            part.replace(self.place)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise OutputError(f"output={self.final} cannot be written: {error.strerror or error}.") from error


def _format_csv(rows: pd.DataFrame, header: bool) -> str:
    text = io.StringIO(newline="")
    write_csv(rows, text, header=header, lineterminator="\n")
    return text.getvalue()


def _format_json(row: Mapping[Hashable, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(row)  # surrogates, of names that are not UTF-8, as escapes


def _measure_whole_lines(file: Path, start: str, quotes: bool = False) -> int:
    """Give the size of a file up to the end of its last whole line; raise ValueError where it does not begin as ours.

    With `quotes`, a line that ends within quotes goes on.
    """
    whole = size = open_quotes = 0
    with file.open("rb") as stream:
        begun = stream.read(len(start.encode()))
        if not start.encode().startswith(begun):
            raise ValueError(begun)
        stream.seek(0)
        for line in stream:
            size += len(line)
            open_quotes ^= line.count(b'"') & 1 if quotes else 0
            if line.endswith(b"\n") and not open_quotes:
                whole = size
    return whole


def _read_lines(stream: BinaryIO, size: int) -> Iterator[str]:
    """Give the lines of the first bytes of a file."""
    while stream.tell() < size:
        yield stream.readline().decode("utf-8", errors="surrogateescape")


def _truncate(file: Path, size: int) -> None:
    with file.open("r+b") as stream:
        stream.truncate(size)
