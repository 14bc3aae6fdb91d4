"""Cells of CSV files that hold strangers' text, such that no spreadsheet takes one for a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable
from typing import Any

import pandas as pd

# a spreadsheet runs what follows one of these signs, also behind quotes and blanks that it drops; where commas do not
# part its cells, semicolons and tabs do, so what stands after one of those may be the start of a cell as well
_FORMULA_SIGNS = "=+\\-@＝＋－＠﹦﹢﹣﹫−"
_SEPARATORS = ";\\t\\r\\n"
_IGNORED = rf"(?:['\"‘’“”\ufeff\u200b]|[^\S{_SEPARATORS}])*"
_NUMBER = rf"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?(?:\Z|[{_SEPARATORS}])"
_DASH = rf"-(?:\Z|[{_SEPARATORS}])"  # stands for nothing in a table
_FORMULA = rf"(?={_IGNORED}[{_FORMULA_SIGNS}])(?!{_NUMBER}|{_DASH})"
_CONTROL = rf"(?='*[{_SEPARATORS[1:]}])"
_UNESCAPED = re.compile(rf"^{_CONTROL}|(^|[{_SEPARATORS}]){_FORMULA}")
_ESCAPED = re.compile(rf"^'{_CONTROL}|(^|[{_SEPARATORS}])'{_FORMULA}")


def escape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the table with a ' before each text, header or part of one that a spreadsheet would run; numbers stay."""
    return _map_texts(frame, lambda text: _UNESCAPED.sub(r"\1'", text))


def unescape_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the table of which spreadsheet_safe made this one."""
    return _map_texts(frame, lambda text: _ESCAPED.sub(r"\1", text))


def write_csv(frame: pd.DataFrame, target: Any, **options: Any) -> None:
    """Write a table, without its index, as a CSV file or stream that a spreadsheet may open; options are pandas'."""
    safe = escape_formulas(frame)
    # csv of Python before 3.13 leaves a carriage return outside quotes, where it ends a row for those who read it
    returns = any("\r" in str(name) or _has_carriage_return(safe.iloc[:, n]) for n, name in enumerate(safe))
    safe.to_csv(target, index=False, quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL, **options)


def format_csv(frame: pd.DataFrame) -> str:
    """Give what write_csv writes."""
    text = io.StringIO()
    write_csv(frame, text)
    return text.getvalue()


def read_csv(source: Any, **options: Any) -> pd.DataFrame:
    """Read a CSV file that write_csv may have written; options, and what may be read, are pandas'."""
    return unescape_formulas(pd.read_csv(source, **options))


def _has_carriage_return(column: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(column.dtype) and any(
        "\r" in value for value in column if isinstance(value, str)
    )


def _map_texts(frame: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    def changed(value: Any) -> Any:
        return change(value) if isinstance(value, str) else value

    frame = frame.copy(deep=False)
    for n, dtype in enumerate(frame.dtypes):
        if not pd.api.types.is_numeric_dtype(dtype):
            kept = dtype if isinstance(dtype, pd.StringDtype) else object
            texts = [changed(value) for value in frame.iloc[:, n]]
            # not guessed: that fails on names that are not UTF-8
            frame.isetitem(n, pd.Series(texts, frame.index, dtype=kept))  # type: ignore[arg-type]
    return frame.set_axis([changed(name) for name in frame.columns], axis="columns")
