"""What is shown of runs, results and predictions: numbers, HTML for notebooks, and the cautions of every prediction."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from typing import Any

import pandas as pd

from avatar_bench.config.entries import find_entries
from avatar_bench.console.terminal import escape_control_characters
from avatar_bench.i18n import _

_MAX_ROWS = 20
_MOST_DIGITS = 6  # decimals of an interval


def format_text(text: object) -> str:
    """Return a text as one escaped line, which may hold names from files."""
    return escape(escape_control_characters(text))


def format_frame(table: pd.DataFrame, header: bool = True) -> str:
    """Return the first rows of a table, and the number of rows if there are more."""
    shown = table.head(_MAX_ROWS).map(
        lambda value: escape_control_characters(value) if isinstance(value, str) else value
    )
    text = shown.to_html(header=header, index=False, border=0, na_rep="", float_format="{:.3f}".format)
    return text if len(table) <= _MAX_ROWS else f"{text}<p>{_MAX_ROWS} of {len(table):,} rows</p>"


def format_latex(table: pd.DataFrame, column_format: str) -> str:
    """Return a table of texts and integers in LaTeX, which needs the package booktabs."""
    styled = table.style.hide(axis="index").format(escape="latex")
    return styled.to_latex(hrules=True, column_format=column_format).replace("−", "$-$").replace("–", "--")


def format_pairs(pairs: Iterable[tuple[str, Any]]) -> str:
    """Return names with their values as a table of two columns, without those that are unknown or empty."""
    known = [(name, value) for name, value in pairs if value not in (None, "")]
    return format_frame(pd.DataFrame(known), header=False)


def format_predictions(table: pd.DataFrame) -> str:
    """Return rows of predictions with the cautions of every prediction, and of the further columns that they have."""
    known: list[Any] = [entry.load_class() for entry in find_entries("prediction_column").values()]
    cautions = list_cautions(columns_of_entry for columns_of_entry in known if {*columns_of_entry.names} <= {*table})
    return format_frame(table) + "".join(f"<p>{format_text(caution)}</p>" for caution in cautions)


def list_cautions(columns: Iterable[Any] = ()) -> list[str]:
    """Return the two cautions of every prediction, and those of further PredictionColumns, in the current language."""
    return [
        _("A prediction means that an image resembles the training images of a class; it does not prove its origin."),
        _("On sources other than those it was evaluated on, a network can be far less accurate."),
        *(caution for column in columns for caution in column.list_cautions()),
    ]


def count_digits(value: float, low: float | None = None, high: float | None = None) -> int:
    """Return the number of decimals for a number, or for a number and the ends of its interval.

    Enough to show its size or, where the interval is narrower, the width of the interval; none for counts.
    """
    size = abs(value)
    few = 0 if isinstance(value, int) or size >= 100 else 3 if size <= 1 else 2 if size < 10 else 1
    if low is None or high is None:
        return few
    if high > 1 and all(float(end).is_integer() for end in (value, low, high)):
        return 0
    return max(few, min(_MOST_DIGITS, math.ceil(-math.log10(high - low)))) if high > low else few


def format_number(value: float, places: int | None = None) -> str:
    """Format a number with a suitable or the given number of decimals: 0.687, 4.23, 53.4, 1103."""
    tiny = places is None and 0 < abs(value) < 0.0005
    text = f"{value:.0e}" if tiny else f"{value:.{count_digits(value) if places is None else places}f}"
    return (text[1:] if text.startswith("-") and not text.strip("-0.") else text).replace("-", "−")  # minus sign


def format_value(value: float, low: float | None = None, high: float | None = None) -> str:
    """Format a value and the ends of its interval, if any, with the same number of decimals."""
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return format_number(value)
    text, *ends = (format_number(number, count_digits(value, low, high)) for number in (value, low, high))
    return f"{text} [{', '.join(ends)}]"
