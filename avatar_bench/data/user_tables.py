"""Tables that users write: CSV files, read within bounds, and refused in words."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from avatar_bench.data.file_names import format_name
from avatar_bench.errors import DataError
from avatar_bench.files.csv_io import read_csv

MAX_TABLE_BYTES = 512 * 2**20  # a million images take about 100 MiB
MAX_HEADER_BYTES = 64 * 2**10  # bytes


def read_user_table(file: Path, needed: Sequence[str], known: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a CSV in UTF-8, every value text, "" where a row ends early; of `known` columns those that it has.

    Raise DataError where it is no such file, is too large, lacks a column that is needed or names one twice.
    """
    heading = _read_header(file, needed)
    try:
        # without index_col=False a row that is longer than the header moves every column by one
        table = read_csv(
            file,
            dtype=str,
            keep_default_na=False,
            encoding="utf-8-sig",
            index_col=False,
            usecols=None if known is None else lambda column: column in known,
        )
    except (OSError, ValueError, OverflowError) as error:  # pandas' parser errors and bad UTF-8 are ValueErrors
        raise _make_read_error(file, error) from error
    kept = [column for column in known or heading if column in table]
    return table[kept].fillna("")


def _read_header(file: Path, needed: Sequence[str]) -> list[str]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            start = stream.read(MAX_HEADER_BYTES)
    except (OSError, ValueError) as error:
        raise _make_read_error(file, error) from error
    if size > MAX_TABLE_BYTES:
        raise DataError(
            f"{format_name(str(file))}: larger than {MAX_TABLE_BYTES // 2**20} MiB.",
            "Expected a CSV with a row a file.",
        )
    if b"\0" in start:
        raise DataError(f"{format_name(str(file))} cannot be read as CSV in UTF-8: it holds zero bytes.")
    line = next((line for line in start.splitlines() if line.strip(b'\xef\xbb\xbf"\t ')), b"")
    if len(line) == MAX_HEADER_BYTES:
        raise DataError(f"{format_name(str(file))}: its first line is longer than {MAX_HEADER_BYTES // 2**10} KiB.")
    columns = next(csv.reader([line.decode("utf-8-sig", "replace")]), [])
    _check_columns(file, columns, needed)
    return columns


def _check_columns(file: Path, columns: list[str], needed: Sequence[str]) -> None:
    twice = [column for column, count in Counter(columns).items() if count > 1 and column in needed]
    if twice:
        raise DataError(f"{format_name(str(file))} has the column {twice[0]} twice.", "Expected each column once.")
    missing = [column for column in needed if column not in columns]
    if missing and columns:
        raise DataError(
            f"{format_name(str(file))} has no column {' and '.join(missing)}.",
            f"It has: {format_name(', '.join(columns))}. "
            f"Expected a heading such as {','.join(needed)}, with commas between columns.",
        )


def _make_read_error(file: Path, error: Exception) -> DataError:
    if isinstance(error, OSError) and error.strerror:
        return DataError(f"{format_name(str(file))} cannot be read: {error.strerror}.")
    return DataError(
        f"{format_name(str(file))} cannot be read as CSV in UTF-8: {format_name(' '.join(str(error).split()))}."
    )
