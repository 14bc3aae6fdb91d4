"""Numbers and intervals as text, with the decimals that they deserve."""

from __future__ import annotations

import math

_MOST_DIGITS = 6


def count_digits(value: float, low: float | None = None, high: float | None = None) -> int:
    """Return the number of decimals for a number, or for a number and the ends of its interval.

    Enough to show its size or, where the interval is narrower, the width of the interval; none for counts.
    """
    size = abs(value)
    few = 3 if size <= 1 else 2 if size < 10 else 1 if size < 100 else 0
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
