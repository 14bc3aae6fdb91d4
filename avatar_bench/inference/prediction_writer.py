"""Writers of prediction tables, batch by batch and resumable, as CSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import json
import mmap
import os
import sys
from collections import deque
from collections.abc import Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pandas as pd
from pyarrow import parquet
from pyarrow.lib import ArrowInvalid

from avatar_bench.console.signals import ignore_termination
from avatar_bench.errors import ConfigError, OutputError
from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.csv_io import format_csv, read_csv, unescape_formulas
from avatar_bench.files.remote import is_remote, open_remote
from avatar_bench.inference.file_stamps import Stamp, find_outdated, load_stamps, locate_stamps, save_stamps

CHECKED_ROWS = 16  # last rows of an earlier output that are compared to check that they are of the same run

_collected: ContextVar[list[pd.DataFrame] | None] = ContextVar("collected", default=None)


@contextmanager
def collect_rows() -> Iterator[list[pd.DataFrame]]:
    """Collect the rows that are written inside the `with`, and write none to standard output."""
    tables: list[pd.DataFrame] = []
    token = _collected.set(tables)
    try:
        yield tables
    finally:
        _collected.reset(token)


def open_writer(output: str, columns: list[str], update: bool, stamps: Mapping[str, Stamp | None]) -> PredictionWriter:
    """Open a writer for `output`: a .csv, .jsonl or .parquet file, or - for CSV on standard output.

    With `update`, the rows of an earlier output are kept, but those of files that have changed since, by their
    `stamps`; otherwise an existing file is replaced once all rows are written. Raises ConfigError for other columns,
    OutputError if the output cannot be written.
    """
    if output == "-":
        return CsvWriter(None if _collected.get() is None else Path(os.devnull), columns)
    file, kinds = Path(output), {".csv": CsvWriter, ".jsonl": JsonLinesWriter, ".parquet": ParquetFileWriter}
    kind = kinds[file.suffix.lower()]
    part = file.with_name(f"{file.name}.part")  # an earlier file stays until the new one is complete
    place = part if (part if update else file).is_file() else file
    try:
        if place is file:
            part.unlink(missing_ok=True)
            locate_stamps(part).unlink(missing_ok=True)
        return kind(place, columns, update and place.is_file(), file, stamps)
    except OSError as error:
        raise _make_output_error(output, error) from error


def refuse_foreign_file(output: str) -> None:
    """Raise OutputError if an output is there, and neither empty nor predictions or a page for review."""
    file = Path(output)
    if not file.is_file() or not file.stat().st_size:
        return
    marks = (b"path", b"status", b"prediction") if file.suffix.lower() != ".html" else (b'class="cards"',)
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        first_line = content.find(b"\n") if file.suffix.lower() in (".csv", ".jsonl") else -1
        if all(content.find(mark, 0, first_line if first_line > 0 else len(content)) >= 0 for mark in marks):
            return
    raise OutputError(f"output={output} is there, and holds no predictions.", "Choose another name: output=FILE")


class PredictionWriter:
    """A writer of rows to `place` (None: standard output) that is renamed to `final` once all rows are written.

    `kept` are the paths of the earlier rows, in order, `last` is the last few of these rows, and `bad` counts the
    failed files among them; `count` is the number of rows written so far, including the earlier ones. `outdated` is
    the number of earlier rows that are not kept, because their files have changed, see `find_outdated`.
    """

    def __init__(
        self,
        place: Path | None,
        columns: list[str],
        resume: bool = False,
        final: Path | None = None,
        stamps: Mapping[str, Stamp | None] | None = None,
    ) -> None:
        self.place, self.columns, self.final = place, columns, final
        self.outdated = 0
        self._forget()
        earlier: dict[str, Stamp | None] = {}
        current = {self.path_of(file): stamp for file, stamp in (stamps or {}).items()}
        if resume and place is not None:
            earlier, written = load_stamps(locate_stamps(place)), place.stat().st_mtime_ns
            try:
                self._keep(place)
                if outdated := set(find_outdated(current, earlier, self.kept, written)):
                    self.outdated = sum(path in outdated for path in self.kept)
                    self.remove_rows(place, outdated)
                    self._forget()
                    self._keep(place)
            except (ValueError, TypeError, KeyError, ArrowInvalid, csv.Error) as error:
                reason = f"update=true: {place} does not have the columns of this run, or is damaged."
                raise ConfigError(reason, "Choose another output.") from error
        if place is not None and stamps:  # after outdated rows are gone, so that none passes for a current one
            known = {path: stamp for path, stamp in current.items() if stamp or path not in earlier}
            save_stamps(earlier | known, locate_stamps(place))
        self.count = len(self.kept)
        self.start()

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with ignore_termination():
            self.close()
            if self.place is not None and self.final is not None and kind is None:
                self.place.replace(self.final)
                if (stamps := locate_stamps(self.place)).is_file():
                    stamps.replace(locate_stamps(self.final))

    def path_of(self, file: str) -> str:
        """Return the path of a file as written in its row."""
        return file

    def read_rows(self, place: Path) -> Iterator[dict[str, Any]]:
        """Yield the rows of an earlier output and truncate an incomplete one; raise an error for any other file."""
        raise NotImplementedError

    def restore_paths(self, paths: list[str]) -> list[str]:
        """Convert the paths in rows to those of `path_of`."""
        return paths

    def remove_rows(self, place: Path, paths: Collection[str]) -> None:
        """Remove the rows of some files, of those in `kept`, from an earlier output."""
        raise NotImplementedError

    def _forget(self) -> None:
        self.kept: list[str] = []
        self.bad = 0
        self.last: deque[dict[str, Any]] = deque(maxlen=CHECKED_ROWS)

    def _keep(self, place: Path) -> None:
        """Read the rows of an earlier output; raise an error, of several types, for any other file."""
        for row in self.read_rows(place):
            self.kept.append(row["path"])
            self.bad += row["status"] == "error"
            self.last.append(row)
        self.kept = self.restore_paths(self.kept)
        for path, row in zip(self.kept[-CHECKED_ROWS:], self.last, strict=True):
            row["path"] = path

    def start(self) -> None:
        """Prepare for writing after the earlier rows."""
        raise NotImplementedError

    def add(self, rows: pd.DataFrame) -> None:
        """Write rows, and collect them inside of `collect_rows`."""
        self.write(rows)
        if (tables := _collected.get()) is not None:
            tables.append(rows[self.columns])

    def write(self, rows: pd.DataFrame) -> None:
        """Write rows."""
        raise NotImplementedError

    def close(self) -> None:
        """Write the rest, and close the output."""
        raise NotImplementedError


class TextWriter(PredictionWriter):
    """A writer of complete lines, batch by batch, so that an interruption loses no finished row."""

    stream: BinaryIO

    def start(self) -> None:
        """Open the file or standard output."""
        self.complete = 0
        if self.place is None:
            self.stream = sys.stdout.buffer
        else:
            self.stream = self.place.open("ab" if self.kept else "wb", buffering=0)
            self.complete = self.stream.tell()
        if not self.kept:
            self._put(self.format_header())

    def format_header(self) -> str:
        """Return the text before the first row."""
        return ""

    def format_rows(self, rows: pd.DataFrame) -> str:
        """Return the lines of rows."""
        raise NotImplementedError

    def read_texts(self, place: Path) -> Iterator[str]:
        """Yield the text of each complete row, and truncate an incomplete one; raise ValueError for any other file."""
        raise NotImplementedError

    def remove_rows(self, place: Path, paths: Collection[str]) -> None:
        """Remove the rows of some files, of those in `kept`, from an earlier output."""
        with atomic_write(place, alone=False) as part, part.open("wb") as stream:  # PLACE.part would be taken for rows
            rows = zip(self.read_texts(place), self.kept, strict=True)
            for text in (self.format_header(), *(text for text, path in rows if path not in paths)):
                stream.write(text.encode("utf-8", errors="surrogateescape"))

    def write(self, rows: pd.DataFrame) -> None:
        """Write rows; raise OutputError if the disk is full."""
        self._put(self.format_rows(rows))
        self.count += len(rows)

    def close(self) -> None:
        """Close the file, and truncate an incomplete row."""
        if self.place is not None:
            with suppress(OSError):  # a pipe cannot be truncated
                self.stream.truncate(self.complete)
            self.stream.close()

    def _put(self, text: str) -> None:
        left = memoryview(text.encode("utf-8", errors="surrogateescape"))  # keeps names that are not UTF-8
        size = len(left)
        try:
            while left:
                left = left[self.stream.write(left) :]
            self.stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise _make_output_error(self.final or "-", error) from error
        self.complete += size


class CsvWriter(TextWriter):
    """A writer of CSV that is safe to open in a spreadsheet."""

    def format_header(self) -> str:
        """Return the header."""
        return format_csv(pd.DataFrame(columns=self.columns))

    def format_rows(self, rows: pd.DataFrame) -> str:
        """Return the lines of rows."""
        return format_csv(rows, header=False)

    def read_rows(self, place: Path) -> Iterator[dict[str, Any]]:
        """Yield complete rows, with numbers as text."""
        for row in csv.reader(self.read_texts(place)):
            yield dict(zip(self.columns, row, strict=True))

    def read_texts(self, place: Path) -> Iterator[str]:
        """Yield the text of each complete row, perhaps of several lines."""
        complete, text = _measure_whole_lines(place, self.format_header(), quotes=True), ""
        for line in islice(_read_lines(place, complete), 1, None):
            text += line
            if not text.count('"') % 2:
                yield text
                text = ""
        os.truncate(place, complete)

    def restore_paths(self, paths: list[str]) -> list[str]:
        """Remove from paths what made them safe for a spreadsheet."""
        return list(unescape_formulas(pd.DataFrame({"path": pd.Series(paths, dtype=object)}))["path"])


class JsonLinesWriter(TextWriter):
    """A writer of one JSON object a line; missing values of a failed file are null."""

    def read_rows(self, place: Path) -> Iterator[dict[str, Any]]:
        """Yield complete rows."""
        for row in map(json.loads, self.read_texts(place)):
            if list(row) != self.columns:
                raise ValueError(list(row))
            yield row

    def read_texts(self, place: Path) -> Iterator[str]:
        """Yield complete lines."""
        complete = _measure_whole_lines(place, '{"path": ')
        yield from _read_lines(place, complete)
        os.truncate(place, complete)

    def format_rows(self, rows: pd.DataFrame) -> str:
        """Return the lines of rows."""
        return "".join(f"{format_json(row)}\n" for row in list_objects(rows))


class ParquetFileWriter(PredictionWriter):
    """A writer of one Parquet file, at the end or when interrupted, because rows cannot be appended to Parquet."""

    def path_of(self, file: str) -> str:
        """Return the path of a file as Parquet can store it."""
        return escape_path(file)

    def read_rows(self, place: Path) -> Iterator[dict[str, Any]]:
        """Yield the rows."""
        self.earlier = pd.read_parquet(place)
        if list(self.earlier) != self.columns:
            raise ValueError(list(self.earlier))
        yield from (dict(zip(self.columns, row, strict=True)) for row in self.earlier.itertuples(index=False))

    def remove_rows(self, place: Path, paths: Collection[str]) -> None:
        """Remove the rows of some files, of those in `kept`, from an earlier output."""
        with atomic_write(place, alone=False) as part:
            self.earlier[[path not in paths for path in self.kept]].to_parquet(part, index=False)

    def start(self) -> None:
        """Start with the earlier rows, if there are any."""
        self.rows = [self.earlier] if self.kept else []

    def write(self, rows: pd.DataFrame) -> None:
        """Collect rows."""
        self.rows.append(rows.assign(path=rows["path"].map(self.path_of)))
        self.count += len(rows)

    def close(self) -> None:
        """Write all rows atomically."""
        assert self.place is not None
        table = pd.concat(self.rows, ignore_index=True) if self.rows else pd.DataFrame(columns=self.columns)
        try:
            with atomic_write(self.place) as part:
                table.to_parquet(part, index=False)
        except OSError as error:
            raise _make_output_error(self.final, error) from error


def read_predictions(output: str) -> pd.DataFrame:
    """Read the predictions in a .csv or .jsonl file, or in a .parquet file or folder, which may be remote."""
    suffix = Path(output).suffix.lower()
    if suffix == ".csv":
        table = read_csv(output, dtype=str, keep_default_na=False, encoding_errors="surrogateescape")
    elif suffix == ".jsonl":
        with open(output, encoding="utf-8", newline="\n") as lines:
            table = pd.DataFrame(map(json.loads, lines))
    else:
        system, place = open_remote(output) if is_remote(output) else (None, output)
        read: Any = parquet.read_table  # has no annotations
        table = read(place, filesystem=system, partitioning=None).to_pandas()
    numbers = [name for name in map(str, table) if is_number(name)]
    return table.assign(**{name: pd.to_numeric(table[name], errors="coerce") for name in numbers})


def is_number(column: str) -> bool:
    """Return whether a column of predictions holds numbers; the others hold texts."""
    return column in ("confidence", "ood_percentile") or column.startswith("prob_")


def escape_path(file: str) -> str:
    r"""Return a path in UTF-8; other bytes, which Parquet cannot store, are written as \xff."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def list_objects(rows: pd.DataFrame) -> list[dict[Hashable, Any]]:
    """Return rows as JSON objects; missing values are None."""
    return rows.astype(object).where(rows.notna(), None).to_dict("records")


def format_json(row: Mapping[Hashable, Any]) -> str:
    """Return a row as one line of JSON."""
    text = json.dumps(row, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(row)  # escapes the surrogates of names that are not UTF-8


def _measure_whole_lines(file: Path, start: str, quotes: bool = False) -> int:
    """Return the size of a file up to the end of its last complete line; raise ValueError for another start.

    With `quotes`, a line break within quotes does not end a line.
    """
    complete = size = open_quotes = 0
    with file.open("rb") as stream:
        if not start.encode().startswith(stream.read(len(start.encode()))):
            raise ValueError(start)
        stream.seek(0)
        for line in stream:
            size += len(line)
            open_quotes ^= line.count(b'"') & 1 if quotes else 0
            if line.endswith(b"\n") and not open_quotes:
                complete = size
    return complete


def _read_lines(file: Path, size: int) -> Iterator[str]:
    """Yield the lines in the first `size` bytes of a file."""
    with file.open("rb") as stream:
        while stream.tell() < size:
            yield stream.readline().decode("utf-8", errors="surrogateescape")


def _make_output_error(output: str | Path | None, error: OSError) -> OutputError:
    advice = "Free some space, or choose another file: output=FILE"
    return OutputError(f"output={output} cannot be written: {error.strerror or error}.", advice)
