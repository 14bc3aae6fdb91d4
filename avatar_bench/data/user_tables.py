"""Reading of tables written by users, with size limits and clear errors."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from avatar_bench.console.terminal import format_name
from avatar_bench.errors import DataError
from avatar_bench.files.table_io import read_csv, read_table

MAX_TABLE_BYTES = 512 * 2**20  # a million rows take about 100 MiB
MAX_HEADER_BYTES = 64 * 2**10
_ADVICE = "Save it as CSV in UTF-8: a header, then a row for each file, with commas between columns."


def read_user_table(
    file: Path, needed: Sequence[str], known: Sequence[str] | None = None, names: Sequence[str] = ()
) -> pd.DataFrame:
    """Read a CSV in UTF-8, or a .parquet, as strings, "" where a row ends early; only the columns in `known`, if given.

    What is `needed`, `known` or in `names` may be written in any case, and semicolons may separate columns. An integer
    of -1 in a column `label` is unknown, as on the Hugging Face hub. Raise DataError for any other table.
    """
    names = (*needed, *(known or ()), *names)
    if file.suffix.lower() == ".parquet":
        return _read_parquet(file, needed, known, names)
    heading, separator = split_header(_read_first_line(file), names)
    _check_columns(file, heading, needed, names)
    try:
        _refuse_long_rows(file, len(heading), separator)
        # without index_col=False, a comma at the end of each row shifts every column by one
        table = read_csv(
            file,
            sep=separator,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            usecols=lambda column: known is None or find_column(column, names) in known,
        ).rename(columns=lambda column: find_column(column, names))
    except (OSError, ValueError, OverflowError, csv.Error) as error:  # pandas' errors and bad UTF-8 are ValueErrors
        raise _make_read_error(file, error) from error
    return table[[column for column in known or heading if column in table]].fillna("")


def split_header(line: str, names: Sequence[str]) -> tuple[list[str], str]:
    """Return the columns of a header, `names` as they are there, and what separates them: a comma, or a semicolon."""
    columns = next(csv.reader([line]), [])
    separator = ";" if len(columns) == 1 and ";" in line else ","
    return [find_column(column, names) for column in next(csv.reader([line], delimiter=separator), [])], separator


def find_column(column: str, names: Sequence[str]) -> str:
    """Return the one of `names` that a column has in any case, else the column."""
    return lower if (lower := column.strip().lower()) in names else column


def locate_rows(file: Path, n: int) -> list[str]:
    """Return where each of the `n` rows of a table is in its file: "line 2", or "row 1" of one without lines."""
    places: list[str] = []
    if file.suffix.lower() != ".parquet":
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)  # whose lines are the same with semicolons
            # pandas skips blank lines
            places = [f"line {reader.line_num}" for cells in reader if len(cells) > 1 or "".join(cells).strip()][1:]
    return places if len(places) == n else [f"row {row + 1}" for row in range(n)]


def _read_parquet(file: Path, needed: Sequence[str], known: Sequence[str] | None, names: Sequence[str]) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_size(file, file.stat().st_size)
        schema = pq.read_schema(file)  # type: ignore[no-untyped-call]
        columns = {name: find_column(name, names) for name in schema.names}
        _check_columns(file, list(columns.values()), needed, names)
        wanted = [name for name, column in columns.items() if known is None or column in known]
        table = read_table(file, wanted, texts=None).rename(columns=columns)
        kinds = dict(zip(columns.values(), schema.types, strict=True))
        if "label" in table and pa.types.is_integer(kinds["label"]):
            table["label"] = table["label"].replace("-1", "")
        return table
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        raise _make_read_error(file, error) from error


def _check_size(file: Path, size: int) -> None:
    if size > MAX_TABLE_BYTES:
        reason = f"{format_name(str(file))}: larger than {MAX_TABLE_BYTES // 2**20} MiB."
        raise DataError(reason, "Expected a table with one row per file.")


def _read_first_line(file: Path) -> str:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(MAX_HEADER_BYTES)
    except (OSError, ValueError) as error:
        raise _make_read_error(file, error) from error
    _check_size(file, size)
    if b"\0" in start:
        raise DataError(f"{format_name(str(file))} cannot be read as CSV in UTF-8: it contains null bytes.", _ADVICE)
    line = next((line for line in start.splitlines() if line.strip(b'\xef\xbb\xbf"\t ')), b"")
    if len(line) == MAX_HEADER_BYTES:
        raise DataError(f"{format_name(str(file))}: its first line is longer than {MAX_HEADER_BYTES // 2**10} KiB.")
    return line.decode("utf-8-sig", "replace")


def _refuse_long_rows(file: Path, columns: int, separator: str) -> None:
    """Raise DataError for a row with text after its last column, as after a comma too many; pandas would drop it."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, delimiter=separator)
        for cells in filter(None, reader):
            if any(map(str.strip, cells[columns:])):
                location = f"{format_name(str(file))}, line {reader.line_num}"
                raise DataError(
                    f"{location}: {len(cells)} cells, but the header has {columns}.",
                    'Remove the comma that is too many, or quote the cell that contains it: "Adobe, Inc"',
                )


def _check_columns(file: Path, columns: list[str], needed: Sequence[str], names: Sequence[str]) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1 and column in names]
    if twice:
        raise DataError(f"{format_name(str(file))} has the column {twice[0]} twice.", "Expected each column once.")
    missing = [column for column in needed if column not in columns]
    if missing and columns:
        raise DataError(
            f"{format_name(str(file))} has no column {' and '.join(missing)}.",
            f"It has: {format_name(', '.join(columns))}. "
            f"Expected a header such as {','.join(needed)}, with commas between columns.",
        )


def _make_read_error(file: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{format_name(str(file))} cannot be read: {error.strerror}.")
    kind, *advice = ("Parquet",) if file.suffix.lower() == ".parquet" else ("CSV in UTF-8", _ADVICE)
    reason = format_name(" ".join(str(error).split()))
    return DataError(f"{format_name(str(file))} cannot be read as {kind}: {reason}.", *advice)
