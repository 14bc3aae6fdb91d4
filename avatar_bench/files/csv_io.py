"""Reading and writing of CSV files with untrusted text that spreadsheets must not run as formulas."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import pandas as pd

# Spreadsheets run a cell that starts with one of these signs; numbers and a single dash, an empty cell of a table, are
# harmless. A cell that starts with ' and such a sign gets a further ', so that it is read back as it was.
_FORMULA = r"(?='*[=+\-@\t\r])(?!(?:[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|-)\Z)"
_UNESCAPED, _ESCAPED = re.compile(_FORMULA), re.compile(f"'{_FORMULA}")
_ROWS_PER_PART = 2**14  # escaped at a time, so that a large table is not copied


def escape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with a ' before each text or header that a spreadsheet would run; numbers stay."""
    return _map_texts(frame, lambda text: f"'{text}" if _UNESCAPED.match(text) else text)


def unescape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table without the escapes of `escape_formulas`."""
    return _map_texts(frame, lambda text: text[1:] if _ESCAPED.match(text) else text)


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


def _map_texts(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    def change_text(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    frame = frame.copy(deep=False)
    for n, dtype in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            text_dtype = dtype if isinstance(dtype, pd.StringDtype) else object
            texts = [change_text(value) for value in frame.iloc[:, n]]
            # explicit dtype: inference fails on names that are not UTF-8
            frame.isetitem(n, pd.Series(texts, frame.index, dtype=text_dtype))  # type: ignore[arg-type]
    return frame.set_axis([change_text(name) for name in frame.columns], axis="columns")
