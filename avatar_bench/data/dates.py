"""Dates of images, known to the day, the month or the year, and the periods that they fall into."""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Callable
from datetime import date
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd  # slow to import, and not needed to check an option

DATE_FORM = "YYYY, YYYY-MM or YYYY-MM-DD"
PERIODS = {"year": 12, "half": 6, "quarter": 3, "month": 1}  # in months
BEFORE, AFTER = "before", "after"
_FORM = re.compile(r"\d{4}(-\d\d){0,2}", re.ASCII)


class Days(NamedTuple):
    """First and last day that a date may mean."""

    first: date
    last: date


@cache
def find_days(text: str) -> Days | None:
    """Return the days that YYYY, YYYY-MM or YYYY-MM-DD may mean; None for another text or no day of the calendar."""
    if not _FORM.fullmatch(text):
        return None
    try:
        first = date.fromisoformat(text + "-01-01"[len(text) - 4 :])
    except ValueError:
        return None
    month = 12 if len(text) == 4 else first.month
    return Days(first, first if len(text) == 10 else date(first.year, month, monthrange(first.year, month)[1]))


def is_date(text: str) -> bool:
    """Return whether a text is a date in DATE_FORM."""
    return find_days(text) is not None


def place_by_date(dates: pd.Series, released: pd.Series, until: str) -> pd.Series:
    """Return BEFORE for images made until the last day of `until`, AFTER for later ones, "" where it is not known.

    Where `dates` has none, an image is AFTER if its generator was `released` later, since it cannot be older.
    """
    cut = find_days(until)
    assert cut is not None

    def find_side(text: str) -> str:
        days = find_days(text)
        return "" if days is None else BEFORE if days.last <= cut.last else AFTER if days.first > cut.last else ""

    by_release = map_texts(released, find_side).replace(BEFORE, "")
    return map_texts(dates, find_side).where(dates != "", by_release)


def map_texts(texts: pd.Series, function: Callable[[str], str]) -> pd.Series:
    """Return the result of a function for each text, which is computed once for equal ones."""
    return texts.map({text: function(text) for text in texts.unique()})


def name_period(text: str, length: str) -> str:
    """Return the period of PERIODS that a date is in: 2024, 2024-H1, 2024-Q2 or 2024-06; "" if it may be in several."""
    days, months = find_days(text), PERIODS[length]
    if days is None:
        return ""
    first, last = ((day.year, (day.month - 1) // months) for day in days)
    if first != last:
        return ""
    year, index = first
    return f"{year:04}" + {12: "", 6: f"-H{index + 1}", 3: f"-Q{index + 1}", 1: f"-{index + 1:02}"}[months]


def locate_period(name: str) -> tuple[float, float]:
    """Return the beginning and the end of a named period in years: (2024.5, 2025.0) for 2024-H2."""
    year, _, part = name.partition("-")
    parts = {"": 1, "H": 2, "Q": 4}.get(part[:1], 12)
    index = int(part.lstrip("HQ") or 1) - 1
    return int(year) + index / parts, int(year) + (index + 1) / parts


def locate_end(text: str) -> float:
    """Return the end of the last day that a date may mean, in years: 2024.5 for 2024-06."""
    days = find_days(text)
    assert days is not None
    last = days.last
    return last.year + (last.month - 1 + last.day / monthrange(last.year, last.month)[1]) / 12
