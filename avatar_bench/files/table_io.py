"""Tables in CSV and, of many images or on request, in Parquet; no spreadsheet runs text of others as a formula."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pandas as pd

from avatar_bench.files.atomic_write import atomic_write

MAX_CSV_ROWS = 1_000_000

_format: ContextVar[str] = ContextVar("table_format", default="auto")


@contextmanager
def use_table_format(name: str) -> Iterator[None]:
    """Write tables of images as csv, parquet or auto, Parquet above MAX_CSV_ROWS, inside the `with`."""
    token = _format.set(name)
    try:
        yield
    finally:
        _format.reset(token)


def name_table(table: pd.DataFrame, name: str) -> str:
    """Return the file name of a table: NAME.csv or, of a table of images (with a column path), NAME.parquet."""
    is_parquet = _format.get() == "parquet" or (_format.get() == "auto" and len(table) > MAX_CSV_ROWS)
    return f"{name}.parquet" if "path" in table and is_parquet else f"{name}.csv"


def find_table(file: Path) -> Path:
    """Return the file that contains a table, given the name of its CSV: that, or the .parquet beside it."""
    other = f"{os.path.splitext(file)[0]}.parquet"
    return Path(other) if os.path.isfile(other) and not os.path.isfile(file) else file


def write_table(table: pd.DataFrame, file: Path) -> Path:
    """Write a table, given the name of its CSV, atomically; return its file, and remove one of the other format."""
    path = file.with_name(name_table(table, file.stem))
    with atomic_write(path) as part:
        if path.suffix == ".csv":
            write_csv(table, part)
        else:
            _make_uniform(table).to_parquet(part, index=False)
    for other in {file, file.with_suffix(".parquet")} - {path}:
        other.unlink(missing_ok=True)
    return path


def read_table(
    file: Path, columns: Sequence[str] | None = None, rows: int | None = None, texts: Sequence[str] | None = ()
) -> pd.DataFrame:
    """Read a table, given its file or the name of its CSV: some `columns`, the first `rows`; only "" is missing.

    The columns `texts` are strings; None means all, without missing values. Raise OSError, or ValueError.
    """
    path = find_table(file)
    if path.suffix == ".parquet":
        return _read_parquet(path, columns, rows, texts is None)
    dtype = str if texts is None else dict.fromkeys(texts, str)
    missing = [] if texts is None else [""]
    return read_csv(path, usecols=columns, nrows=rows, dtype=dtype, keep_default_na=False, na_values=missing)


def _read_parquet(file: Path, columns: Sequence[str] | None, rows: int | None, as_text: bool) -> pd.DataFrame:
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    if rows is not None:
        table = ds.dataset(file, format="parquet").head(rows, columns=columns)  # type: ignore[no-untyped-call]
    else:
        with pq.ParquetFile(file) as stored:  # type: ignore[no-untyped-call]
            table = stored.read(columns)
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, integer_object_nulls=as_text)
    if as_text:
        return frame.astype(object).where(frame.notna(), "").astype(str)
    words = [str(name) for name in frame if not pd.api.types.is_numeric_dtype(frame[name].dtype)]
    return frame.assign(**{name: frame[name].where(frame[name] != "") for name in words})


def _make_uniform(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose columns of several types are strings, as in a CSV."""
    kinds = {name: pd.api.types.infer_dtype(table[name], skipna=True) for name in table}
    mixed = [str(name) for name, kind in kinds.items() if kind.startswith("mixed")]
    return table.assign(
        **{name: table[name].astype(object).where(table[name].isna(), table[name].astype(str)) for name in mixed}
    )


# Spreadsheets run a cell that starts with one of these signs; numbers and a single dash, an empty cell of a table, are
# harmless. A cell that starts with ' and such a sign gets a further ', so that it is read back as it was.
_FORMULA = r"(?='*[=+\-@\t\r])(?!(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|-)\Z)"
_UNESCAPED, _ESCAPED = re.compile(_FORMULA), re.compile(f"'{_FORMULA}")
# in a column `path`, ./ instead, so that other programs find the file
_UNESCAPED_PATH, _ESCAPED_PATH = re.compile(rf"(?:\./)*{_FORMULA}"), re.compile(rf"(?:\./)+{_FORMULA}")
_ROWS_PER_PART = 2**14  # escaped at a time, so that a large table is not copied


def escape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a ' (a path: ./) before each text or header that a spreadsheet would run; numbers stay."""

    def escape(text: str, is_path: bool) -> str:
        if is_path:
            return f"./{text}" if _UNESCAPED_PATH.match(text) else text
        return f"'{text}" if _UNESCAPED.match(text) else text

    return _map_texts(frame, escape)


def unescape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table without the escapes of `escape_formulas`; earlier versions put ' before paths too."""

    def unescape(text: str, is_path: bool) -> str:
        if is_path and _ESCAPED_PATH.match(text):
            return text[2:]
        return text[1:] if _ESCAPED.match(text) else text

    return _map_texts(frame, unescape)


def write_csv(frame: pd.DataFrame, target: Any, **options: Any) -> None:
    """Write a table, without its index, as a CSV file or stream that is safe to open; options are those of pandas."""
    # before Python 3.13, csv does not quote a carriage return, which readers take for the end of a row
    returns = any("\r" in str(name) or _has_carriage_return(frame.iloc[:, n]) for n, name in enumerate(frame))
    options["quoting"] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
    for start in range(0, max(1, len(frame)), _ROWS_PER_PART):
        if start:
            options |= {"mode": "a", "header": False}
        escape_formulas(frame.iloc[start : start + _ROWS_PER_PART]).to_csv(target, index=False, **options)


def format_csv(frame: pd.DataFrame, **options: Any) -> str:
    """Return a table as the text that `write_csv` writes, with the same options."""
    text = io.StringIO(newline="")
    write_csv(frame, text, lineterminator="\n", **options)
    return text.getvalue()


def read_csv(source: Any, **options: Any) -> pd.DataFrame:
    """Read a CSV file that `write_csv` may have written; sources and options are those of pandas."""
    return unescape_formulas(pd.read_csv(source, **options))


def _has_carriage_return(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column.dtype) and any(
        "\r" in value for value in column if isinstance(value, str)
    )


def _map_texts(frame: pd.DataFrame, change: Callable[[str, bool], str]) -> pd.DataFrame:
    def change_text(value: Any, column: Any = "") -> Any:
        return change(value, column == "path") if isinstance(value, str) else value

    frame = frame.copy(deep=False)
    for n, dtype in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            text_dtype = dtype if isinstance(dtype, pd.StringDtype) else object
            texts = [change_text(value, frame.columns[n]) for value in frame.iloc[:, n]]
            # explicit dtype: inference fails on names that are not UTF-8
            frame.isetitem(n, pd.Series(texts, frame.index, dtype=text_dtype))  # type: ignore[arg-type]
    return frame.set_axis([change_text(name) for name in frame.columns], axis="columns")
