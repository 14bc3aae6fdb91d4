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


def read_user_table(file: Path, needed: Sequence[str], known: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a CSV in UTF-8, or a .parquet, as strings, "" where a row ends early; only the columns in `known`, if given.

    An integer of -1 in a column `label` is unknown, as on the Hugging Face hub. Raise DataError for any other table.
    """
    if file.suffix.lower() == ".parquet":
        return _read_parquet(file, needed, known)
    heading = _read_header(file, needed)
    try:
        _refuse_long_rows(file, len(heading))
        # without index_col=False, a comma at the end of each row shifts every column by one
        table = read_csv(
            file,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            usecols=lambda column: known is None or column in known,
        )
    except (OSError, ValueError, OverflowError, csv.Error) as error:  # pandas' errors and bad UTF-8 are ValueErrors
        raise _make_read_error(file, error) from error
    return table[[column for column in known or heading if column in table]].fillna("")


def locate_rows(file: Path, n: int) -> list[str]:
    """Return where each of the `n` rows of a table is in its file: "line 2", or "row 1" of one without lines."""
    places: list[str] = []
    if file.suffix.lower() != ".parquet":
        with file.open(encoding="utf-8-sig", newline="") as lines:
            reader = csv.reader(lines)
            # pandas skips blank lines
            places = [f"line {reader.line_num}" for cells in reader if len(cells) > 1 or "".join(cells).strip()][1:]
    return places if len(places) == n else [f"row {row + 1}" for row in range(n)]


def _read_parquet(file: Path, needed: Sequence[str], known: Sequence[str] | None) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        _check_size(file, file.stat().st_size)
        columns = pq.read_schema(file).names  # type: ignore[no-untyped-call]
        _check_columns(file, columns, needed)
        table = read_table(file, [name for name in columns if known is None or name in known], texts=None)
        if "label" in table and pa.types.is_integer(pq.read_schema(file).field("label").type):  # type: ignore[no-untyped-call]
            table["label"] = table["label"].replace("-1", "")
        return table
    except (OSError, ValueError) as error:  # pyarrow's errors are of these kinds
        raise _make_read_error(file, error) from error


def _check_size(file: Path, size: int) -> None:
    if size > MAX_TABLE_BYTES:
        reason = f"{format_name(str(file))}: larger than {MAX_TABLE_BYTES // 2**20} MiB."
        raise DataError(reason, "Expected a table with one row per file.")


def _read_header(file: Path, needed: Sequence[str]) -> list[str]:
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
    columns = next(csv.reader([line.decode("utf-8-sig", "replace")]), [])
    _check_columns(file, columns, needed)
    return columns


def _refuse_long_rows(file: Path, columns: int) -> None:
    """Raise DataError for a row with text after its last column, as after a comma too many; pandas would drop it."""
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines)
        for cells in filter(None, reader):
            if any(map(str.strip, cells[columns:])):
                location = f"{format_name(str(file))}, line {reader.line_num}"
                raise DataError(
                    f"{location}: {len(cells)} cells, but the header has {columns}.",
                    'Remove the comma that is too many, or quote the cell that contains it: "Adobe, Inc"',
                )


def _check_columns(file: Path, columns: list[str], needed: Sequence[str]) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1 and column in needed]
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
