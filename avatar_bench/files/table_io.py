"""Tables of images: a CSV file or, for many rows or on request, a Parquet file of the same stem and columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import pandas as pd

from avatar_bench.files.atomic_write import atomic_write
from avatar_bench.files.csv_io import read_csv, write_csv

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


def write_table(table: pd.DataFrame, file: Path, float_format: str | None = None) -> Path:
    """Write a table, given the name of its CSV, atomically; return its file, and remove one of the other format."""
    place = file.with_name(name_table(table, file.stem))
    with atomic_write(place) as part:
        if place.suffix == ".csv":
            write_csv(table, part, float_format=float_format)
        else:
            _make_uniform(table).to_parquet(part, index=False)
    for other in {file, file.with_suffix(".parquet")} - {place}:
        other.unlink(missing_ok=True)
    return place


def read_table(
    file: Path, columns: Sequence[str] | None = None, rows: int | None = None, texts: Sequence[str] | None = ()
) -> pd.DataFrame:
    """Read a table, given its file or the name of its CSV: some `columns`, the first `rows`; only "" is missing.

    The columns `texts` are strings; None means all, without missing values. Raise OSError, or ValueError for a damaged
    file.
    """
    place = find_table(file)
    if place.suffix == ".parquet":
        return _read_parquet(place, columns, rows, texts is None)
    dtype = str if texts is None else dict.fromkeys(texts, str)
    missing = [] if texts is None else [""]
    return read_csv(place, usecols=columns, nrows=rows, dtype=dtype, keep_default_na=False, na_values=missing)


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
